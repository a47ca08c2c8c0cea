"""What strategies that fall back to fp32 op by op are written with: plans, and the moves that plans are made of."""

from autotune.strategies.planning.planned import PlannedStrategy

__all__ = ["PlannedStrategy"]
