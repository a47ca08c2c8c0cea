"""How ``auto`` goes on where its predictions were wrong: by measurement alone, along the best ranking there is.

A ranking of ops can be right where every number behind it is wrong: the op that destroys the scores of a detector comes
first whether its loss is said to be 1 or 100 %. So the steps to fp32 are put in the order of what they are said to save
for what they cost, and the shortest prefix that keeps the target is found by bisection, whatever was predicted: log2(n)
evaluations, and most of those that miss end early. (Bisection along a sensitivity order: arXiv 2302.01382.)

The last op of that prefix is needed for certain, those before it may not be. It is moved to the front, and the prefix
bisected anew, as delta debugging does (Zeller and Hildebrandt, IEEE Transactions on Software Engineering 28, 2002):
each round finds one more op that a bad ranking had put far behind.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from autotune.config import QuantizationConfig
from autotune.notes import counted
from autotune.strategies.auto.estimates import Estimates
from autotune.strategies.auto.program import Flags
from autotune.strategies.auto.reach import prefix
from autotune.strategy import Proposal
from autotune.trial import Trial

_ROUNDS = 3
"""How often the prefix is bisected; each round finds one op that is needed."""

_WORTHWHILE = 0.02
"""Share of the latency that a further round must be able to save."""


def bisect(estimates: Estimates) -> Generator[Proposal, Trial, None]:
    """Propose prefixes of the ranking until the shortest that keeps the target is known.

    Args:
        estimates: Say the ranking and the costs, and take in every trial.
    """
    order = estimates.ranking()
    longest = _longest_that_gains(estimates, order)
    needed = 0
    for _ in range(_ROUNDS):
        length = yield from _shortest(estimates, order, needed, longest + 1)
        if length > longest or length <= needed:
            return
        needed, longest = needed + 1, length
        order = [*order[: needed - 1], order[length - 1], *order[needed - 1 : length - 1], *order[length:]]
        saved = estimates.predicted_cost(prefix(order, length)) - estimates.predicted_cost(prefix(order, needed))
        if saved < _WORTHWHILE or longest <= needed:
            return


def _shortest(estimates: Estimates, order: Sequence[int], low: int, high: int) -> Generator[Proposal, Trial, int]:
    """The length of the shortest prefix longer than ``low`` that keeps the target; ``high`` where none below does.

    Lengths are tried in the middle of their logarithms: a ranking puts what matters first.
    """
    if low and (known := estimates.verdict(prefix(order, low))) is None:
        trial = yield from _try(estimates, prefix(order, low))
        known = trial.met
        if known:
            return low
    elif low and known:
        return low
    while high - low > 1:
        middle = min(max(round(((low + 1) * (high + 1)) ** 0.5) - 1, low + 1), high - 1)
        choice = prefix(order, middle)
        kept = estimates.verdict(choice)
        if kept is None:
            trial = yield from _try(estimates, choice)
            # One that is too slow to be worth an accuracy has too many ops in fp32.
            too_slow = trial.measurement is not None and trial.loss is None
            kept = trial.met or too_slow
        low, high = (low, middle) if kept else (middle, high)
    return high


def _try(estimates: Estimates, choice: Flags) -> Generator[Proposal, Trial, Trial]:
    config = estimates.config(choice)
    trial = yield Proposal(config=config, note=_note(config, estimates))
    estimates.add(choice, trial)
    return trial


def _note(config: QuantizationConfig, estimates: Estimates) -> str:
    total = len(estimates.template_ops)
    back = total - sum(op in config.ops for op in estimates.template_ops)
    return f"{back} of {counted(total, 'op')} in fp32, those that seem to matter most, since predictions were wrong"


def _longest_that_gains(estimates: Estimates, order: Sequence[int]) -> int:
    """Longest prefix that is predicted to be faster than the best so far."""
    lengths = [length for length in range(len(order)) if estimates.gains(prefix(order, length))]
    return max(lengths, default=0)
