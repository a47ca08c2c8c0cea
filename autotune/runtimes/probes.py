"""Times what is likely fastest on a runtime before its search, without evaluating any accuracy."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Self

from autotune.adapter import Adapter, Compiles, ModelT
from autotune.config import WEIGHT_ONLY, Precision, QuantizationConfig
from autotune.errors import DeadlineReached, WorkspaceError
from autotune.evaluation import AnyEvaluator
from autotune.space import TuningSpace
from autotune.tuning.history import History
from autotune.tuning.side import Side
from autotune.tuning.stopwatch import Stopwatch

_SHARE_OF_TIME = 0.1
"""Share of the run's remaining time that the probes of one runtime may take; the first is always timed."""

_EVALUATIONS_LEFT = 4
"""Evaluations of fp32 that the time that is left must hold for anything to be timed without accuracy."""

PROBES = "probes"
"""Key of :meth:`SideHistory.keep`: what was timed of a runtime before its search."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A candidate that was timed and nothing more.

    Attributes:
        what: Description in words.
        speedup: Over the baseline.
        high: Upper end of the speedup's interval.
    """

    what: str
    speedup: float
    high: float

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what ``dataclasses.asdict`` made."""
        return cls(**data)


class Probes(Generic[ModelT]):
    """Times the uniform candidates of a runtime once; the history keeps the figures for runs that continue.

    They are the preferred config, and one for each further precision that ops compute in, all without what a recipe
    does to values, which takes seconds and changes no kernel.

    Args:
        adapter: Makes the candidates.
        evaluator: Times them.
        history: Where the figures are kept.
        stopwatch: Counts the time that they take.
        admit: Raises an error for a candidate that may not run.
        note: Told of a candidate that cannot be timed, and why.
        deadline: A ``time.monotonic()`` value.
    """

    def __init__(
        self,
        adapter: Adapter[ModelT],
        evaluator: AnyEvaluator[ModelT],
        history: History,
        stopwatch: Stopwatch,
        *,
        admit: Callable[[ModelT], None],
        note: Callable[[str], None],
        deadline: float | None,
    ) -> None:
        self._adapter = adapter
        self._evaluator = evaluator
        self._history = history
        self._stopwatch = stopwatch
        self._admit = admit
        self._note = note
        self._deadline = deadline
        self._compiled = False

    def __call__(self, side: Side[ModelT]) -> list[Probe]:
        """The timed candidates of a side; one that fails is left out, and all are where the time is short.

        Where candidates have to be compiled, one is: that takes longer than a comparison.

        Raises:
            DeadlineReached: The time was up.
        """
        key = side.history_key + PROBES
        stored = self._history.kept(key)
        if stored is not None:
            return [Probe.from_json(each) for each in stored]
        found: list[Probe] = []
        self._compiled = False
        began = time.monotonic()
        if self._deadline is not None and self._deadline - began < self._least_left_s():
            return found  # a run that continues times them
        allowed_s = math.inf if self._deadline is None else _SHARE_OF_TIME * (self._deadline - began)
        with self._stopwatch("probe"):
            for what, config in uniform(side.problem.space):
                if found and (time.monotonic() - began > allowed_s or self._compiled):
                    break
                try:
                    found.append(self._time(side, what, config))
                except (DeadlineReached, WorkspaceError):
                    raise
                except Exception as error:  # a candidate's failure is that candidate's, as in a trial
                    self._note(f"{side.runtime}, {what}: it could not be timed before the search: {error}")
        self._history.keep(key, [dataclasses.asdict(each) for each in found])
        return found

    def _least_left_s(self) -> float:
        trials = self._history.trials
        return _EVALUATIONS_LEFT * (trials[0].duration_s or 0.0) if trials else 0.0

    def _time(self, side: Side[ModelT], what: str, config: QuantizationConfig) -> Probe:
        candidate = self._adapter.apply(side.model, side.config(config), side.statistics)
        self._admit(candidate)
        self._evaluator.prepare(deadline=self._deadline)
        self._compiled = isinstance(self._adapter, Compiles) and not self._adapter.is_compiled(candidate)
        measured = self._evaluator.speed_of(candidate, deadline=self._deadline)
        assert measured.speedup is not None
        interval = measured.speedup_interval
        return Probe(what=what, speedup=measured.speedup, high=measured.speedup if interval is None else interval.high)


def uniform(space: TuningSpace) -> Iterator[tuple[str, QuantizationConfig]]:
    """The preferred config, then all ops that can be in one precision, for each that computes; with what each is."""
    seen = {QuantizationConfig()}
    preferred = space.quick(space.preferred)
    configs = [("every op as preferred", preferred)]
    for precision in Precision:
        if precision is Precision.FP32 or precision in WEIGHT_ONLY:
            continue
        choices = {op.name: within.preferred for op in space.ops if (within := op.space_of(precision)) is not None}
        configs.append((f"every op that can be in {precision}", preferred.replace(choices)))
    for what, config in configs:
        if config not in seen:
            seen.add(config)
            yield what, config
