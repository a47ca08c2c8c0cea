"""Fallback along the order of the error that quantizing each op causes."""

from __future__ import annotations

from autotune.config import FP32
from autotune.strategies.planning.moves import fallback_order
from autotune.strategies.planning.planned import Plan, PlannedStrategy
from autotune.strategy import Problem, Proposal


class Mse(PlannedStrategy):
    """Returns ops to fp32 one after the other, the one whose quantization disturbs the outputs most first.

    The order comes from the mean squared error at the model's outputs with one op quantized at a time; it is measured
    once and not corrected. Steps are never undone.

    Costs: one evaluation per op that has to fall back, plus one. Choose it where the loss sits in a few ops and a
    simple, predictable search is wanted; ``mse_v2`` also corrects its order.

    Follows the strategy of that name in Intel Neural Compressor 1.x.
    """

    def plan(self, problem: Problem) -> Plan:
        """The preferred config, then one more op in fp32 at a time."""
        config = problem.space.preferred
        trial = yield Proposal(config=config, note="every op as preferred", needs_accuracy=True)
        for op in fallback_order(problem):
            if trial.met:
                return "target met"
            config = config.replace({op: FP32})
            trial = yield Proposal(config=config, note=f"{op} back to fp32 too", needs_accuracy=True)
        return "target met" if trial.met else "target missed with every op that can in fp32"
