from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution

from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.criterion import Interval, Verdict
from autotune.errors import WorkspaceError
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.history import CONSTRAINT, History, read_study

INT8 = OpConfig(precision=Precision.INT8)
IDENTITY = {"model": "abc", "host": "here"}


def record(history: History, config: QuantizationConfig, *, state: TrialState = TrialState.COMPLETED) -> Trial:
    opened = history.open(optuna.samplers.RandomSampler(seed=1))
    params = opened.draw({"x": FloatDistribution(0, 1)})
    history.start(opened, config, "because")
    measured = Measurement(
        accuracy=0.8,
        loss=0.02,
        loss_interval=Interval(low=0.01, high=0.03),
        verdict=Verdict.MISSED,
        metrics={"top1": 0.8},
        speedup=2.0,
        size_bytes=10,
    )
    failed = state is TrialState.FAILED
    trial = Trial(
        number=opened.number,
        config=config,
        state=state,
        measurement=None if failed else measured,
        reason=None if state is TrialState.COMPLETED else "it broke",
        duration_s=1.5,
        note="because",
        params=params,
    )
    history.finish(opened, trial, Objective.LATENCY, 0.01)
    return trial


def test_a_reopened_workspace_returns_the_same_trials(tmp_path: Path) -> None:
    history = History(tmp_path, IDENTITY)
    written = [
        record(history, QuantizationConfig(ops={"a": INT8})),
        record(history, QuantizationConfig(ops={"b": INT8}), state=TrialState.PRUNED),
        record(history, QuantizationConfig(), state=TrialState.FAILED),
    ]
    assert list(History(tmp_path, IDENTITY).trials) == written
    assert list(read_study(tmp_path)[0]) == written


def test_the_sampler_is_told_the_latency_ratio_and_the_constraint() -> None:
    history = History(None, IDENTITY)
    record(history, QuantizationConfig(ops={"a": INT8}))
    (trial,) = history.study.trials
    assert trial.value == 0.5
    assert trial.constraints == {CONSTRAINT: pytest.approx(0.01)}


def test_a_trial_that_was_running_when_the_run_was_killed_counts_as_untried(tmp_path: Path) -> None:
    history = History(tmp_path, IDENTITY)
    finished = record(history, QuantizationConfig())
    killed = history.open(optuna.samplers.RandomSampler(seed=1))
    history.start(killed, QuantizationConfig(ops={"a": INT8}), "")
    assert [trial.state for trial in history.trials] == [TrialState.COMPLETED, TrialState.RUNNING]
    assert [trial.state for trial in History(tmp_path, IDENTITY).trials] == [TrialState.COMPLETED, TrialState.RUNNING]
    history.close()  # as its process' end would; test_claims.py kills one
    assert list(History(tmp_path, IDENTITY).trials) == [finished]


@pytest.mark.parametrize("writes", range(7))
def test_a_run_that_is_killed_between_any_two_writes_leaves_a_history_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    history = History(tmp_path, IDENTITY)
    write, left = optuna.Trial.set_user_attr, [writes]

    def killed(trial: optuna.Trial, key: str, value: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(trial, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", killed)
        for config in (QuantizationConfig(ops={"a": INT8}), QuantizationConfig()):
            try:
                record(history, config, state=TrialState.PRUNED)
            except KeyboardInterrupt:
                break
    history.close()
    monkeypatch.setattr("autotune.tuning.claims._UNNAMED_S", 0.0)
    again = History(tmp_path, IDENTITY)
    assert all(trial.state is TrialState.PRUNED and trial.measurement is not None for trial in again.trials)
    assert again.begun == len(again.trials)


def test_a_repeated_config_is_told_to_the_sampler_but_is_no_trial_of_its_own() -> None:
    history = History(None, IDENTITY)
    first = record(history, QuantizationConfig(ops={"a": INT8}))
    opened = history.open(optuna.samplers.RandomSampler(seed=2))
    opened.draw({"x": FloatDistribution(0, 1)})
    history.repeat(opened, first, Objective.LATENCY, 0.01)
    assert [trial.value for trial in history.study.trials] == [0.5, 0.5]
    assert list(history.trials) == [first]


def test_trials_of_another_model_are_refused(tmp_path: Path) -> None:
    History(tmp_path, IDENTITY)
    with pytest.raises(WorkspaceError, match=r"model: abc there, xyz here.*another workspace"):
        History(tmp_path, {**IDENTITY, "model": "xyz"})


def test_another_framework_is_named_and_what_follows_from_it_is_not(tmp_path: Path) -> None:
    History(tmp_path, {**IDENTITY, "framework": "onnxruntime", "host": "1"})
    with pytest.raises(WorkspaceError, match=r"\(framework: onnxruntime there, openvino here\)"):
        History(tmp_path, {**IDENTITY, "framework": "openvino", "model": "xyz", "host": "2"})
    with pytest.raises(WorkspaceError, match=r"\(host: 1 there, 2 here\)"):
        History(tmp_path, {**IDENTITY, "framework": "onnxruntime", "host": "2"})


def test_a_workspace_from_before_the_framework_was_stored_continues(tmp_path: Path) -> None:
    History(tmp_path, IDENTITY)
    History(tmp_path, {**IDENTITY, "framework": "onnxruntime"})
    with pytest.raises(WorkspaceError, match="host: here there, 2 here"):
        History(tmp_path, {**IDENTITY, "framework": "onnxruntime", "host": "2"})


def test_a_multi_objective_study_gets_three_values_and_keeps_pruned_trials() -> None:
    history = History(None, IDENTITY, multi_objective=True)
    record(history, QuantizationConfig(ops={"a": INT8}))
    record(history, QuantizationConfig(ops={"b": INT8}), state=TrialState.PRUNED)
    assert history.study.trials[0].values == [0.5, 0.02, 10.0]
    assert [trial.state for trial in history.trials] == [TrialState.COMPLETED, TrialState.PRUNED]


def test_insights_survive_a_restart(tmp_path: Path) -> None:
    history = History(tmp_path, IDENTITY)
    assert history.kept("sensitivity") is None
    history.keep("sensitivity", {"a": 0.5})
    assert History(tmp_path, IDENTITY).kept("sensitivity") == {"a": 0.5}


def test_a_workspace_that_is_no_folder_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(WorkspaceError, match="file"):
        History(taken, IDENTITY)


def test_a_workspace_without_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="holds no history"):
        read_study(tmp_path)
