"""A choice whose outputs are close enough to fp32's, found by output errors of whole choices instead of evaluations.

Errors of single ops and of groups do not add up where ops interact: a Concat of boxes and scores in int8 destroys the
scores whether what it joins is in int8 or not, and with the Concat in fp32 the next op does so. Every prediction is
wrong then, and so is each choice made by it. The output error of a whole choice is not, and costs a few inferences. So
the shortest prefix of the ranking with an error that can be tolerated is found by bisection; then parts of it that did
not matter are quantized again, as delta debugging does (Zeller and Hildebrandt, IEEE Transactions on Software
Engineering 28, 2002).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from autotune.strategies.auto.prediction import Vector
from autotune.strategies.auto.program import Flags

_PARTS = 8
"""How many parts of a prefix are tried in int8 again."""

_KEPT_BACK = 0.6
"""Share of the tolerable error that the prefix may take; the rest is for what is quantized again."""


def within_reach(
    order: Sequence[int], gain: Vector, error_of: Callable[[Flags], float], tolerable: float
) -> Flags | None:
    """The choice with few steps towards fp32 whose output error is tolerable.

    Args:
        order: The steps, those that seem to matter most first.
        gain: Cost of each step, (n,).
        error_of: The output error of a choice; not a number where there is no time to measure it.
        tolerable: The largest error that is allowed for.

    Returns:
        None where no choice was found in time that leaves anything quantized.
    """
    low, high = -1, len(order)
    while high - low > 1:
        middle = min(max(round(((low + 2) * (high + 1)) ** 0.5) - 1, low + 1), high - 1)
        error = error_of(prefix(order, middle))
        if math.isnan(error):
            break
        low, high = (low, middle) if error <= _KEPT_BACK * tolerable else (middle, high)
    if high == len(order):
        return None
    choice = prefix(order, high)
    # The last one is needed for certain.
    innocent = list(order[: high - 1])
    parts = [part for part in np.array_split(np.array(innocent, dtype=int), _PARTS) if len(part)]
    for part in sorted(parts, key=lambda part: -float(gain[part].sum())):
        fewer = choice.copy()
        fewer[part] = False
        # Not a number is no proof.
        if error_of(fewer) <= tolerable:
            choice = fewer
    return choice


def prefix(order: Sequence[int], length: int) -> Flags:
    """The choice of the first so many steps."""
    choice = np.zeros(len(order), dtype=bool)
    choice[list(order[:length])] = True
    return choice
