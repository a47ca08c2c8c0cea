from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.config import Precision, QuantizationConfig
from autotune.criterion import Criterion, Verdict
from autotune.errors import (
    ApplyError,
    CriterionError,
    DataError,
    EvaluationFunctionError,
    InputError,
    ModelError,
    StrategyError,
    WorkspaceError,
)
from autotune.restriction import OpRestriction, SpaceRestriction
from autotune.results.summary import read_summary
from autotune.trial import TrialState
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel, read

Score = Callable[[Any], float]


def tuner(**options: Any) -> autotune.Tuner:
    """A tuner for size, which unlike latency is the same in every run of these tests."""
    return autotune.Tuner(
        **{"framework": "numpy", "objective": "size", "max_trials": 3, "strategy": "basic", **options}
    )


def test_the_public_surface() -> None:
    assert autotune.__all__ == sorted(autotune.__all__, key=lambda name: (name[0].islower(), name))
    assert set(autotune.__all__) >= {"tune", "Tuner", "Criterion", "Verdict", "TuningResult", "QuantizationConfig"}
    for name in autotune.__all__:
        assert getattr(autotune, name) is not None


def test_the_adapter_gets_the_first_batch_with_the_model(
    network_file: Path, images: Sequence[Any], score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    load = NumpyAdapter.load

    def noted(self: NumpyAdapter, source: object, example: Any = None) -> Any:
        given.append(example)
        return load(self, source, example)

    monkeypatch.setattr(NumpyAdapter, "load", noted)
    tuner(max_trials=1).tune(network_file, [(batch, None) for batch in images], score)
    assert len(given) == 1
    np.testing.assert_array_equal(given[0].arrays(1)[0], images[0])


def test_a_smaller_model_that_keeps_the_target_is_found_saved_and_run(
    network_file: Path, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    result = tuner(criterion=Criterion(relative=0.05), workspace=tmp_path / "run").tune(network_file, images, score)
    assert result.verdict is Verdict.MET
    assert result.best.measurement is not None
    assert result.baseline.measurement is not None
    assert result.best.measurement.size_bytes < result.baseline.measurement.size_bytes  # type: ignore[operator]  # both were measured
    assert result.best.loss is not None
    assert 0 < result.best.loss <= 0.05
    assert len(result.trials) == 4
    assert set(result.precision_table().columns) >= {"total", "int8"}

    saved = result.save(tmp_path / "tuned.npz")
    written, metadata = read(saved)
    assert {name for name, layer in written.dense.items() if layer.weight_scheme} == set(result.best.config.ops)
    assert QuantizationConfig.from_json(json.loads(metadata["autotune:config"])) == result.best.config
    assert json.loads(metadata["autotune:measurement"])["loss"] == result.best.loss
    assert "cpu" in json.loads(metadata["autotune:host"])
    assert (tmp_path / "run" / "best.npz").read_bytes() == saved.read_bytes()

    adapter = NumpyAdapter()
    (expected,) = adapter.runner(adapter.load(saved), autotune.adapter.Execution())({"data": images[0]})
    np.testing.assert_allclose(np.asarray(result.model(images[0])), expected, atol=1e-5)

    report = result.report(tmp_path / "report.html").read_text()
    assert "met" in report
    assert "every op as preferred" in report


def test_tune_is_the_short_form(network: NumpyModel, images: Sequence[Any], score: Score) -> None:
    result = autotune.tune(
        network, images, score, framework="numpy", objective="size", max_trials=1, criterion=Criterion(relative=0.05)
    )
    assert len(result.trials) == 2


def test_a_finished_run_continues_where_it_ended(
    network: NumpyModel,
    images: Sequence[Any],
    score: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"criterion": Criterion(relative=0.05), "workspace": tmp_path}
    whole = tuner(criterion=Criterion(relative=0.05), max_trials=4).tune(network, images, score)
    first = tuner(**options, max_trials=2).tune(network, images, score)
    calls = score.calls
    monkeypatch.setattr(NumpyAdapter, "calibrate", None)  # the statistics are in the workspace
    second = tuner(**options, max_trials=4).tune(network, images, score)
    assert score.calls == calls + 2
    assert list(second.history[:3]) == list(first.history)
    assert [t.config for t in second.history] == [t.config for t in whole.history]
    assert [t.loss for t in second.history] == [t.loss for t in whole.history]


def test_a_workspace_of_other_data_is_refused(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    tuner(workspace=tmp_path, max_trials=1).tune(network, images, score)
    with pytest.raises(WorkspaceError, match="calibration data"):
        tuner(workspace=tmp_path, max_trials=1).tune(network, images[1:], score)


def test_a_workspace_that_is_a_file_is_refused_before_anything_is_measured(
    network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(WorkspaceError, match=r"taken.*must be a folder"):
        tuner(workspace=tmp_path / "taken").tune(network, images, score)
    assert score.calls == 0


def test_where_nothing_keeps_the_target_fp32_is_returned_and_the_nearest_beside_it(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    result = tuner(criterion=Criterion(relative=0.0), workspace=tmp_path / "run").tune(network, images, score)
    assert result.verdict is Verdict.MISSED
    assert not result.success
    assert result.best == result.baseline
    assert result.nearest is not None
    losses = [trial.loss for trial in result.history[1:] if trial.loss is not None]
    assert result.nearest.loss == min(losses)
    assert set(result.costly_ops) <= {"dense_0", "dense_1", "dense_2", "head"}
    assert list(result.costly_ops.values()) == sorted(result.costly_ops.values(), reverse=True)
    report = result.report(tmp_path / "report.html").read_text()
    assert "Ops that cost most" in report
    assert f"nearest: trial {result.nearest.number}" in report

    adapter = NumpyAdapter()
    fp32 = adapter.runner(adapter.load(network), autotune.adapter.Execution())({"data": images[0]})[0]
    saved, nearest = result.save(tmp_path / "answer.npz"), result.save_nearest(tmp_path / "nearest.npz")
    assert (tmp_path / "run" / "best.npz").read_bytes() == saved.read_bytes()
    assert (tmp_path / "run" / "nearest.npz").read_bytes() == nearest.read_bytes()
    own = adapter.runner(adapter.load(saved), autotune.adapter.Execution())({"data": images[0]})[0]
    np.testing.assert_allclose(own, fp32, atol=1e-5)
    np.testing.assert_allclose(np.asarray(result.model(images[0])), fp32, atol=1e-5)
    assert any(layer.weight_scheme for layer in read(nearest)[0].layers)

    stored = read_summary(tmp_path / "run")
    assert (stored.nearest, stored.speed) == (result.nearest, result.speed)


def test_what_was_offered_beside_an_answer_does_not_outlive_it(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    (tmp_path / "nearest.npz").write_bytes(b"of an earlier run")
    (tmp_path / "nearest.npz.0123.data").write_bytes(b"its weights")
    result = tuner(criterion=Criterion(relative=0.05), workspace=tmp_path, max_trials=1).tune(network, images, score)
    assert result.verdict is Verdict.MET
    assert not list(tmp_path.glob("nearest*"))
    with pytest.raises(InputError, match="There must be a nearest candidate"):
        result.save_nearest(tmp_path / "out.npz")


def test_where_nothing_was_tried_the_target_is_undecided(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    none = SpaceRestriction(op_name={"*": OpRestriction(precision=(Precision.FP32,))})
    result = tuner(restriction=none, workspace=tmp_path).tune(network, images, score)
    assert len(result.history) == 1
    assert result.verdict is Verdict.UNDECIDED
    assert not result.success
    assert result.best == result.baseline
    assert result.nearest is None
    assert "nothing was tried" in result.reason
    assert (tmp_path / "best.npz").is_file()


def test_ctrl_c_leaves_the_best_so_far(network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path) -> None:
    def interrupted(model: Any) -> float:
        if score.calls == 2:
            raise KeyboardInterrupt
        return float(score(model))

    result = tuner(criterion=Criterion(relative=0.05), workspace=tmp_path).tune(network, images, interrupted)
    assert result.interrupted
    assert result.verdict is Verdict.MET
    assert len(result.history) == 2
    assert (tmp_path / "best.npz").is_file()
    assert read_summary(tmp_path).interrupted


def test_a_candidate_that_fails_is_recorded_and_the_run_goes_on(
    network: NumpyModel, images: Sequence[Any], score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = NumpyAdapter.apply
    count = iter(range(100))

    def breaking(self: NumpyAdapter, *args: Any) -> Any:
        if next(count) == 0:
            raise ApplyError("This kernel does not exist")
        return apply(self, *args)

    monkeypatch.setattr(NumpyAdapter, "apply", breaking)
    result = tuner(criterion=Criterion(relative=0.05)).tune(network, images, score)
    assert result.history[1].state is TrialState.FAILED
    assert result.history[1].reason == "This kernel does not exist"
    assert result.verdict is Verdict.MET


def test_an_eval_fn_that_fails_on_a_candidate_fails_that_trial(
    network: NumpyModel, images: Sequence[Any], score: Any
) -> None:
    def moody(model: Any) -> float:
        if score.calls == 1:
            score.calls += 1
            raise RuntimeError("out of patience")
        return float(score(model))

    result = tuner(criterion=Criterion(relative=0.05)).tune(network, images, moody)
    assert result.history[1].state is TrialState.FAILED
    assert "out of patience" in (result.history[1].reason or "")
    assert result.verdict is Verdict.MET


def test_a_bug_in_eval_fn_surfaces_with_the_users_own_traceback(network: NumpyModel, images: Sequence[Any]) -> None:
    def buggy(_: Any) -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        tuner().tune(network, images, buggy)
    assert caught.traceback[-1].name == "buggy"


@pytest.mark.parametrize("value", [None, "good", float("nan"), True, np.ones(3)])
def test_what_is_no_score_is_refused(network: NumpyModel, images: Sequence[Any], value: object) -> None:
    with pytest.raises(EvaluationFunctionError):
        tuner().tune(network, images, lambda _: value)  # type: ignore[arg-type,return-value]  # wrong on purpose


def test_a_zero_baseline_cannot_have_a_relative_target(network: NumpyModel, images: Sequence[Any]) -> None:
    with pytest.raises(CriterionError, match=r"Suspect preprocessing or labels first.*`absolute`"):
        tuner().tune(network, images, lambda _: 0.0)
    with pytest.raises(CriterionError, match=r"accuracy is -1\. Give the target as `absolute` instead"):
        tuner().tune(network, images, lambda _: -1.0)


def test_the_timeout_holds_inside_of_an_evaluation(network: NumpyModel, images: Sequence[Any], score: Any) -> None:
    def endless(model: Any) -> float:
        if score.calls < 2:
            return float(score(model))
        while True:
            model(images[0])

    result = tuner(criterion=Criterion(relative=0.05), timeout_s=6.0).tune(network, images, endless)
    assert result.end_reason.startswith("timeout")
    assert result.verdict is Verdict.MET
    assert result.seconds["total"] < 9


def test_a_loader_that_can_be_read_only_once_is_refused(network: NumpyModel, images: Sequence[Any], score: Any) -> None:
    def once() -> Iterator[Any]:
        yield from images

    with pytest.raises(DataError, match="only once"):
        tuner().tune(network, once(), score)
    assert score.calls == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, InputError, "either `eval_fn`, or `metric`"),
        ({"metric": "topk"}, InputError, "`eval_dataloader`"),
        ({"eval_fn": 3}, InputError, "must be callable"),
        ({"metric": "topq", "eval_dataloader": []}, InputError, "topk"),
    ],
)
def test_sources_of_accuracy_that_do_not_fit(
    network: NumpyModel,
    images: Sequence[Any],
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        tuner().tune(network, images, **arguments)


def test_a_metric_that_is_better_when_lower_needs_a_criterion_that_says_so(
    network: NumpyModel, images: Sequence[Any]
) -> None:
    with pytest.raises(CriterionError, match="higher_is_better"):
        tuner().tune(network, images, metric="mse", eval_dataloader=[(images[0], np.zeros((8, 10), np.float32))])


@pytest.mark.parametrize(
    "options",
    [{"max_trials": 0}, {"timeout_s": 0}, {"threads": 0}, {"objective": "speed"}, {"batch_size": -1}],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        autotune.Tuner(**options)


def test_an_unknown_strategy_names_the_nearest(network: NumpyModel, images: Sequence[Any], score: Score) -> None:
    with pytest.raises(StrategyError, match="basic"):
        tuner(strategy="basik").tune(network, images, score)


def test_a_missing_model_is_named(images: Sequence[Any], score: Score, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.npz"):
        tuner().tune(tmp_path / "nowhere.npz", images, score)


def test_labelled_data_gives_intervals(network: NumpyModel, images: Sequence[Any]) -> None:
    labelled = [(batch, np.zeros(len(batch), np.int64)) for batch in images]
    result = tuner(criterion=Criterion(absolute=0.5), max_trials=1).tune(
        network, images, metric="topk", eval_dataloader=labelled
    )
    assert result.baseline.measurement is not None
    assert result.baseline.measurement.samples == 32


def test_the_same_seed_proposes_the_same_configs(network: NumpyModel, images: Sequence[Any], score: Any) -> None:
    def run(seed: int) -> list[QuantizationConfig]:
        options = {"strategy": "random", "seed": seed, "criterion": Criterion(relative=0.05), "max_trials": 4}
        return [trial.config for trial in tuner(**options).tune(network, images, score).history]

    one = run(1)
    assert one == run(1)
    assert one != run(2)


def test_a_summary_can_be_read_while_the_run_has_not_ended(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    seen = []

    class Reader(autotune.Observer):
        def trial_finished(self, trial: autotune.Trial, best: autotune.Trial | None) -> None:  # noqa: ARG002
            if trial.number == 1:
                seen.append(read_summary(tmp_path))

    tuner(criterion=Criterion(relative=0.05), workspace=tmp_path, observer=Reader()).tune(network, images, score)
    (summary,) = seen
    assert "has not" in summary.end_reason
    assert len(summary.history) == 2
    assert summary.report(tmp_path / "partial.html").is_file()


@pytest.mark.parametrize(
    "options", [{"criterion": 0.01}, {"restriction": {"Conv": {}}}, {"seed": -1}, {"threads": 100_000}]
)
def test_options_of_another_type_or_size_are_named(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=name):
        autotune.Tuner(**options)
