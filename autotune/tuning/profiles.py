"""The combined result of several profiles of the same models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autotune.config import Precision


def summary(
    rounds: Sequence[Sequence[Mapping[str, float]]], precisions: Mapping[str, Sequence[Precision | None]]
) -> dict[str, dict[str, tuple[float, float]]]:
    """By op and precision, the median over rounds and its standard error.

    Each round is first brought to the same pace, so that a busy spell of the machine is no noise of the ops.

    Args:
        rounds: By round, by model, seconds by op; the fp32 model comes first.
        precisions: By op, its precision in each further model; None where that model has nothing to say of it.

    Returns:
        Ops that the fp32 model and the others have in every round.
    """
    totals = [sum(models[0].values()) for models in rounds]
    typical = float(np.median(totals))
    paces = [typical / total if total > 0 else 1.0 for total in totals]
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for op, wanted in precisions.items():
        by: dict[str, tuple[float, float]] = {}
        for index, precision in enumerate((Precision.FP32, *wanted)):
            if precision is None or not all(op in models[index] for models in rounds):
                continue
            if index and precision is Precision.FP32:
                continue
            seconds = [models[index][op] * pace for models, pace in zip(rounds, paces, strict=True)]
            noise = float(np.std(seconds, ddof=1)) / math.sqrt(len(seconds)) if len(seconds) > 1 else math.inf
            by[str(precision)] = (float(np.median(seconds)), noise)
        if str(Precision.FP32) in by and len(by) > 1:
            found[op] = by
    return found
