"""Runs sessions of several models in rounds and keeps what their calls took."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autotune.errors import DeadlineReached
from autotune.evaluation.latency.clock import Call, Clock
from autotune.evaluation.latency.estimate import Figures
from autotune.evaluation.latency.options import FEWEST_ROUNDS, CacheState, LatencyOptions
from autotune.evaluation.latency.results import Percentiles
from autotune.garbage import uncollected

_ATTEMPTS = 5
"""Runs of a call that is disturbed again and again."""
_MOST_STRETCHES = 8
"""Into how many stretches of time rounds are put together, so that what lasts for several rounds is in the interval."""
_SLOW = 0.1
"""By how much fp32 takes longer than it did, in logarithms, where a round lies in a slow spell of the machine."""
_SPARE = 1.0
"""Rounds that may be run again because they lay in a slow spell, as a share of those asked for."""
_QUIET = 0.03
"""By how much, in logarithms, fp32 takes longer on the mean than at its quickest where nothing else is at work."""
_PART_OF_SLOW_DOWN = 0.25
"""How much of a slow-down that could not be waited out is added to an interval: models are not slowed alike."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """How many calls of one session run in a row, once per round.

    Attributes:
        discarded: Calls that bring the session's weights into the caches.
        timed: Calls that count.
    """

    discarded: int
    timed: int

    @classmethod
    def for_calls(cls, call_s: float, cache: CacheState) -> Block:
        """The block for a model whose call takes ``call_s`` seconds.

        Measured on MobileNetV2 (2 ms) among ten sessions: the first call takes 1.4 times as long as the eighth, the
        fourth 1.04 and the fifth 1.02 times. A call of 20 ms and more passes through the caches by itself, and one of
        200 ms is too long for calls that are not timed.
        """
        if cache is CacheState.COLD:
            return cls(discarded=0, timed=1)
        if call_s < 0.005:
            return cls(discarded=4, timed=5)
        if call_s < 0.02:
            return cls(discarded=2, timed=4)
        return cls(discarded=1, timed=3) if call_s < 0.2 else cls(discarded=0, timed=1)


@dataclass
class Pace:
    """Latencies of fp32 in the measurements of a run so far, from which a slow spell of the machine is detected.

    It belongs to a fixed list of sessions: others may be faster or slower by themselves.
    """

    logs: list[float] = field(default_factory=list)

    def note(self, log_ns: float) -> None:
        """Remember the logarithm of fp32's latency in one measurement."""
        self.logs.append(log_ns)

    @property
    def usual(self) -> float:
        """The logarithm that a third of the measurements stay under; infinite before the first."""
        return float(np.quantile(self.logs, 1 / 3)) if self.logs else math.inf


class Contest:
    """Sessions of several models, in rounds: each session that takes part runs one block per round.

    The order inside of a round is random. The first member is the baseline and runs in every round.

    Args:
        members: By model: its sessions.
        options: How latency is measured.
        clock: Times the calls.
        seed: Seed of the order.
        deadline: A ``time.monotonic()`` value.
        pace: Earlier latencies of the baseline's sessions; None where that is unknown.
        share: How many times ``max_seconds`` it may take.
    """

    def __init__(
        self,
        members: Sequence[Sequence[Call]],
        options: LatencyOptions,
        clock: Clock,
        *,
        seed: int,
        deadline: float | None,
        pace: Pace | None = None,
        share: int = 1,
    ) -> None:
        self._members = members
        self._options = options
        self._clock = clock
        self._generator = np.random.default_rng(seed)
        self.deadline = deadline
        self._pace = pace or Pace()
        self._left_s = math.inf if options.max_seconds is None else options.max_seconds * share
        self._whole_s = self._left_s
        self._rounds: list[dict[int, npt.NDArray[np.float64]]] = []
        self._paces: list[float] = []  # logarithm of the baseline's latency, by round
        self._block: Block | None = None

    @property
    def models(self) -> int:
        """How many models there are, the baseline included."""
        return len(self._members)

    def sessions(self, member: int) -> int:
        """How many sessions a model has."""
        return len(self._members[member])

    @property
    def block(self) -> Block:
        """The calls that a session makes per round; known after the warm-up."""
        assert self._block is not None
        return self._block

    def rounds_for(self, calls: int) -> int:
        """Rounds after which every model with as many sessions as the least has that many timed calls."""
        fewest = min(len(sessions) for sessions in self._members)
        return max(FEWEST_ROUNDS, math.ceil(calls / (self.block.timed * fewest)))

    def warm_up(self) -> None:
        """Run every model ``warmup`` times, its sessions in turn, and choose the block."""
        started = self._clock.now_s()
        fewest, wall_s = math.inf, 0.0
        with self._counted():
            for turn in range(max(1, self._options.warmup)):
                called, turned = 0, self._clock.now_s()
                for member, sessions in enumerate(self._members):
                    if turn < max(1, math.ceil(self._options.warmup / len(sessions))):
                        called += len(sessions)
                        taken = min(self._clock.time(call).nanoseconds / 1e9 for call in sessions)
                        fewest = min(fewest, taken) if member == 0 else fewest
                wall_s = (self._clock.now_s() - turned) / called if called else wall_s
                self._check_deadline()
                # Seconds-long calls need no ten warm-up calls, and a third of the time is enough for it.
                if not called or self._clock.now_s() - started > self._whole_s / 3:
                    break
        self._block = self._fitting(Block.for_calls(fewest, self._options.cache_state), wall_s)

    def _fitting(self, block: Block, wall_s: float) -> Block:
        """The block, or a shorter one where the least number of rounds would take more time than is left."""
        sessions = sum(len(each) for each in self._members)
        left_s = self._left_s
        if self.deadline is not None:
            left_s = min(left_s, self.deadline - self._clock.now_s())
        for fitting in (block, Block(discarded=min(1, block.discarded), timed=1)):
            if FEWEST_ROUNDS * sessions * (fitting.discarded + fitting.timed) * wall_s <= left_s:
                return fitting
        return Block(discarded=0, timed=1)

    def run(self, members: Sequence[int], rounds: int) -> bool:
        """Run until there are that many rounds outside of slow spells; True where time ran out before."""
        if self._block is None:
            self.warm_up()
        with self._counted(), uncollected():
            while self._wanting(rounds):
                if self._late and len(self._rounds) >= FEWEST_ROUNDS:
                    return True
                self._round(members)
                self._check_deadline()
        return False

    def _wanting(self, rounds: int) -> bool:
        """Whether there are fewer rounds than asked for; those in a slow spell are run again while there are spares."""
        done = len(self._rounds)
        return done < rounds or (done < rounds * (1 + _SPARE) and int((~self._slow()).sum()) < rounds)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Take what is done inside from the time that is left."""
        started, left = self._clock.now_s(), self._left_s
        self._ends = started + left
        try:
            yield
        finally:
            self._left_s = left - (self._clock.now_s() - started)

    @property
    def _late(self) -> bool:
        return self._clock.now_s() > min(self._ends, math.inf if self.deadline is None else self.deadline)

    def _check_deadline(self) -> None:
        if self.deadline is not None and len(self._rounds) < FEWEST_ROUNDS and self._clock.now_s() > self.deadline:
            raise DeadlineReached("The time given to the run ended while latency was being measured")

    def _round(self, members: Sequence[int]) -> None:
        places = [(member, index) for member in members for index in range(len(self._members[member]))]
        times = {member: np.zeros((len(self._members[member]), self.block.timed)) for member in members}
        for place in self._generator.permutation(len(places)):
            member, index = places[place]
            times[member][index] = self._run_block(self._members[member][index])
        self._rounds.append(times)
        self._paces.append(float(np.log(np.median(times[0], axis=1)).mean()))

    def _run_block(self, call: Call) -> list[int]:
        for _ in range(self.block.discarded):
            call()
        return [self._timed(call) for _ in range(self.block.timed)]

    def _timed(self, call: Call) -> int:
        """Nanoseconds of one call; the least of several where it is disturbed again and again."""
        readings = []
        for _ in range(_ATTEMPTS):
            reading = self._clock.time(call)
            if not reading.disturbed:
                return reading.nanoseconds
            readings.append(reading.nanoseconds)
        return min(readings)

    def _slow(self) -> npt.NDArray[np.bool_]:
        """Whether a round lies in a slow spell: fp32 took longer than in most others, here or earlier in the run."""
        paces = np.array(self._paces)
        if len(paces) == 0:
            return np.zeros(0, bool)
        found: npt.NDArray[np.bool_] = paces > min(float(np.quantile(paces, 0.25)), self._pace.usual) + _SLOW
        return found

    def _chosen(self, members: Sequence[int]) -> list[int]:
        """Rounds in which all of the members ran, those in a slow spell left out where enough are left."""
        common = [index for index, times in enumerate(self._rounds) if all(member in times for member in members)]
        slow = self._slow()
        calm = [index for index in common if not slow[index]]
        return calm if len(calm) >= FEWEST_ROUNDS else common

    def rounds(self, member: int) -> int:
        """Rounds that a model ran."""
        return sum(member in times for times in self._rounds)

    def figures(self, members: Sequence[int]) -> Mapping[int, Figures]:
        """By model: logarithms of nanoseconds, shape (sessions, stretches), over rounds in which all of them ran.

        A figure is the median of a session's calls in that stretch.
        """
        chosen = self._chosen(members)
        stretches = np.array_split(np.array(chosen), min(len(chosen), _MOST_STRETCHES))
        return {
            member: np.stack(
                [
                    np.log(np.median(np.concatenate([self._rounds[index][member] for index in part], axis=1), axis=1))
                    for part in stretches
                ],
                axis=1,
            )
            for member in members
        }

    def slow_down(self, members: Sequence[int]) -> float:
        """By how much an interval is wider because fp32 was slower in these rounds than it is at its quickest.

        Its quickest is that of the best rounds here, or what it usually took earlier in the run.
        """
        quickest = min(float(np.quantile(self._paces, 0.1)), self._pace.usual)
        excess = float(np.mean([self._paces[index] for index in self._chosen(members)])) - quickest
        return _PART_OF_SLOW_DOWN * max(0.0, excess - _QUIET)

    def note_pace(self) -> None:
        """Remember what fp32 took; called once, when the measurement has ended."""
        self._pace.note(float(np.mean([self._paces[index] for index in self._chosen([0])])))

    def pairs(self, members: Sequence[int]) -> int:
        """Timed calls of each of the models that the figures come from."""
        return len(self._chosen(members)) * self.block.timed * min(len(self._members[m]) for m in members)

    def percentiles(self, member: int, members: Sequence[int], p50_ms: float) -> Percentiles:
        """Percentiles of the calls of one model in rounds in which all of ``members`` ran; the median is given."""
        calls = np.concatenate([self._rounds[index][member].ravel() for index in self._chosen(members)]) / 1e6
        p90, p99 = np.percentile(calls, [90, 99])
        return Percentiles(p50_ms=p50_ms, p90_ms=max(p50_ms, float(p90)), p99_ms=max(p50_ms, float(p99)))
