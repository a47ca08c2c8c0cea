"""Rule by which an evaluation ends before all samples were seen, and the order that gets it there soonest.

The fp32 model's score on every sample is known, so a candidate's verdict is a question about a finite sum: whether the
losses of all samples add up to more than the target allows. Two kinds of evidence end an evaluation:

*Certainty.* A sample that fp32 gets right cannot be gained, and one that it gets wrong cannot be lost. The samples that
can still be gained bound what a candidate can win back. Evaluated in the loader's order this bound bites late. But
flips happen almost only where fp32's own margin is small (measured on MobileNetV2: the tenth of the samples with the
smallest margins holds two thirds of the flips, the third with the smallest 98 %), so that fp32's errors first and then
its narrow decisions settle nearly every missed target after a third of the samples, without any chance of error.

*Betting.* Samples drawn at random without replacement support a test that may be read after every sample: a gambler
who bets that the target is missed can multiply the stake by 200 with probability of at most 1/200 if it is kept
(Waudby-Smith and Ramdas, 2020, "Confidence sequences for sampling without replacement"; Ville's inequality). A first
random part drops what is far off, a last random part accepts what has only safe samples left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from autotune.adapter import Array

ERROR_RATE = 0.01
"""At most this share of candidates ends early with another verdict than a full evaluation would give."""

_FIRST_SHARE = 0.08
"""Share of the samples in the first random part: enough to drop what loses ten times the usual target."""

_NARROW_SHARE = 0.2
"""Share of fp32's right answers, those of least margin, that are evaluated before random draws from the rest."""

_BETS = np.array([0.1, 0.2, 0.4, 0.8])
"""Shares of the largest admissible bet; the stake is split evenly over them."""


class Outcome(StrEnum):
    """The outcome that a full evaluation would have."""

    MISSED = "missed"
    MET = "met"


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Why an evaluation may end.

    Attributes:
        outcome: The verdict that a full evaluation would reach.
        certain: Whether this is arithmetic rather than a bet.
    """

    outcome: Outcome
    certain: bool


@dataclass(frozen=True, kw_only=True)
class Population:
    """The samples of an evaluation as units that are evaluated as a whole, and what each can lose at most.

    Attributes:
        sizes: Samples in each unit, shape (units,).
        gains: The most that each unit's summed score can improve on fp32's, shape (units,).
        losses: The most that it can fall behind, shape (units,); infinite where scores are not bounded.
        difficulty: How easily fp32's answers in each unit change, shape (units,), larger is easier; None: unknown.
        any_order: Whether units can be evaluated in any order.
    """

    sizes: Array
    gains: Array
    losses: Array
    difficulty: Array | None
    any_order: bool

    @classmethod
    def make(
        cls,
        scores: Array,
        units: Sequence[Array],
        *,
        bounds: tuple[float, float],
        higher_is_better: bool,
        difficulty: Array | None,
        any_order: bool,
    ) -> Population:
        """Make the order from the fp32 model's score of each sample.

        Args:
            scores: Shape (samples,).
            units: Positions of each unit's samples.
            bounds: The least and the largest score of a sample.
            higher_is_better: Whether a larger score is a better one.
            difficulty: Shape (samples,); None: unknown.
            any_order: Whether units can be evaluated in any order.
        """
        up, down = bounds[1] - scores, scores - bounds[0]
        gains, losses = (up, down) if higher_is_better else (down, up)
        return cls(
            sizes=np.array([len(unit) for unit in units]),
            gains=np.array([gains[unit].sum() for unit in units]),
            losses=np.array([losses[unit].sum() for unit in units]),
            difficulty=None if difficulty is None else np.array([difficulty[unit].max() for unit in units]),
            any_order=any_order,
        )


class Bet:
    """Tests that a population's sum is at most ``limit`` while its members are drawn without replacement.

    The product of ``1 + bet * (x - mean)``, where ``mean`` is what the members not yet drawn would average if the sum
    were ``limit``, is a non-negative supermartingale if the sum is at most ``limit``.

    Args:
        count: Members.
        limit: The largest sum under the hypothesis.
        lowest: No member is smaller; finite.
    """

    def __init__(self, *, count: int, limit: float, lowest: float) -> None:
        self._left = count
        self._limit = limit
        self._lowest = lowest
        self._logs: npt.NDArray[np.float64] = np.zeros(len(_BETS))

    def draw(self, values: Sequence[float]) -> None:
        """Take note of the next members drawn."""
        for value in values:
            mean = self._limit / self._left
            if mean <= self._lowest:
                # Only certainty is left: all members at their lowest already reach the limit or exceed it.
                return
            self._logs = self._logs + np.log1p(_BETS * (value - mean) / (mean - self._lowest))
            self._limit -= value
            self._left -= 1

    def rejects(self, error_rate: float) -> bool:
        """Whether the sum exceeds the limit, wrong with probability of at most ``error_rate`` over all looks."""
        return bool(np.logaddexp.reduce(self._logs) - np.log(len(_BETS)) >= -np.log(error_rate))


@dataclass(frozen=True)
class _Part:
    units: Array
    random: bool


class StoppingRule:
    """The order of units for one candidate, and whether what was seen so far settles its verdict.

    Args:
        population: The units.
        limit: The largest sum of losses that keeps the target.
        seed: Seed of the random parts.
        accept: Whether an evaluation may also end because the target is nearly certainly kept.
        bets: Whether random draws may end it at all; without, only certainty does.
    """

    def __init__(
        self, population: Population, *, limit: float, seed: int, accept: bool = True, bets: bool = True
    ) -> None:
        self._population = population
        self._limit = limit
        self._accept = accept
        self._bets = bets and population.any_order
        self._rank = self._ranked()
        self._parts = self._plan(np.random.default_rng(seed))
        self.order: Array = np.concatenate([part.units for part in self._parts])
        """Units in the order in which to evaluate them."""
        self._starts = np.cumsum([0, *(len(part.units) for part in self._parts)])
        self._values: list[float] = []
        self._lost = 0.0
        self._gain_left = float(population.gains.sum())
        self._loss_left = float(population.losses.sum())
        self._seen = 0
        self._part = -1
        self._missed: Bet | None = None
        self._met: Bet | None = None

    def _ranked(self) -> Array | None:
        """Rank of each unit by what its evaluation may settle: fp32's errors, then its answers that flip most easily.

        None where units are not told apart by it: nothing is known of them, or most could be gained.
        """
        population = self._population
        errors = population.gains > 0
        if population.difficulty is None or not population.any_order or errors.mean() > 0.5:
            return None
        rank = np.empty(len(errors), np.int64)
        rank[np.lexsort((-population.difficulty, ~errors))] = np.arange(len(errors))
        return rank

    def _plan(self, generator: np.random.Generator) -> list[_Part]:
        population = self._population
        count = len(population.sizes)
        if not population.any_order:
            return [_Part(np.arange(count), random=False)]
        shuffled = generator.permutation(count)
        if self._rank is None:
            return [_Part(shuffled, random=True)]
        first = shuffled[: round(count * _FIRST_SHARE)]
        rest = shuffled[len(first) :]
        ranked = rest[np.argsort(self._rank[rest])]
        errors = int((population.gains[rest] > 0).sum())
        cut = errors + round((len(rest) - errors) * _NARROW_SHARE)
        return [
            _Part(first, random=True),
            _Part(ranked[:cut], random=False),
            _Part(generator.permutation(ranked[cut:]), random=True),
        ]

    def update(self, lost: Sequence[float]) -> Stop | None:
        """Take note of the next units' losses, in :attr:`order`, and say whether the evaluation may end."""
        for value in lost:
            if self._part + 1 < len(self._parts) and self._seen >= self._starts[self._part + 1]:
                self._enter(self._part + 1)
            unit = int(self.order[self._seen])
            self._values.append(value)
            for bet, sign in ((self._missed, 1.0), (self._met, -1.0)):
                if bet is not None:
                    bet.draw([sign * value])
            self._lost += value
            self._gain_left -= float(self._population.gains[unit])
            self._loss_left -= float(self._population.losses[unit])
            self._seen += 1
        return self._stop()

    def estimate(self) -> tuple[float, float, float]:
        """Sum of the losses of all units as predicted from those seen: the sum, its variance, and the sum of squares.

        Where the order is sorted, what lies beyond the point it has come to is estimated from the random draws that
        fell beyond it, since those before it are no sample of the rest.
        """
        seen, values = self.order[: self._seen], np.array(self._values)
        count = len(self.order)
        beyond, left = np.ones(len(seen), bool), count
        if self._rank is not None and self._seen > self._starts[1]:
            point = int(self._rank[self._parts[1].units[: self._seen - self._starts[1]]].max())
            beyond, left = self._rank[seen] > point, count - point - 1
        exact, sample = values[~beyond], values[beyond]
        total, squares = float(exact.sum()), float((exact**2).sum())
        if len(sample) == 0:
            return total, 0.0, squares
        unseen = 1 - len(sample) / left
        # One more loss than was seen: where there was none, there may be.
        spread = float((sample**2).sum() + np.abs(values).max(initial=0.0) ** 2) / (len(sample) + 1)
        total += left * float(sample.mean())
        reachable = (self._lost - max(0.0, self._gain_left), self._lost + max(0.0, self._loss_left))
        return (
            float(np.clip(total, *reachable)),
            left**2 * unseen * spread / len(sample),
            squares + left * float((sample**2).mean()),
        )

    def _enter(self, index: int) -> None:
        """Start the bets of a random part on what is left; each part of the order is a population of its own."""
        self._part = index
        self._missed = self._met = None
        if not (self._bets and self._parts[index].random):
            return
        left = np.concatenate([part.units for part in self._parts[index:]])
        slack = self._limit - self._lost
        gain, loss = float(self._population.gains[left].max()), float(self._population.losses[left].max())
        if np.isfinite(gain):
            self._missed = Bet(count=len(left), limit=slack, lowest=-gain)
        if np.isfinite(loss) and self._accept:
            self._met = Bet(count=len(left), limit=-slack, lowest=-loss)

    def _stop(self) -> Stop | None:
        # Sums of floats end a hair beside the limit where they should meet it.
        hair = 1e-9 * max(1.0, abs(self._limit))
        if self._lost - max(0.0, self._gain_left) > self._limit + hair:
            return Stop(outcome=Outcome.MISSED, certain=True)
        if self._accept and self._lost + max(0.0, self._loss_left) <= self._limit - hair:
            return Stop(outcome=Outcome.MET, certain=True)
        # Two random parts, and one of the two verdicts is the wrong one: two chances to err.
        if self._missed is not None and self._missed.rejects(ERROR_RATE / 2):
            return Stop(outcome=Outcome.MISSED, certain=False)
        if self._met is not None and self._met.rejects(ERROR_RATE / 2):
            return Stop(outcome=Outcome.MET, certain=False)
        return None
