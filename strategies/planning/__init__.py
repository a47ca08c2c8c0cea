"""Building blocks of strategies that fall back to fp32 op by op: plans, and the moves that make a plan."""

from autotune.strategies.planning.planned import PlannedStrategy

__all__ = ["PlannedStrategy"]
