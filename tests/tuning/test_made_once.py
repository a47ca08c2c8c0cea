"""The models of a run's trials are made once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

import autotune
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.criterion import Criterion, Interval, Verdict
from autotune.evaluation import Evaluation, Evaluator
from autotune.restriction import SpaceRestriction
from autotune.strategy import Draw, Exhausted, Objective, Problem, Proposal, Strategy
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning import models
from autotune.tuning.insights import MeasuredInsights
from autotune.tuning.models import Models
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel

PLAIN = SpaceRestriction(
    recipe={"equalization": (False,), "bias_correction": ("none",), "weight_rounding": ("nearest",)}
)
LATENCY = Objective.LATENCY


class FirstOps(Strategy):
    """One op more in int8 with each trial, three times."""

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:  # noqa: ARG002
        """The next one."""
        if len(trials) > 3:
            return Exhausted(reason="exhausted: that was all")
        return Proposal(config=QuantizationConfig(ops=dict(list(problem.space.preferred.ops.items())[: len(trials)])))


@pytest.mark.parametrize("losses", [(0.001, 0.002, 0.003), (0.2, 0.1, 0.3)], ids=["finalists", "missed"])
def test_no_model_is_made_a_second_time_at_the_end_of_a_run(
    network: NumpyModel,
    images: Any,
    score: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    losses: Sequence[float],
) -> None:
    """Making one may take ten seconds, in the finals of a run whose time is up: equals that are raced, and what is
    offered beside fp32 where none keeps the target.
    """
    made: list[QuantizationConfig] = []
    apply, evaluate = NumpyAdapter.apply, Evaluator.evaluate
    left = iter(losses)

    def counted(self: Any, model: Any, config: QuantizationConfig, statistics: Any) -> Any:
        made.append(config)
        return apply(self, model, config, statistics)

    def scripted(self: Any, candidate: Any, **options: Any) -> Evaluation:
        found = evaluate(self, candidate, **{**options, "incumbent": None})
        loss = next(left)
        figures = dataclasses.replace(
            found.measurement,
            speedup=2.0,
            speedup_interval=Interval(low=1.5, high=2.5),
            latency_decided=True,
            loss=loss,
            verdict=Verdict.MET if loss <= 0.01 else Verdict.MISSED,
        )
        return dataclasses.replace(found, measurement=figures)

    # The explanation of the answer makes candidates of its own.
    for name in ("sensitivity", "op_latency", "crossing_latency"):
        monkeypatch.setattr(MeasuredInsights, name, lambda _self: {})
    monkeypatch.setattr(NumpyAdapter, "apply", counted)
    monkeypatch.setattr(Evaluator, "evaluate", scripted)
    tuner = autotune.Tuner(
        framework="numpy",
        strategy=FirstOps(),
        workspace=tmp_path,
        criterion=Criterion(),
        latency_max_s=0.1,
        warmup=1,
        restriction=PLAIN,
    )
    result = tuner.tune(network, images, score)
    assert [trial.loss for trial in result.history[1:]] == list(losses)
    assert len(made) == len(set(made)) == 3
    if losses[0] > 0.01:
        assert result.nearest is not None
        assert result.nearest.number == 2


def config(name: str) -> QuantizationConfig:
    return QuantizationConfig(ops={name: OpConfig(precision=Precision.INT8)})


def trial(number: int, low: float, *, loss: float = 0.0) -> Trial:
    measured = Measurement(
        accuracy=1.0,
        loss=loss,
        verdict=Verdict.MET if loss <= 0.01 else Verdict.MISSED,
        speedup=low + 0.1,
        speedup_interval=Interval(low=low, high=low + 0.2),
        latency_decided=True,
    )
    ops = config(f"op{number}") if number else QuantizationConfig()
    return Trial(number=number, config=ops, state=TrialState.COMPLETED, measurement=measured)


@dataclasses.dataclass(frozen=True)
class Sized:
    """A model that has a size and nothing else."""

    size_bytes: int


def kept(trials: Sequence[Trial], sizes: Sequence[int]) -> list[int]:
    """Numbers of the trials whose models are there after all of ``trials``, which the first begins as fp32."""
    adapter = cast("Any", None)
    run = Models[Any](adapter, Criterion(), None)
    for index, (each, size) in enumerate(zip(trials[1:], sizes, strict=True)):
        run.keep_for_finals(Sized(size), each, trials[: index + 2], LATENCY)
    return [each.number for each in trials if each.config in run._kept]


def test_models_that_can_be_no_finalist_any_more_are_freed() -> None:
    trials = [trial(0, 1.0), trial(1, 1.2), trial(2, 1.3), trial(3, 2.0)]
    assert kept(trials[:3], [1, 1]) == [1, 2]
    assert kept(trials, [1, 1, 1]) == [3]


def test_of_those_that_miss_the_target_the_nearest_is_kept() -> None:
    trials = [trial(0, 1.0), trial(1, 1.2, loss=0.3), trial(2, 1.3, loss=0.1), trial(3, 2.0, loss=0.2)]
    assert kept(trials, [1, 1, 1]) == [2]


def test_models_are_kept_as_long_as_there_is_room() -> None:
    half = models._KEPT_BYTES // 2
    trials = [trial(0, 1.0), trial(1, 1.2), trial(2, 1.3), trial(3, 1.35)]
    assert kept(trials, [half, half, half]) == [1, 2]
    assert kept(trials, [2 * half + 1, half, half]) == [2, 3]
