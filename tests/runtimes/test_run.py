"""Whole runs over two toy runtimes, whose speeds are scripted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

import autotune
from autotune.criterion import Verdict
from autotune.errors import DeadlineReached, ExperimentError, InputError, ModelError, UsersCodeError
from autotune.restriction import OpRestriction, SpaceRestriction
from autotune.results.summary import read_summary
from autotune.strategy import Strategy
from autotune.trial import TrialState
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel
from tests.runtimes.toys import DYNAMIC, OneByOne, files, script

BOTH = ("hare", "tortoise")
Tune = Callable[..., autotune.TuningResult]


@pytest.fixture
def tune(network: NumpyModel, images: Sequence[Any], score: Any) -> Tune:
    """Tunes the network with a target that everything keeps."""

    def run(strategy: Strategy | str | None = None, **options: Any) -> autotune.TuningResult:
        given: dict[str, Any] = {"runtimes": BOTH, "warmup": 1, "latency_max_s": 0.2}
        given["criterion"] = autotune.Criterion(absolute=0.9)
        tuner = autotune.Tuner(strategy=strategy or OneByOne(), **(given | options))
        return tuner.tune(network, images, score)

    return run


def runtimes(result: autotune.TuningResult) -> list[str | None]:
    return [trial.config.runtime for trial in result.history]


def close(runtime: str, quantized: int) -> float:
    """Both runtimes gain by each op, and lie close together."""
    return {"hare": 1.0, "tortoise": 0.99}[runtime] * (1 + 0.1 * quantized)


def test_the_answer_is_the_fastest_on_any_runtime(tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(
        monkeypatch,
        lambda runtime, n: close(runtime, n) * (1.2 if runtime == "tortoise" else 1),
        {"hare": 1.0, "tortoise": 0.99},
    )
    result = tune(workspace=tmp_path)
    assert result.verdict is Verdict.MET
    assert result.runtime == result.best.config.runtime == "tortoise"
    assert result.baseline_runtime == "hare"
    assert result.fp32_speeds == {"hare": 1.0, "tortoise": 0.99}
    assert result.best.speedup == pytest.approx(0.99 * 1.3 * 1.2)
    assert files(tmp_path, "best") == ["best.tortoise"]
    assert set(result.op_types) == {"dense_1", "dense_2", "head"}
    assert result.trials["runtime"].tolist()[:2] == ["hare", "tortoise"]


def test_the_worst_ops_are_timed_on_the_runtime_of_the_answer(
    tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})
    monkeypatch.setattr(NumpyAdapter, "op_seconds", lambda _self, models, *_: [{} for _ in models])
    result = tune(workspace=tmp_path)
    assert set(result.evidence.returned) <= set(result.op_types)
    assert result.evidence.returned
    assert result.evidence.returned_in == result.shown.config.fingerprint


def test_the_model_of_another_runtime_takes_the_place_of_the_best(
    tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The tortoise comes first, with its probe, and loses to the hare's second candidate.
    script(
        monkeypatch,
        lambda runtime, n: {"tortoise": 1.5}.get(runtime, 2.0 if n == 3 else 1.4),
        {"hare": 1.0, "tortoise": 0.9},
    )
    result = tune(workspace=tmp_path)
    assert [trial.config.runtime for trial in result.history[1:3]] == ["tortoise", "hare"]
    assert result.runtime == "hare"
    assert files(tmp_path, "best") == ["best.hare"]


def test_runtimes_take_turns_and_the_one_with_the_fastest_probe_begins(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, lambda runtime, _: close(runtime, 3), {"hare": 1.0, "tortoise": 0.99})
    assert runtimes(tune())[1:] == ["hare", "tortoise"] * 3
    script(monkeypatch, lambda runtime, _: 1 / close(runtime, 3), {"hare": 1.0, "tortoise": 0.99})
    assert runtimes(tune())[1:] == ["tortoise", "hare"] * 3


def test_a_strategy_sees_its_own_runtime_alone(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})
    strategy = OneByOne()
    result = tune(strategy)
    assert {trial.config.runtime for trial in result.history} == {None, *BOTH}
    for runtime, trials in strategy.seen:
        assert trials[0].speedup == 1.0
        assert all(trial.config.runtime is None for trial in trials)
        ops = {op for trial in trials for op in trial.config.ops}
        assert runtime == "hare" or "dense_0" not in ops
    # Relative to fp32 on the tortoise itself.
    last = [trials for runtime, trials in strategy.seen if runtime == "tortoise"][-1]
    assert [trial.speedup for trial in last[1:]] == pytest.approx([1.3, 1.2])


@pytest.mark.parametrize("needs_accuracy", [False, True])
def test_what_is_slower_than_the_best_on_any_runtime_costs_no_accuracy(
    needs_accuracy: bool, tune: Tune, monkeypatch: pytest.MonkeyPatch, score: Any
) -> None:
    script(monkeypatch, lambda runtime, _: {"hare": 1.5, "tortoise": 1.4}[runtime], {"hare": 1.0, "tortoise": 0.99})
    result = tune(OneByOne(limit=1, needs_accuracy=needs_accuracy))
    first, second = result.history[1:]
    assert (first.config.runtime, first.state) == ("hare", TrialState.COMPLETED)
    assert (second.config.runtime, second.state) == ("tortoise", TrialState.PRUNED)
    assert second.loss is None
    assert score.calls == 2  # fp32 and the first


def test_a_runtime_that_cannot_win_is_given_up_before_it_costs_anything(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, lambda runtime, _: {"hare": 2.0, "tortoise": 1.1}[runtime], {"hare": 1.0, "tortoise": 0.99})
    result = tune()
    assert runtimes(result)[1:] == ["hare"] * 3
    assert any(note.startswith("tortoise was given up after 0 trials") for note in result.notes)
    assert "hare: exhausted" in result.end_reason
    assert "tortoise: given up" in result.end_reason


def test_where_no_runtime_gains_one_of_them_is_searched_all_the_same(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, lambda runtime, _: {"hare": 0.5, "tortoise": 0.4}[runtime], {"hare": 1.0, "tortoise": 0.6})
    result = tune()
    assert runtimes(result)[1:] == ["hare"] * 3
    assert (result.verdict, result.speed) == (Verdict.MET, Verdict.MISSED)
    assert result.best.number == 0


def test_max_trials_counts_those_of_all(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})
    result = tune(max_trials=3)
    assert len(result.history) == 4
    assert result.end_reason == "max_trials: 3 candidates tried"


@pytest.mark.parametrize("strategy", ["auto", "bayesian", "random", "basic", "pareto"])
def test_a_run_goes_on_as_if_it_had_not_been_interrupted(
    strategy: str, tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})
    whole = tune(strategy, max_trials=6, workspace=tmp_path / "whole")
    tune(strategy, max_trials=3, workspace=tmp_path / "parts")
    parts = tune(strategy, max_trials=6, workspace=tmp_path / "parts")
    configs = [[trial.config for trial in result.history] for result in (whole, parts)]
    if strategy == "auto":  # its insights are measured anew, and what they say of equal ops is up to noise
        assert [c.runtime for c in configs[0][:4]] == [c.runtime for c in configs[1][:4]]
    else:
        assert configs[0] == configs[1]


@pytest.mark.parametrize("make", [optuna.samplers.TPESampler, optuna.samplers.NSGAIISampler])
def test_any_sampler_searches_each_runtime_by_itself(make: Any, tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, lambda runtime, _: close(runtime, 3), {"hare": 1.0, "tortoise": 0.99})
    result = tune(make(seed=0), max_trials=8)
    assert runtimes(result)[1:5] == ["hare", "tortoise"] * 2
    assert len(result.history) == 9


def test_ctrl_c_leaves_an_answer_and_the_run_goes_on(
    tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})

    class Interrupted(OneByOne):
        def propose(self, problem: Any, trials: Any, draw: Any) -> Any:
            if len(self.seen) == 3:
                raise KeyboardInterrupt
            return super().propose(problem, trials, draw)

    result = tune(Interrupted(), workspace=tmp_path)
    assert result.interrupted
    assert result.runtime == "hare"
    again = tune(workspace=tmp_path)
    assert runtimes(again)[1:] == ["hare", "tortoise"] * 3


def test_a_killed_run_can_be_reported(tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})

    class Killed(BaseException):
        pass

    class Dying(OneByOne):
        def propose(self, problem: Any, trials: Any, draw: Any) -> Any:
            if len(self.seen) == 2:
                raise Killed
            return super().propose(problem, trials, draw)

    with pytest.raises(UsersCodeError, match="Killed"):
        tune(Dying(), workspace=tmp_path)
    summary = read_summary(tmp_path)
    assert summary.runtime == "hare"
    assert summary.baseline_runtime == "hare"
    assert set(summary.op_types) == {"dense_0", "dense_1", "dense_2", "head"}
    assert "fp32 on hare" in summary.report(tmp_path / "report.html").read_text()


def test_the_summary_of_a_finished_run_names_the_runtimes(
    tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})
    result = tune(workspace=tmp_path)
    summary = read_summary(tmp_path)
    assert (summary.baseline_runtime, summary.fp32_speeds) == ("hare", {"hare": 1.0, "tortoise": 0.99})
    assert summary.best == result.best
    report = summary.report(tmp_path / "report.html").read_text()
    assert "tortoise: 3 ops" in report
    assert "tuned, on hare" in report


def test_other_runtimes_are_another_run(tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})
    tune(workspace=tmp_path)
    with pytest.raises(InputError, match="holds trials of another run"):
        tune(workspace=tmp_path, runtimes=["hare"])
    with pytest.raises(InputError, match=r"framework: hare, tortoise there, tortoise, hare here.*in another order"):
        tune(workspace=tmp_path, runtimes=["tortoise", "hare"])


def test_candidates_of_all_runtimes_run_in_a_worker(tune: Tune, tmp_path: Path) -> None:
    result = tune(OneByOne(limit=1), isolation="process", workspace=tmp_path, objective="size")
    assert runtimes(result) == [None, "hare", "tortoise"]
    assert all(trial.measurement and trial.measurement.peak_memory_bytes for trial in result.history)
    assert result.runtime == "hare"  # one more layer in integers
    assert files(tmp_path, "best") == ["best.hare"]


def test_everything_is_measured_where_nothing_is_scripted(tune: Tune, images: Sequence[Any]) -> None:
    result = tune(OneByOne(limit=1), latency_max_s=0.5)
    assert result.baseline_runtime in BOTH
    assert result.fp32_speeds[str(result.baseline_runtime)] == 1.0
    assert result.model(images[0]).shape == (8, 10)  # type: ignore[union-attr]  # one output


def test_the_time_ends_before_anything_was_measured(tune: Tune) -> None:
    result = tune(timeout_s=1e-3)
    assert result.verdict is Verdict.UNDECIDED
    assert result.baseline_runtime == "hare"


@pytest.mark.parametrize(
    ("where", "tried"),
    [("autotune.tuning.preparing.compare_fp32", False), ("autotune.runtimes.probes.Probes._time", True)],
)
def test_the_time_ends_while_runtimes_are_compared(
    where: str, tried: bool, tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})

    def late(*_arguments: Any, **_options: Any) -> Any:
        raise DeadlineReached("scripted")

    with monkeypatch.context() as patch:
        patch.setattr(where, late)
        result = tune(timeout_s=60, workspace=tmp_path)
    assert result.verdict is Verdict.UNDECIDED
    assert result.best.number == 0
    assert result.baseline_runtime == "hare"
    assert (result.baseline.loss is not None) is tried
    again = tune(timeout_s=60, workspace=tmp_path)
    assert again.verdict is Verdict.MET


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "Install it with `pip install a_framework_that_is_not_installed`"),
        ("unloadable", "there is no model that this one reads"),
        ("refusing", "RuntimeError: unknown op"),
        ("wrong", "its fp32 outputs are not those of hare on the first batch: they differ by"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_runtime_that_cannot_take_part_is_left_out_with_the_reason(
    name: str, reason: str, place: int, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})
    # Where it is named before two others, these are believed.
    names = [name, "hare", "tortoise"] if place == 0 else ["hare", name]
    result = tune(OneByOne(limit=1), runtimes=names)
    assert set(runtimes(result)) == {None, *names} - {name}
    assert any(note.startswith(f"{name} is left out: ") and reason in note for note in result.notes), result.notes


def test_where_none_is_left_the_error_has_all_reasons(tune: Tune) -> None:
    with pytest.raises(
        InputError, match=r"unloadable: there is no model.*refusing: RuntimeError: unknown op|refusing.*unloadable"
    ) as caught:
        tune(runtimes=["unloadable", "refusing", "missing"])
    assert "pip install a_framework_that_is_not_installed" in str(caught.value)
    with pytest.raises(ModelError, match="there is no model"):
        tune(runtimes=["unloadable"])


def test_an_error_of_the_data_loader_surfaces_as_it_is(network: NumpyModel, score: Any) -> None:
    class Broken:
        def __iter__(self) -> Any:
            raise ZeroDivisionError("the user's own")

    with pytest.raises(ZeroDivisionError, match="the user's own"):
        autotune.Tuner(runtimes=BOTH).tune(network, Broken(), score)


def test_a_restriction_by_name_applies_where_there_is_the_op(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})
    only = OpRestriction(precision=(DYNAMIC.precision,))
    result = tune(OneByOne(limit=1), restriction=SpaceRestriction(op_name={"dense_0": only}))
    assert {trial.config.runtime for trial in result.history[1:]} == set(BOTH)
    hare = next(trial for trial in result.history if trial.config.runtime == "hare")
    assert hare.config["dense_0"].precision is DYNAMIC.precision
    with pytest.raises(ExperimentError, match="'dense_9' matches none"):
        tune(restriction=SpaceRestriction(op_name={"dense_9": only}))


def test_a_runtime_without_a_choice_that_is_asked_for_is_left_out(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})
    only = OpRestriction(precision=(DYNAMIC.precision,))
    result = tune(OneByOne(limit=1), restriction=SpaceRestriction(op_name={"head": only}))
    assert {trial.config.runtime for trial in result.history[1:]} == {"hare"}
    assert any(note.startswith("tortoise is left out: Op 'head'") for note in result.notes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "must list one adapter or more, of onnxruntime, "),
        ("hare", "must list one adapter or more"),
        (("hare", "tortise"), r"must name adapters, but got 'tortise' \(did you mean 'tortoise'\?\)"),
        (("hare", "tortoise", "hare"), "must name each adapter once, but got hare more than once"),
    ],
)
def test_runtimes_that_cannot_be_asked_for(names: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        autotune.Tuner(runtimes=names)


def test_a_framework_that_is_none_of_the_runtimes_is_refused() -> None:
    with pytest.raises(InputError, match="`framework` must be one of `runtimes`"):
        autotune.Tuner(framework="numpy", runtimes=BOTH)
    autotune.Tuner(framework="hare", runtimes=BOTH)


def test_each_calibration_says_for_which_runtime_it_is(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    class Watch(autotune.Observer):
        def phase(self, name: str, detail: str = "") -> None:
            seen.append((name, detail))

    script(monkeypatch, close, {"hare": 1.0, "tortoise": 0.99})
    tune(observer=Watch())
    assert [detail for name, detail in seen if name == "calibrate"] == ["hare", "tortoise"]
