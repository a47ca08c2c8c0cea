"""A study on PostgreSQL, for real: on loopback, where Debian's package is installed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from autotune.config import QuantizationConfig
from autotune.errors import WorkspaceError
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.bulk import BulkStorage
from autotune.tuning.history import History
from tests.tuning.postgresql import PASSWORD, Server, postgresql
from tests.tuning.test_bulk import as_text, every_kind

IDENTITY = {"model": "abc"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with postgresql(tmp_path) as found:
        yield found


def test_trials_on_postgresql_are_those_that_optuna_reads(server: Server) -> None:
    url = server.url.replace("postgresql://", "postgresql+psycopg2://")
    study = every_kind(url)
    for named, after in (({1, 5}, 3), (set[int](), -1)):
        ours, theirs = (kind(url)._get_trials(study, None, named, after) for kind in (BulkStorage, RDBStorage))
        assert [as_text(trial) for trial in ours] == [as_text(trial) for trial in theirs]
    running = [trial.number for trial in BulkStorage(url).running(study)]
    assert running == [trial.number for trial in theirs if not trial.state.is_finished()][-1:]


def test_a_server_that_is_stopped_for_a_while_loses_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.tuning.storage.PATIENCE_S", 600.0)  # a busy machine takes its time to start it again
    history = History(server.url, IDENTITY)
    opened = history.open(optuna.samplers.RandomSampler(seed=0))
    history.start(opened, QuantizationConfig(), "fp32")
    server.stop()
    later = threading.Timer(1.0, server.start)
    later.start()
    measured = Measurement(accuracy=1.0, loss=0.0, speedup=1.0)
    trial = Trial(number=0, config=QuantizationConfig(), state=TrialState.COMPLETED, measurement=measured)
    history.finish(opened, trial, Objective.LATENCY, 0.01)
    later.join()
    history.close()
    assert [each.state for each in History(server.url, IDENTITY).trials] == [TrialState.COMPLETED]


def test_a_server_that_stays_away_is_named_without_its_password(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    monkeypatch.setattr("autotune.tuning.storage.PATIENCE_S", 0.0)
    with pytest.raises(WorkspaceError, match="the server does not answer") as refused:
        History(server.url, IDENTITY)
    assert PASSWORD not in str(refused.value)


def test_a_wrong_password_is_told_apart(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "another-one")
    with pytest.raises(WorkspaceError, match="refuses the user or the password") as refused:
        History(server.url, IDENTITY)
    assert "another-one" not in str(refused.value)
