"""Which ops disturb the outputs most, from as few candidates as the time allows: group testing along the graph.

One candidate per op is 500 candidates where a model has 500 ops, and most of them are harmless. Output errors of groups
of ops add up, as long as they are small. So the error of all ops together is measured, then that of halves, and always
the group with the largest error is halved next. Of two halves the one that is suspected less is measured first: where
it causes next to nothing, the other one causes what the group does. A handful of harmful ops among n is found after
about that many times log2(n) to 2 log2(n) candidates, and whenever the time is up every op has a figure: its share of
the smallest group that it was in.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from itertools import count

_NEGLIGIBLE = 0.01
"""A group with less than this share of the whole error is not halved."""

_LITTLE = 0.1
"""Where one half causes less than this share of what its group does, the other half causes the rest."""

_KEPT = 4
"""Measurements that are left for the choices that are made by these figures: where ops interact, groups of them do not
say what a choice does, and only its own error does."""

_FIRST = 0.25
"""How suspect the first op of a graph is beside the last one."""


def sensitivities(
    ops: Sequence[str],
    error_of: Callable[[Sequence[str]], float],
    affordable: Callable[[int], bool],
) -> dict[str, float]:
    """By op, the output error that it causes, as far as there was time to tell it from that of its neighbours.

    Args:
        ops: In graph order, so that ops of one block stay together.
        error_of: Measures the output error with these ops quantized and no other; infinite where that fails.
        affordable: Whether there is time for so many measurements more.

    Returns:
        Each op measured alone where all can be; else by halving. Ops that were not told apart share what their group
        causes; where there was no time at all, all ops share an error of 1.
    """
    if not ops or not affordable(1):
        return _shared(ops, 1.0, ops)
    whole = error_of(ops)
    if len(ops) == 1:
        return _shared(ops, whole, ops)
    if affordable(len(ops)):
        return {op: error_of([op]) for op in ops}
    return _halved(ops, whole, error_of, affordable)


def _halved(
    ops: Sequence[str],
    whole: float,
    error_of: Callable[[Sequence[str]], float],
    affordable: Callable[[int], bool],
) -> dict[str, float]:
    order = count()  # equals are halved in the order in which they were found
    pending = [(-whole, next(order), list(ops))]
    found: dict[str, float] = {}
    weights = _suspicion(ops)
    while pending:
        negative, _, group = heapq.heappop(pending)
        error = -negative
        negligible = math.isfinite(whole) and error <= _NEGLIGIBLE * whole
        if len(group) == 1 or negligible or not affordable(2 + _KEPT):
            found.update(_shared(group, error, ops))
            continue
        middle = len(group) // 2
        calm, suspect = sorted((group[:middle], group[middle:]), key=lambda half: sum(weights[op] for op in half))
        little = error_of(calm)
        rest = error - little if little < _LITTLE * error else error_of(suspect)
        for half, caused in ((calm, little), (suspect, rest)):
            heapq.heappush(pending, (-caused, next(order), half))
    return {op: found[op] for op in ops}


def _shared(group: Sequence[str], error: float, ops: Sequence[str]) -> dict[str, float]:
    """The part of a group's error that each of its ops is assigned, by how suspect it is."""
    weights = _suspicion(ops)
    total = sum(weights[op] for op in group)
    return {op: error * weights[op] / total for op in group}


def _suspicion(ops: Sequence[str]) -> dict[str, float]:
    """By op, how suspect it is before anything is measured: the more, the closer it is to the outputs or the inputs.

    Nothing after it evens out what the last op does, and tails are where boxes are decoded, scores are joined with
    them, and exponentials and divisions stand. What the first ops lose, all others lack: in shipped text recognizers
    and detectors the first tenth of the ops causes more than all others but the tail.
    """
    last = len(ops)
    return {op: (last - index) ** -2.0 + _FIRST * (index + 1) ** -2.0 for index, op in enumerate(ops)}
