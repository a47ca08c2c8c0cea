"""Workers on another host: accuracy is shared, latency is measured where the run is."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

import autotune
from autotune.adapter import Execution
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.criterion import Verdict
from autotune.errors import WorkspaceError
from autotune.host import Host, current_host
from autotune.owner import Owner
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning import claims, guests
from autotune.tuning.guests import RUN
from autotune.tuning.history import History, read_study
from autotune.tuning.insights import MeasuredInsights
from autotune.tuning.limits import SearchEnd
from autotune.tuning.storage import STUDY_NAME, open_storage
from tests.conftest import Recorder
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel
from tests.tuning.cheap import CHEAP, TOLERANT

IDENTITY = {"model": "abc", "execution": "1 threads, batch 1", "host": "here"}
ELSEWHERE = {**IDENTITY, "host": "there"}
CONFIG = QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT8)})
FIGURES = Measurement(accuracy=0.5, loss=0.0, verdict=Verdict.MET)


class Score(Recorder):
    """Scores a model by its distance from fp32.

    Args:
        model: The fp32 model.
        images: Batches to score on.
    """

    def __init__(self, model: NumpyModel, images: Sequence[Any]) -> None:
        super().__init__(images)
        run = NumpyAdapter().runner(model, Execution(threads=1))
        self.expected = [run({"data": batch})[0] for batch in images]


class Watch(autotune.Observer):
    """Calls a function with the number of each candidate that begins or ends; with None before the search."""

    def __init__(
        self, *, started: Callable[[int], None] | None = None, ended: Callable[[int | None], None] | None = None
    ):
        self._started, self._ended = started, ended

    def phase(self, name: str, detail: str = "") -> None:  # noqa: ARG002
        if name == "search" and self._ended is not None:
            self._ended(None)

    def trial_started(self, number: int, config: object, note: str) -> None:  # noqa: ARG002
        if number and self._started is not None:
            self._started(number)

    def trial_finished(self, trial: Trial, best: object) -> None:  # noqa: ARG002
        if trial.number and self._ended is not None:
            self._ended(trial.number)


GUEST = "guest"


def other(host: Host) -> Host:
    """A machine with another CPU, on which products are summed as on this one."""
    return dataclasses.replace(host, cpu=f"Not {host.cpu}", logical_cores=host.logical_cores + 2)


@pytest.fixture
def two_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the guest runs on another machine."""
    found = guests_host = current_host()
    guests_host = other(found)

    def host_of(_adapter: Any) -> Host:
        return guests_host if threading.current_thread().name == GUEST else found

    monkeypatch.setattr("autotune.tuning.preparing.host_of", host_of)


class Joined:
    """A run, and a guest that takes part in it from another thread; the run waits for trials of the guest.

    Args:
        model: The model.
        images: Batches of its data.
        storage: URL of the study.
        guest: Options of the guest, where they are others.
        awaited: How many candidates the guest has tried before the run begins with its first one.
        options: Options of both.
    """

    def __init__(
        self,
        model: NumpyModel,
        images: Sequence[Any],
        storage: str,
        *,
        guest: dict[str, Any] | None = None,
        awaited: int = 2,
        **options: Any,
    ) -> None:
        both = {"max_trials": 6, "criterion": TOLERANT, "strategy": "random", **CHEAP, **options, "storage": storage}
        ready, ended = threading.Event(), list[int]()

        def count(number: int | None) -> None:
            if number is not None:
                ended.append(number)
            if len(ended) >= awaited:
                ready.set()

        def wait(_number: int) -> None:
            while thread.is_alive() and not ready.wait(0.05):
                pass

        self.score, self.guests_score = Score(model, images), Score(model, images)
        self.end: SearchEnd | None = None
        self.error: BaseException | None = None

        def take_part() -> None:
            tuner = autotune.Tuner(**{**both, **(guest or {})}, observer=Watch(ended=count))
            try:
                self.end = tuner.take_part(model, images, self.guests_score.__call__)
            except BaseException as error:
                self.error = error

        # Bound methods: Python 3.11 parses the source of classes, and cannot in two threads at once.
        thread = threading.Thread(target=take_part, name=GUEST)
        thread.start()
        self.result = autotune.Tuner(**both, observer=Watch(started=wait)).tune(model, images, self.score.__call__)
        thread.join()
        self.trials, _ = read_study(storage)


@pytest.mark.usefixtures("two_hosts")
def test_a_worker_on_another_host_measures_accuracy_and_the_run_measures_latency(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    storage = f"journal://{tmp_path / 'journal.log'}"
    joined = Joined(network, images, storage)
    assert joined.error is None
    assert joined.end is not None
    assert len(joined.trials) == 7
    assert len({trial.config for trial in joined.trials}) == 7
    assert len(_taken(storage)) >= 2
    _check_nothing_is_measured_twice(joined, storage)
    assert all(_timed(trial) for trial in joined.trials)
    assert joined.result.verdict is Verdict.MET


def test_a_worker_with_another_number_of_threads_is_one_on_another_host(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    storage = f"journal://{tmp_path / 'journal.log'}"
    joined = Joined(network, images, storage, guest={"threads": 2})
    assert joined.error is None
    assert len(_taken(storage)) >= 2
    _check_nothing_is_measured_twice(joined, storage)
    assert all(_timed(trial) for trial in joined.trials)


@pytest.mark.usefixtures("two_hosts")
@pytest.mark.parametrize("strategy", ["auto", "basic"])
def test_a_strategy_that_asks_for_latencies_gets_those_of_the_run(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    profile = MeasuredInsights._op_latency

    def watched(self: Any) -> Any:
        seen.append(threading.current_thread().name)
        return profile(self)

    monkeypatch.setattr(MeasuredInsights, "_op_latency", watched)
    joined = Joined(network, images, f"journal://{tmp_path / 'journal.log'}", strategy=strategy, awaited=0)
    assert joined.error is None
    assert joined.end is not None
    assert GUEST not in seen
    assert len({trial.config for trial in joined.trials}) == len(joined.trials)
    assert all(trial.state is not TrialState.RUNNING for trial in joined.trials)


@pytest.mark.usefixtures("two_hosts")
def test_no_latency_of_another_host_counts_where_size_does(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    joined = Joined(network, images, f"journal://{tmp_path / 'journal.log'}", objective="size")
    assert joined.error is None
    assert len(joined.trials) == 7
    assert sum(not _timed(trial) for trial in joined.trials) >= 2
    assert _timed(joined.trials[0])


@pytest.mark.usefixtures("two_hosts")
def test_a_candidate_that_misses_the_target_on_another_host_costs_the_run_nothing(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    storage = f"journal://{tmp_path / 'journal.log'}"
    joined = Joined(network, images, storage, criterion=autotune.Criterion(absolute=1e-12))
    missed = [trial for trial in joined.trials if "on another host" in (trial.reason or "")]
    assert len(missed) >= 2
    assert all(trial.loss is not None and not _timed(trial) for trial in missed)
    assert joined.result.best.number == 0
    assert not _taken(storage)


@pytest.mark.usefixtures("two_hosts")
def test_other_figures_of_a_host_are_not_shared(network: NumpyModel, images: Sequence[Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {"objective": "memory", "isolation": "process", "max_trials": 1}
    joined = Joined(network, images, f"journal://{tmp_path / 'journal.log'}", **options)
    assert isinstance(joined.error, WorkspaceError)
    assert "one CPU" in str(joined.error)


def test_a_host_that_sums_products_otherwise_is_refused(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dataclasses.replace(current_host(), architecture="x86_64", features=("avx2", "avx512_vnni"))
    narrow = dataclasses.replace(found, features=("avx2",))
    monkeypatch.setattr(
        "autotune.tuning.preparing.host_of",
        lambda _adapter: narrow if threading.current_thread().name == GUEST else found,
    )
    joined = Joined(network, images, f"journal://{tmp_path / 'journal.log'}")
    assert isinstance(joined.error, WorkspaceError)
    assert "sum products of 8 bits as the host of the run does" in str(joined.error)
    assert joined.guests_score.calls == 0


def test_what_is_handed_over_runs_until_somebody_takes_it_and_again_if_that_one_dies(tmp_path: Path) -> None:
    here, there = History(tmp_path, IDENTITY), History(tmp_path, ELSEWHERE, on_any_host=True)
    assert (here.elsewhere, there.elsewhere) == (False, True)
    given = _open(there)
    there.start(given, CONFIG, "why")
    there.identify(given, "model-1")
    there.hand_over(given, FIGURES, needs_accuracy=True)
    (pending,) = here.handed
    assert (pending.number, pending.config, pending.note, pending.needs_accuracy) == (0, CONFIG, "why", True)
    assert here.accuracy_of("model-1") == FIGURES
    assert here.accuracy_of("model-2") is None
    assert [(trial.number, trial.state) for trial in here.trials] == [(0, TrialState.RUNNING)]
    assert here.begun == 1  # or the next proposal would be drawn with the same seed
    taker = _open(here)
    here.start(taker, CONFIG, "why", taken_from=0)
    assert not here.handed
    assert [trial.number for trial in here.trials] == [1]
    here.discard(taker)
    assert [each.number for each in there.handed] == [0]
    again = _open(here)
    here.start(again, CONFIG, "why", taken_from=0)
    trial = Trial(number=again.number, config=CONFIG, state=TrialState.COMPLETED, measurement=FIGURES)
    here.finish(again, trial, Objective.SIZE, 0.01)
    for history in (here, there, History(tmp_path, IDENTITY)):
        assert not history.handed
        assert [(each.number, each.state) for each in history.trials] == [(2, TrialState.COMPLETED)]


def test_a_guest_ends_once_the_run_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, guest = History(tmp_path, IDENTITY), History(tmp_path, ELSEWHERE, on_any_host=True)
    assert not guests._lives(guest)
    guests.name_run(run, current_host())
    assert guests._lives(guest)
    run.close()
    assert not guests._lives(guest)
    # On another machine the heart of the run tells.
    far = dataclasses.replace(Owner.from_json(run.kept(RUN)["owner"]), machine="another one")
    assert guest.claims.lives(far)
    clock = [0.0]
    monkeypatch.setattr("autotune.tuning.claims.time.monotonic", lambda: clock[0])
    guest.claims._seen[far.token] = (0, clock[0])
    clock[0] = claims.GRACE_S + 1
    assert not guest.claims.lives(far)


def test_a_worker_that_is_first_waits_for_a_run_to_say_whose_host_counts(tmp_path: Path) -> None:
    storage, notes = f"journal://{tmp_path / 'journal.log'}", list[str]()

    def noted(text: str) -> None:
        notes.append(text)
        History(storage, IDENTITY).close()

    guests.await_study(storage, None, noted)
    assert notes == ["No run has begun this study yet: this worker waits for `autotune run`"]
    with pytest.raises(autotune.errors.DeadlineReached):
        guests.await_study(f"journal://{tmp_path / 'other.log'}", 0.0, notes.append)


def _open(history: History) -> Any:
    return history.open(optuna.samplers.RandomSampler(seed=1))


def _timed(trial: Trial) -> bool:
    return trial.measurement is not None and trial.measurement.latency_ms is not None


def _check_nothing_is_measured_twice(joined: Joined, storage: str) -> None:
    """The run has evaluated what it has timed and the guest had not; the guest may end in an evaluation."""
    taken = _taken(storage)
    evaluated = [trial for trial in joined.trials if trial.loss is not None]
    assert joined.score.calls == sum(trial.number not in taken for trial in evaluated)
    assert joined.guests_score.calls >= len(taken)


def _taken(storage: str) -> list[int]:
    study = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(storage))
    return [trial.number for trial in study.get_trials() if "autotune:taken_from" in trial.user_attrs]
