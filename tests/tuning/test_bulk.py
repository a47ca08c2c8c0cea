from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial
from autotune.trial import TrialState as State
from autotune.tuning.bulk import CONFIG, BulkCache, BulkStorage
from autotune.tuning.history import History
from autotune.tuning.storage import DATABASE, running_trials
from autotune.tuning.stored_trials import to_trial

INT8 = OpConfig(precision=Precision.INT8)
IDENTITY = {"model": "abc"}


def every_kind(url: str) -> int:
    """A study with trials of every state and with every kind of value; its id."""
    study = optuna.create_study(storage=url, study_name="s", directions=["minimize", "maximize"])
    optuna.create_study(storage=url, study_name="other").ask().set_user_attr("x", 1)
    distributions = {
        "f": FloatDistribution(0, 1),
        "c": CategoricalDistribution(("a", None, 3)),
        "i": IntDistribution(1, 9),
    }
    for values in ((1.0, float("inf")), (-float("inf"), 0.0)):
        trial = study.ask(distributions)
        trial.set_user_attr("nested", {"list": [1, None, "é"]})
        trial.set_user_attr(CONFIG, {"ops": []})
        trial.set_constraint("loss", -0.5)
        study.tell(trial, values)
    study.tell(study.ask(), state=TrialState.FAIL)
    study.enqueue_trial({"f": 0.5})
    for step, value in ((0, 0.1), (5, float("nan")), (7, float("inf"))):
        study._storage.set_trial_intermediate_value(study.trials[0]._trial_id + 3, step, value)
    study.ask(distributions).set_user_attr("x", [])
    return study._study_id


def as_text(trial: FrozenTrial) -> str:
    """All of a trial as text, in which nan is equal to itself; its config as JSON, its attributes in their order."""
    attrs = {
        key: json.loads(value) if key == CONFIG and isinstance(value, str) else value
        for key, value in sorted(trial.user_attrs.items())
    }
    trial._user_attrs = attrs
    return repr(trial)


@pytest.mark.parametrize(("named", "after"), [((), -1), ((1, 5), 3), ((), 2), ((4,), 10**6), ((), 10**6)])
def test_trials_are_those_that_optuna_reads(tmp_path: Path, named: tuple[int, ...], after: int) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    study = every_kind(url)
    ours, theirs = (kind(url)._get_trials(study, None, set(named), after) for kind in (BulkStorage, RDBStorage))
    assert [as_text(trial) for trial in ours] == [as_text(trial) for trial in theirs]
    assert [list(trial.params) for trial in ours] == [list(trial.params) for trial in theirs]


def test_trials_of_some_states_are_those_that_optuna_reads(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    study = every_kind(url)
    ours, theirs = BulkCache(BulkStorage(url)), optuna.storages.get_storage(RDBStorage(url))
    for states in (None, (TrialState.RUNNING,), (TrialState.COMPLETE, TrialState.FAIL), ()):
        numbers = [
            [trial.number for trial in storage.get_all_trials(study, deepcopy=False, states=states)]
            for storage in (ours, theirs)
        ]
        assert numbers[0] == numbers[1]
    running = [trial.number for trial in BulkStorage(url).running(study)]
    assert running == [trial.number for trial in theirs.get_all_trials(study, states=(TrialState.RUNNING,))]


@pytest.mark.parametrize("in_memory", [False, True])
def test_running_trials_are_found_on_any_storage(tmp_path: Path, in_memory: bool) -> None:
    history = History(None if in_memory else tmp_path, IDENTITY)
    opened = history.open(optuna.samplers.RandomSampler(seed=0))
    assert [trial.number for trial in running_trials(history.study)] == [opened.number]


def _recorded(folder: Path, trials: int) -> None:
    history = History(folder, IDENTITY)
    for index in range(trials):
        opened = history.open(optuna.samplers.RandomSampler(seed=0))
        config = QuantizationConfig(ops={f"op{index}": INT8})
        history.start(opened, config, "")
        measured = Measurement(accuracy=1.0, loss=0.0, speedup=1.0)
        trial = Trial(number=opened.number, config=config, state=State.COMPLETED, measurement=measured)
        history.finish(opened, trial, Objective.LATENCY, 0.01)
        history.revise(trial)
    history.close()


@contextmanager
def _counted(history: History) -> Iterator[list[str]]:
    """The statements that a history's database is sent."""
    found: list[str] = []
    engine = history.study._storage._made.engine  # type: ignore[attr-defined]

    def count(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        found.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    yield found
    event.remove(engine, "before_cursor_execute", count)


def test_a_history_is_read_with_as_many_queries_however_many_trials_it_has(tmp_path: Path) -> None:
    counts = []
    for trials in (3, 30):
        _recorded(tmp_path / str(trials), trials)
        history = History(tmp_path / str(trials), IDENTITY)
        with _counted(history) as first:
            assert len(history.trials) == trials
        with _counted(history) as again:
            assert len(history.trials) == history.begun == trials
        counts.append((len(first), len(again)))
    assert counts[0] == counts[1]
    assert counts[0][1] <= 4


def test_a_history_is_opened_without_reading_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _recorded(tmp_path, 5)
    read: list[int] = []
    inner = BulkStorage._get_trials

    def counting(self: BulkStorage, *args: Any, **options: Any) -> list[FrozenTrial]:
        found = inner(self, *args, **options)
        read.extend(trial.number for trial in found)
        return found

    monkeypatch.setattr(BulkStorage, "_get_trials", counting)
    history = History(tmp_path, IDENTITY)
    assert read == []
    assert len(history.trials) == 5
    assert read == [0, 1, 2, 3, 4]


def test_a_trial_that_has_ended_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _recorded(tmp_path, 5)
    read: list[int] = []

    def counting(frozen: FrozenTrial) -> Trial:
        read.append(frozen.number)
        return to_trial(frozen)

    monkeypatch.setattr("autotune.tuning.history.to_trial", counting)
    history = History(tmp_path, IDENTITY)
    for _ in range(3):
        assert len(history.trials) == history.begun == 5
    running, after = (history.open(optuna.samplers.RandomSampler(seed=0)) for _ in range(2))
    history.start(after, QuantizationConfig(ops={"late": INT8}), "")
    failed = Trial(number=after.number, config=QuantizationConfig(), state=State.FAILED, reason="x")
    history.finish(after, failed, Objective.LATENCY, 0.01)
    for _ in range(3):
        assert [trial.number for trial in history.trials] == [0, 1, 2, 3, 4, after.number]
    history.discard(running)
    assert [trial.number for trial in history.trials] == [0, 1, 2, 3, 4, after.number]
    assert history.begun == 6
    assert read == [0, 1, 2, 3, 4, after.number]
    assert (tmp_path / DATABASE).is_file()


def test_a_copied_trial_has_its_config_and_not_the_text_of_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    every_kind(url)
    storage = BulkCache(BulkStorage(url))
    optuna.copy_study(from_study_name="s", from_storage=storage, to_storage=storage, to_study_name="copy")
    before, copied = (optuna.load_study(study_name=name, storage=url).trials for name in ("s", "copy"))
    assert [trial.user_attrs for trial in copied] == [trial.user_attrs for trial in before]
