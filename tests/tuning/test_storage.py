from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from autotune.config import QuantizationConfig
from autotune.errors import MissingDependencyError, WorkspaceError
from autotune.tuning import storage as module
from autotune.tuning.history import History, read_study
from autotune.tuning.storage import DATABASE, PATIENCE_S, forget, name_of, open_storage, storage_errors

IDENTITY = {"model": "abc"}


def _failing(text: str) -> OperationalError:
    return OperationalError("SELECT 1", None, sqlite3.OperationalError(text))


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (_failing("database or disk is full"), "the disk is full"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (_failing("database is locked"), "another process has locked it"),
        (_failing("attempt to write a readonly database"), "may not be written"),
        (_failing("unable to open database file"), "its file or folder is gone"),
        (_failing('connection to server at "x" failed: Connection refused'), "the server does not answer"),
        (_failing('password authentication failed for user "u"'), "refuses the user or the password"),
        (_failing('database "tuning" does not exist'), "no such database"),
        (RuntimeError("no longer compatible with the table schema (set up by optuna 9)"), "another version of Optuna"),
        (_failing("something new"), "something new"),
    ],
)
def test_an_error_of_a_storage_says_what_is_the_matter(error: Exception, meaning: str) -> None:
    with pytest.raises(WorkspaceError, match=meaning), storage_errors("sqlite:///x.db"):
        raise error


@pytest.mark.parametrize(
    "text",
    [
        "FATAL:  the database system is starting up",
        "FATAL:  the database system is not yet accepting connections",
        "FATAL:  the database system is not accepting connections",
        "FATAL:  the database system is in recovery mode",
        "FATAL:  the database system is shutting down",
        "FATAL:  sorry, too many clients already",
        "FATAL:  remaining connection slots are reserved for superusers",
        "terminating connection due to administrator command",
        "terminating connection because of crash of another server process",
        "server closed the connection unexpectedly",
        "SSL connection has been closed unexpectedly",
        "could not receive data from server: Connection timed out",
        "connection to server failed: No route to host",
        "the connection is lost",
        "consuming input failed: EOF detected",
    ],
)
def test_what_a_server_says_that_comes_back_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    clock = _Clock()
    monkeypatch.setattr(module, "time", clock)
    storage = open_storage(tmp_path)
    inner: Any = storage._inner  # type: ignore[attr-defined]
    answers = [_failing(text), _failing(text), []]

    def answer() -> Any:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(inner, "get_all_studies", answer)
    assert storage.get_all_studies() == []
    assert clock.now > 0
    with pytest.raises(WorkspaceError, match="the server does not answer"), storage_errors("postgresql://x/y"):
        raise _failing(text)


def test_an_error_that_is_none_of_a_storage_passes() -> None:
    with pytest.raises(ZeroDivisionError), storage_errors(None):
        raise ZeroDivisionError


def test_a_damaged_database_is_named_and_begun_anew_on_demand(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database" * 1000)
    with pytest.raises(WorkspaceError, match="damaged, or no history"):
        History(tmp_path, IDENTITY)
    forget(tmp_path)
    forget(tmp_path)
    assert list(History(tmp_path, IDENTITY).trials) == []


def test_a_later_schema_of_optuna_is_named(tmp_path: Path) -> None:
    History(tmp_path, IDENTITY)
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v99'")
        database.execute("UPDATE version_info SET schema_version = 99")
    with pytest.raises(WorkspaceError, match="another version of Optuna wrote it"):
        History(tmp_path, IDENTITY)


def test_a_later_format_of_ours_is_named_by_readers_too(tmp_path: Path) -> None:
    History(tmp_path, IDENTITY).study.set_user_attr("autotune:format", 99)
    for read in (lambda: History(tmp_path, IDENTITY), lambda: read_study(tmp_path)):
        with pytest.raises(WorkspaceError, match="format 99, but this version of autotune reads 1"):
            read()


@pytest.mark.parametrize(("removed", "meaning"), [(True, "removed while it was in use"), (False, "may not be written")])
def test_a_workspace_that_was_removed_is_told_from_one_that_may_not_be_written(
    tmp_path: Path, removed: bool, meaning: str
) -> None:
    History(tmp_path, IDENTITY)
    if removed:
        (tmp_path / DATABASE).unlink()
    with pytest.raises(WorkspaceError, match=meaning), storage_errors(tmp_path):
        raise _failing("attempt to write a readonly database")


@pytest.mark.parametrize("value", [None, 5, "x", [], {"ops": 3}])
def test_an_altered_trial_is_named(tmp_path: Path, value: object) -> None:
    history = History(tmp_path, IDENTITY)
    opened = history.open(optuna.samplers.RandomSampler(seed=1))
    history.start(opened, QuantizationConfig(), "")
    opened.handle.set_user_attr("autotune:config", value)
    with pytest.raises(WorkspaceError, match="Trial 0 of the history was altered"):
        _ = history.trials


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("gone_s", [10.0, PATIENCE_S + 5])
def test_a_server_that_is_gone_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone_s: float
) -> None:
    clock = _Clock()
    monkeypatch.setattr(module, "time", clock)
    storage = open_storage(tmp_path)
    inner: Any = storage._inner  # type: ignore[attr-defined]
    answer = inner.get_all_studies

    def absent() -> Any:
        if clock.now < gone_s:
            raise _failing("server closed the connection unexpectedly")
        return answer()

    monkeypatch.setattr(inner, "get_all_studies", absent)
    if gone_s < PATIENCE_S:
        assert storage.get_all_studies() == []
        assert clock.now >= gone_s
    else:
        with pytest.raises(OperationalError):
            storage.get_all_studies()


def test_an_outcome_whose_answer_was_lost_counts_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", _Clock())
    storage = open_storage(tmp_path)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    inner: Any = storage._inner  # type: ignore[attr-defined]
    tell, lost = inner.set_trial_state_values, [True]

    def lose(*arguments: Any, **options: Any) -> Any:
        told = tell(*arguments, **options)
        if lost.pop():
            raise _failing("server closed the connection unexpectedly")
        return told

    lost.insert(0, False)
    monkeypatch.setattr(inner, "set_trial_state_values", lose)
    study.tell(trial, 0.5)
    assert study.best_value == 0.5
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(WorkspaceError, match="must hold no password") as caught:
        open_storage("postgresql://me:hush@localhost/tuning")
    assert "hush" not in str(caught.value)
    assert "PGPASSWORD" in str(caught.value)
    assert name_of("mysql://me:hush@localhost/tuning") == "mysql://me:***@localhost/tuning"


@pytest.mark.parametrize("url", ["nonsense", "nothing://x", "", "grpc://nowhere", "://me:hush@x"])
def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises((WorkspaceError, MissingDependencyError)) as caught:  # the latter where gRPC is not installed
        open_storage(url)
    assert "hush" not in str(caught.value)


def test_a_missing_driver_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match=r"psycopg2.*autotune-quantization\[postgresql\]"):
        open_storage("postgresql://localhost/tuning")


def test_another_eval_fn_is_another_run_and_a_workspace_that_stored_none_goes_on(tmp_path: Path) -> None:
    History(tmp_path, IDENTITY)
    History(tmp_path, {**IDENTITY, "eval_fn": "module.score 1"})
    with pytest.raises(WorkspaceError, match=r"eval_fn: module.score 1 there, module.score 2 here.*`--fresh`"):
        History(tmp_path, {**IDENTITY, "eval_fn": "module.score 2"})
    host = {**IDENTITY, "eval_fn": "module.score 1", "host": "there"}
    other = tmp_path / "other"
    History(other, host)
    with pytest.raises(WorkspaceError, match="one CPU"):
        History(other, {**host, "host": "here"})
    History(other, {**host, "host": "here"}, on_any_host=True)


@pytest.mark.parametrize("url", ["mysql://me:hush@host/x", "oracle://me:hush@host/x"])
def test_a_missing_driver_of_any_database_is_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    monkeypatch.setitem(sys.modules, "oracledb", None)
    with pytest.raises(
        MissingDependencyError, match=r"needs a driver that is not installed: .*(MySQLdb|oracledb)"
    ) as no:
        open_storage(url)
    assert "hush" not in str(no.value)


def test_a_journal_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(WorkspaceError, match="A journal must be a regular file"):
            read_study(f"journal://{path}")
    with pytest.raises(WorkspaceError, match="it is a folder"):
        read_study(f"journal://{tmp_path}")
    with pytest.raises(WorkspaceError, match="its file or folder is gone") as gone:
        read_study("journal://")
    assert "is kept" not in str(gone.value)


def test_an_empty_storage_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    History(tmp_path, IDENTITY).close()
    with pytest.raises(WorkspaceError, match="must be a URL"):
        read_study("")


def test_a_nested_attribute_is_damage(tmp_path: Path) -> None:
    history = History(tmp_path, IDENTITY)
    history.keep("x", 1)
    history.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        database.execute("UPDATE study_user_attributes SET value_json = ? WHERE key LIKE '%x'", ("[" * 100_000,))
    with pytest.raises(WorkspaceError, match="it is damaged"):
        read_study(tmp_path)
