"""Candidates that cannot be done in the time that is left are not begun; time moves as a script says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.config import QuantizationConfig, Recipe
from autotune.criterion import Verdict
from autotune.restriction import SpaceRestriction
from autotune.strategy import Draw, Exhausted, Problem, Proposal, Strategy
from autotune.trial import Trial
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel
from tests.tuning.deadlines import CHEAP, TOLERANT, Clock, check, evaluation, slow, slow_calls


class Ponderer(Strategy):
    """Takes a while over each proposal."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:  # noqa: ARG002
        self.clock.now += self.seconds
        config = problem.space.preferred
        ops = dict(list(config.ops.items())[: len(trials)])
        return Proposal(config=type(config)(ops=ops))


def test_planning_that_takes_all_the_time_begins_no_trial(
    network: NumpyModel, images: Sequence[Any], score: Any, clock: Clock
) -> None:
    tuner = autotune.Tuner(timeout_s=20, **{**CHEAP, "strategy": Ponderer(clock, 30)})
    result = tuner.tune(network, images, score)
    check(result, images, "the first candidate was prepared or measured")
    assert score.calls == 1
    assert result.baseline.measurement is not None
    assert result.baseline.measurement.accuracy == 1.0


def test_a_candidate_that_cannot_be_done_in_time_is_not_begun(
    network: NumpyModel, images: Sequence[Any], score: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, clock, "apply", 8)
    tuner = autotune.Tuner(
        timeout_s=20, criterion=TOLERANT, objective="size", **{**CHEAP, "strategy": Ponderer(clock, 0)}
    )
    result = tuner.tune(network, images, score)
    assert len(result.history) == 3, "two candidates of 8 s, and no third"
    assert re.match(r"timeout: a candidate takes 8(\.\d+)? s or more, and 3\.\d+ s are left", result.end_reason)
    assert result.verdict is Verdict.MET


def test_a_candidate_is_priced_by_its_own_recipe(
    network: NumpyModel, images: Sequence[Any], score: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cheap recipe before it tells nothing of what a dear one takes: the run ended 10 s late."""
    original = NumpyAdapter.apply

    def priced(self: Any, model: Any, config: QuantizationConfig, statistics: Any) -> Any:
        clock.now += 8 if config.recipe.equalization else 0.1
        return original(self, model, config, statistics)

    class Turns(Strategy):
        def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:  # noqa: ARG002
            ops = dict(list(problem.space.preferred.ops.items())[: 1 + len(trials) // 2])
            return Proposal(config=QuantizationConfig(ops=ops, recipe=Recipe(equalization=len(trials) % 2 == 0)))

    monkeypatch.setattr(NumpyAdapter, "apply", priced)
    options = {**CHEAP, "strategy": Turns(), "restriction": SpaceRestriction()}
    tuner = autotune.Tuner(timeout_s=12, criterion=TOLERANT, objective="size", **options)
    result = tuner.tune(network, images, score)
    assert len(result.history) == 4
    assert re.match(r"timeout: a candidate takes 8(\.\d+)? s or more, and 3\.\d+ s are left", result.end_reason)


def test_an_eval_fn_that_cannot_end_in_time_is_not_begun(
    network: NumpyModel, images: Sequence[Any], clock: Clock
) -> None:
    """It takes 12 s, on the first candidate as on fp32, and 1 s is left."""
    tuner = autotune.Tuner(
        timeout_s=25.2, criterion=TOLERANT, objective="size", **{**CHEAP, "strategy": Ponderer(clock, 0)}
    )
    result = tuner.tune(network, images, evaluation(images, clock, 3))
    assert len(result.history) == 2
    assert re.match(r"timeout: a candidate takes 12(\.\d+)? s or more, and [01]\.\d+ s are left", result.end_reason)


def test_a_metric_may_tell_after_its_first_samples_so_that_a_candidate_is_begun(
    network: NumpyModel, images: Sequence[Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fp32 model took 45 s; of the rest 12 s are kept for the finals, so that less than a quarter of it is left."""
    slow_calls(monkeypatch, clock, 0.5)
    started: list[int] = []

    class Watch(autotune.Observer):
        def trial_started(self, number: int, config: Any, note: str) -> None:  # noqa: ARG002
            started.append(number)

    data = [(batch, np.zeros(len(batch), np.int64)) for batch in images] * 2
    tuner = autotune.Tuner(timeout_s=60, criterion=TOLERANT, objective="size", observer=Watch(), **CHEAP)
    result = tuner.tune(network, images, metric="topk", eval_dataloader=data)
    assert started == [0, 1]
    check(result, images, "the first candidate was prepared or measured")
