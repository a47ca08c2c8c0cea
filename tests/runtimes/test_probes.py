"""Tests of the candidates that are timed before a runtime's search."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
from optuna.samplers import RandomSampler

from autotune.config import QuantizationConfig
from autotune.criterion import Criterion, Interval
from autotune.errors import ApplyError
from autotune.runtimes.probes import Probe, Probes
from autotune.strategy import Objective, Problem
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.history import History
from autotune.tuning.side import Side
from autotune.tuning.stopwatch import Stopwatch
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel


class Scripted:
    """An adapter whose candidates are configs, and an evaluator that is told what they take."""

    def __init__(self, *, refuses: str = "", seconds: float = 0.0) -> None:
        self.asked: list[QuantizationConfig] = []
        self.now = 100.0
        self._refuses, self._seconds = refuses, seconds

    def apply(self, _model: Any, config: QuantizationConfig, _statistics: Any) -> QuantizationConfig:
        if self._refuses in map(str, config.precisions()):
            raise ApplyError("refused")
        return config

    def prepare(self, *, deadline: float | None) -> None:
        """Nothing is needed."""

    def speed_of(self, candidate: QuantizationConfig, *, deadline: float | None) -> Measurement:  # noqa: ARG002
        self.asked.append(candidate)
        self.now += self._seconds
        return Measurement(speedup=2.0, speedup_interval=Interval(low=1.9, high=2.1, confidence=0.95))


@pytest.fixture
def side(network: NumpyModel) -> Side[Any]:
    nothing: Any = None
    space = NumpyAdapter().space(network)
    problem = Problem(
        space=space, criterion=Criterion(relative=0.01), objective=Objective.LATENCY, seed=0, insights=nothing
    )
    return Side(
        runtime="hare", given=nothing, model=nothing, differs=False, statistics=nothing, problem=problem
    )  # fmt: skip


def probes(scripted: Any, history: History, notes: list[str], deadline: float | None = None) -> Probes[Any]:
    def admit(candidate: QuantizationConfig) -> None:
        assert candidate.runtime == "hare"

    return Probes(
        scripted, scripted, history, Stopwatch(), admit=admit, note=notes.append, deadline=deadline
    )  # fmt: skip


def test_the_figures_are_kept_for_a_run_that_continues(side: Side[Any]) -> None:
    history, scripted = History(None, {}), Scripted()
    first = probes(scripted, history, [])(side)
    assert [each.what for each in first] == ["every op as preferred", "every op that can be in int8_dynamic"]
    assert first[0] == Probe(what="every op as preferred", speedup=2.0, high=2.1)
    assert probes(scripted, history, [])(side) == first
    assert len(scripted.asked) == 2


def test_a_candidate_that_fails_is_named_and_the_others_are_timed(side: Side[Any]) -> None:
    notes: list[str] = []
    found = probes(Scripted(refuses="int8"), History(None, {}), notes)(side)
    assert [each.what for each in found] == ["every op that can be in int8_dynamic"]
    assert notes == ["hare, every op as preferred: it could not be timed before the search: refused"]


def test_under_a_deadline_probes_take_a_small_share_of_the_time(
    side: Side[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(seconds=2.0)
    monkeypatch.setattr(time, "monotonic", lambda: scripted.now)
    assert len(probes(scripted, History(None, {}), [], deadline=scripted.now + 10)(side)) == 1
    assert len(probes(scripted, History(None, {}), [], deadline=scripted.now + 100)(side)) == 2


def test_where_the_time_is_short_it_is_left_to_trials(side: Side[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    history, scripted = History(None, {}), Scripted()
    monkeypatch.setattr(time, "monotonic", lambda: scripted.now)
    opened = history.open(RandomSampler(seed=0))
    history.start(opened, QuantizationConfig(), "fp32 baseline")
    measured = Measurement(speedup=1.0, accuracy=1.0)
    baseline = Trial(
        number=0, config=QuantizationConfig(), state=TrialState.COMPLETED, measurement=measured, duration_s=10.0
    )
    history.finish(opened, baseline, Objective.LATENCY, 0.01)
    assert probes(scripted, history, [], deadline=scripted.now + 39)(side) == []
    assert len(probes(scripted, history, [], deadline=scripted.now + 41)(side)) == 2


def test_recipes_that_take_seconds_are_left_out(side: Side[Any]) -> None:
    scripted = Scripted()
    probes(scripted, History(None, {}), [])(side)
    space = side.problem.space
    assert scripted.asked[0] == dataclasses.replace(space.quick(space.preferred), runtime="hare")
