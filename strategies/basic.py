"""Type-wise first, then op by op: the order that users of iLiT, LPOT and Neural Compressor know."""

from __future__ import annotations

import itertools

from autotune.bounds import require_least
from autotune.config import FP32
from autotune.errors import StrategyError
from autotune.strategies.planning.moves import cost_of, fallback_order, loss_of, uniform_configs
from autotune.strategies.planning.planned import Plan, PlannedStrategy
from autotune.strategy import Problem, Proposal
from autotune.trial import Trial


class Basic(PlannedStrategy):
    """Tries a handful of configs that treat all ops alike; falls back op by op to fp32 where none keeps the target.

    The uniform configs are all tried, also when the first one keeps the target, since another may be faster. When none
    does, the most accurate one is taken and its ops return to fp32 one at a time, the most sensitive first. A step
    stays when it lowers the loss, or the cost at no more loss; otherwise it is undone. The first config that keeps the
    target ends the search.

    Costs: at most ``uniform`` evaluations where plain quantization is accurate enough, else one more for every op that
    can fall back (a one-off pass for the sensitivities aside). Choose it to compare with those tools, or where a model
    needs two or three ops in fp32; ``auto`` finds faster models in fewer evaluations.

    Follows the tuning order of Intel Neural Compressor 1.x (``basic``), with the impact of an op estimated from its
    output error instead of a full evaluation each.
    """

    def __init__(self, *, uniform: int = 8) -> None:
        """Choose the budget of the first phase.

        Args:
            uniform: The largest number of uniform configs to try.

        Raises:
            StrategyError: ``uniform`` is less than 1.
        """
        super().__init__()
        require_least(1, StrategyError, uniform=uniform)
        self.uniform = uniform

    def plan(self, problem: Problem) -> Plan:
        """Uniform configs, then fallback from the most accurate one."""
        tried: list[Trial] = []
        for config, note in itertools.islice(uniform_configs(problem.space), self.uniform):
            trial = yield Proposal(config=config, note=note, needs_accuracy=True)
            tried.append(trial)
        if any(trial.met for trial in tried):
            return "target met by a uniform config, and all of them were tried"
        best = min(tried, key=lambda trial: (loss_of(trial), cost_of(problem, trial)))
        for op in fallback_order(problem):
            if best.config[op] == FP32:
                continue
            config = best.config.replace({op: FP32})
            trial = yield Proposal(config=config, note=f"{op} back to fp32", needs_accuracy=True)
            if trial.met:
                return "target met"
            if _helps(problem, trial, best):
                best = trial
        return "target missed although every op that can was tried in fp32"


def _helps(problem: Problem, trial: Trial, best: Trial) -> bool:
    """Whether the step from ``best`` to ``trial`` lowers the loss, or the cost at no more loss."""
    loss, cost = loss_of(trial), cost_of(problem, trial)
    return loss < loss_of(best) or (loss <= loss_of(best) and cost < cost_of(problem, best))
