"""Fallback along second-order sensitivity."""

from __future__ import annotations

from typing import Literal

from autotune.config import FP32
from autotune.errors import StrategyError
from autotune.notes import counted
from autotune.strategies.planning.moves import can_fall_back, cost_of
from autotune.strategies.planning.planned import Plan, PlannedStrategy
from autotune.strategy import Problem, Proposal


class Hawq(PlannedStrategy):
    """Ranks ops by the mean of the Hessian's diagonal times their squared quantization error, and bisects that order.

    The trace is estimated with Hutchinson's method, of probes by an adapter that can differentiate its models, or by
    the framework of the user's module, whose ops have the same names on every runtime. The
    fewest ops in fp32 that keep the target are found by bisection, which takes the loss to fall along the order.

    Costs: two evaluations plus log2 of the number of ops that can fall back, besides the gradients. Choose it for
    modules of PyTorch where output errors of single ops rank badly.

    Papers: HAWQ-V2, Dong et al., NeurIPS 2020 (arXiv 1911.03852); the bisection follows arXiv 2302.01382.
    """

    def __init__(self, *, loss: Literal["outputs", "labels"] = "outputs") -> None:
        """Choose the loss whose Hessian is taken.

        Args:
            loss: ``outputs``: the squared change of the outputs against fp32's own. ``labels``: the cross entropy of
                the outputs, which are scores of classes, with the labels of the calibration data.

        Raises:
            StrategyError: ``loss`` is neither.
        """
        super().__init__()
        if loss not in ("outputs", "labels"):
            raise StrategyError(f"`loss` must be 'outputs' or 'labels', but got {loss!r}")
        self.loss = loss

    def plan(self, problem: Problem) -> Plan:
        """Bisect the number of ops in fp32.

        Raises:
            StrategyError: Neither the adapter nor the framework of the user's model gives gradients.
            DataError: The loss is of labels, and the calibration data have none, or others than classes.
        """
        ranking = problem.insights.hessian_sensitivity(labelled=self.loss == "labels")
        if ranking is None:
            raise StrategyError(
                "Strategy 'hawq' needs gradients, but this model gives none: a runtime cannot differentiate a file. "
                "Tune the PyTorch module that it was exported from, on any runtime, or take 'mse_v2' or 'auto', which "
                "rank ops by their output error"
            )
        order = sorted(can_fall_back(problem.space), key=lambda op: -ranking.get(op, 0.0))
        preferred = problem.space.preferred
        trial = yield Proposal(config=preferred, note="every op as preferred", needs_accuracy=True)
        if trial.met:
            return "target met with every op as preferred"
        low, high, best = 0, len(order), None
        while high - low > 1 or best is None:
            count = (low + high) // 2 if high - low > 1 else high
            config = preferred.replace(dict.fromkeys(order[:count], FP32))
            trial = yield Proposal(config=config, note=f"the first {counted(count, 'op')} in fp32", needs_accuracy=True)
            if trial.met:
                high, best = count, trial
            elif count == high:
                return "target missed with every op that can in fp32"
            else:
                low = count
        faster = cost_of(problem, best) < 1
        return "target met with the fewest ops in fp32" + ("" if faster else ", yet nothing was gained by it")
