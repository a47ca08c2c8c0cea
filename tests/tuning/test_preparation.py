"""The baseline is the user's model as it was given; what the adapter prepared of it is a candidate by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.adapter import Example, Feeds
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.criterion import Interval, Verdict
from autotune.errors import WorkspaceError
from autotune.evaluation import Evaluation, Evaluator
from autotune.results.summary import read_summary
from autotune.strategy import Draw, Exhausted, Problem, Proposal, Strategy
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.preparation import in_terms_of_fp32
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import Layer, NumpyModel, read
from tests.tuning.scripted import script_speeds

INT8 = QuantizationConfig(ops={"c": OpConfig(precision=Precision.INT8_DYNAMIC)})


class Given(Strategy):
    """The preferred config, and nothing after it; remembers what it was shown."""

    def __init__(self, *, proposes: bool = True) -> None:
        self.proposes = proposes
        self.seen: list[Sequence[Trial]] = []

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:  # noqa: ARG002
        """The preferred config once."""
        self.seen.append(trials)
        if not self.proposes or len(trials) > 1:
            return Exhausted(reason="exhausted: that was all")
        return Proposal(config=problem.space.preferred, note="preferred")


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedModel(NumpyModel):
    given: NumpyModel | None = None


class Preparing(NumpyAdapter):
    """Leaves the relu out that follows the output of another one."""

    def load(self, source: object, example: Example | None = None) -> NumpyModel:
        model = super().load(source, example)
        if isinstance(model, PreparedModel):
            return model
        kept = tuple(layer for layer in model.layers if not layer.name.startswith("again"))
        fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
        return PreparedModel(**{**fields, "layers": kept, "given": model})

    def as_given(self, model: NumpyModel) -> NumpyModel:
        return model.given if isinstance(model, PreparedModel) and model.given is not None else model

    def on_data(self, model: NumpyModel, batches: Iterable[Feeds]) -> NumpyModel:  # noqa: ARG002
        return model

    def executes_another_graph(self, model: NumpyModel) -> bool:
        return len(self.as_given(model).layers) != len(model.layers)

    def apply(self, model: NumpyModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> NumpyModel:
        candidate = super().apply(model, config, statistics)
        assert isinstance(candidate, PreparedModel)
        return dataclasses.replace(candidate, given=None)


@pytest.fixture(autouse=True)
def preparing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.tuning.tuner.get_adapter", lambda _name: Preparing())


@pytest.fixture
def redundant(network: NumpyModel) -> NumpyModel:
    """The network with a relu after its head, and one after that."""
    more = (
        Layer(name="relu_3", kind="relu", reads=("head",)),
        Layer(name="again", kind="relu", reads=("relu_3",)),
    )
    return dataclasses.replace(network, layers=(*network.layers, *more))


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Scripted speedups of the prepared model and of quantized ones; accuracy is measured."""
    script = {"prepared": 2.0, "quantized": 3.0}

    def speedup_of(candidate: NumpyModel) -> float:
        return script["quantized" if any(layer.weight_scheme for layer in candidate.layers) else "prepared"]

    script_speeds(monkeypatch, speedup_of)
    return script


def tune(model: NumpyModel, images: Any, score: Any, strategy: Strategy, **options: Any) -> Any:
    criterion = options.pop("criterion", autotune.Criterion(relative=0.9))
    tuner = autotune.Tuner(strategy=strategy, criterion=criterion, latency_max_s=0.1, warmup=1, **options)
    return tuner.tune(model, images, score)


def test_a_model_that_preparation_makes_faster_is_a_trial_and_a_line_says_so(
    redundant: NumpyModel, images: Any, score: Any, speeds: dict[str, float]
) -> None:
    assert speeds
    strategy = Given()
    result = tune(redundant, images, score, strategy)
    baseline, prepared, quantized = result.history
    assert baseline.config.is_fp32
    assert prepared.config == QuantizationConfig(prepared=True)
    assert prepared.measurement is not None
    assert prepared.met
    assert result.best == quantized
    assert any("2.00x as fast as the model that was given (trial 1)" in note for note in result.notes)
    # The strategy predicts from the prepared model.
    assert [trial.number for trial in strategy.seen[-1]] == [0, 2]
    assert [trial.speedup for trial in strategy.seen[-1]] == [1.0, 1.5]


def test_the_baseline_is_the_file_as_it_is(
    redundant: NumpyModel, images: Any, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[Any] = []
    baseline = Evaluator.baseline

    def noted(self: Any, **options: Any) -> Measurement:
        run.append(self._model)
        return baseline(self, **options)

    monkeypatch.setattr(Evaluator, "baseline", noted)
    result = tune(redundant, images, score, Given(proposes=False))
    (model,) = run
    assert model.fingerprint == redundant.fingerprint
    assert result.baseline.measurement.size_bytes == redundant.size_bytes


def test_preparation_is_the_answer_where_nothing_else_keeps_the_target(
    redundant: NumpyModel, images: Any, score: Any, speeds: dict[str, float], tmp_path: Path
) -> None:
    assert speeds
    result = tune(redundant, images, score, Given(proposes=False), workspace=tmp_path)
    assert result.verdict is Verdict.MET
    assert result.best.config.prepared
    assert (tmp_path / "best.npz").is_file()
    saved, _ = read(result.save(tmp_path / "out.npz"))
    assert "again" not in {layer.name for layer in saved.layers}


def test_a_prepared_model_that_cannot_be_measured_is_no_end_of_the_run(
    redundant: NumpyModel,
    images: Any,
    score: Any,
    speeds: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert speeds
    scripted = Evaluator.evaluate

    def refused(self: Any, candidate: Any, **options: Any) -> Evaluation:
        if not any(layer.weight_scheme for layer in candidate.layers):
            raise autotune.errors.TrialError("scripted: a crash")
        return scripted(self, candidate, **options)

    monkeypatch.setattr(Evaluator, "evaluate", refused)
    result = tune(redundant, images, score, Given())
    baseline, quantized = result.history
    assert baseline.config.is_fp32
    assert result.best == quantized


def test_the_prepared_model_is_measured_once(
    redundant: NumpyModel,
    images: Any,
    score: Any,
    speeds: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its latency was, to see whether its accuracy is worth an evaluation, and then again with that."""
    assert speeds
    measured: list[Any] = []
    scripted = Evaluator.evaluate

    def counted(self: Any, candidate: Any, **options: Any) -> Evaluation:
        measured.append(candidate.fingerprint)
        return scripted(self, candidate, **options)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    result = tune(redundant, images, score, Given(proposes=False))
    assert result.best.config.prepared
    assert len(measured) == 1
    assert score.calls == 2, "fp32 and this one"


def test_the_prepared_model_is_admitted_as_any_candidate_is(
    redundant: NumpyModel,
    images: Any,
    score: Any,
    speeds: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may hold integers of the user's own that saturate on other CPUs."""
    assert speeds
    monkeypatch.setattr(NumpyAdapter, "saturating_ops", lambda _self, _model: ("conv",))
    result = tune(redundant, images, score, Given(proposes=False), portable=True)
    assert [trial.number for trial in result.history] == [0]
    assert score.calls == 1


def test_a_candidate_must_beat_the_prepared_model(
    redundant: NumpyModel, images: Any, score: Any, speeds: dict[str, float]
) -> None:
    speeds["quantized"] = 1.5
    result = tune(redundant, images, score, Given())
    assert result.history[2].state is TrialState.PRUNED
    assert result.best.config.prepared


def test_preparation_that_is_not_proven_faster_leaves_the_users_file(
    redundant: NumpyModel, images: Any, score: Any, speeds: dict[str, float], tmp_path: Path
) -> None:
    speeds["prepared"] = 1.005
    strategy = Given(proposes=False)
    result = tune(redundant, images, score, strategy)
    assert [trial.number for trial in result.history] == [0]
    assert score.calls == 1, "its accuracy is not worth an evaluation"
    saved, _ = read(result.save(tmp_path / "out.npz"))
    assert saved.fingerprint == redundant.fingerprint


def test_a_model_that_executes_alike_is_not_measured_twice(
    network: NumpyModel, images: Any, score: Any, speeds: dict[str, float]
) -> None:
    assert speeds
    result = tune(network, images, score, Given(proposes=False))
    assert [trial.number for trial in result.history] == [0]


def test_a_run_that_continues_does_not_try_preparation_again(
    redundant: NumpyModel, images: Any, score: Any, speeds: dict[str, float], tmp_path: Path
) -> None:
    tune(redundant, images, score, Given(proposes=False), workspace=tmp_path)
    speeds["prepared"] = 5.0
    result = tune(redundant, images, score, Given(), workspace=tmp_path)
    assert [trial.speedup for trial in result.history] == [1.0, 2.0, 3.0]
    assert [trial.config for trial in read_summary(tmp_path).history] == [trial.config for trial in result.history]


def test_max_trials_counts_candidates_of_the_search(
    redundant: NumpyModel, images: Any, score: Any, speeds: dict[str, float]
) -> None:
    assert speeds
    assert len(tune(redundant, images, score, Given(), max_trials=1).history) == 3


def test_other_objectives_than_latency_leave_it_out(
    redundant: NumpyModel, images: Any, score: Any, speeds: dict[str, float]
) -> None:
    assert speeds
    assert len(tune(redundant, images, score, Given(proposes=False), objective="size").history) == 1


def test_speeds_are_relative_to_the_prepared_model() -> None:
    def trial(number: int, config: QuantizationConfig, speedup: float) -> Trial:
        interval = Interval(low=speedup - 0.5, high=speedup + 0.5, confidence=0.95)
        measured = Measurement(speedup=speedup, speedup_interval=interval)
        return Trial(number=number, config=config, state=TrialState.COMPLETED, measurement=measured)

    baseline = trial(0, QuantizationConfig(), 1.0)
    shown = in_terms_of_fp32([baseline, trial(1, QuantizationConfig(prepared=True), 2.0), trial(2, INT8, 3.0)])
    assert shown[0] == baseline
    assert shown[1].measurement is not None
    assert (shown[1].number, shown[1].measurement.speedup) == (2, 1.5)
    assert shown[1].measurement.speedup_interval == Interval(low=1.25, high=1.75, confidence=0.95)
    assert in_terms_of_fp32([baseline, trial(2, INT8, 3.0)])[1].speedup == 3.0


def test_a_config_without_ops_says_which_model_it_is() -> None:
    prepared = QuantizationConfig(prepared=True)
    assert not prepared.is_fp32
    assert prepared != QuantizationConfig()
    assert QuantizationConfig.from_json(prepared.to_json()) == prepared
    assert "prepared" not in QuantizationConfig().to_json(), "stored configs keep their fingerprints"
    assert dataclasses.replace(INT8, prepared=True) == INT8


def test_figures_of_two_baselines_do_not_meet_in_one_workspace(
    redundant: NumpyModel, images: Any, score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was measured before there was a difference goes on where both models execute alike."""
    with monkeypatch.context() as patch:
        patch.setattr(Preparing, "executes_another_graph", lambda _self, _model: False)
        with patch.context() as before:
            before.setattr(Preparing, "as_given", lambda _self, model: model)
            tune(redundant, images, score, Given(proposes=False), workspace=tmp_path)
        assert len(tune(redundant, images, score, Given(proposes=False), workspace=tmp_path).history) == 1
    with pytest.raises(WorkspaceError, match="model"):
        tune(redundant, images, score, Given(proposes=False), workspace=tmp_path)
