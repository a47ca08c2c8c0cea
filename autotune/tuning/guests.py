"""Workers on another host than the run's: they measure accuracy, and hand over to the run what it has to time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from autotune.adapter import ModelT
from autotune.config import QuantizationConfig
from autotune.criterion import Verdict
from autotune.errors import DeadlineReached, WorkspaceError
from autotune.evaluation import Evaluation
from autotune.evaluation.front import EvaluatorInFront
from autotune.host import Host
from autotune.owner import Owner
from autotune.runtimes.turns import Turns
from autotune.strategy import Exhausted, Proposal
from autotune.trial import Trial, TrialState
from autotune.tuning.history import SUMMARY, History, OpenTrial
from autotune.tuning.insights import MeasuredInsights
from autotune.tuning.limits import SearchEnd
from autotune.tuning.rejudge import without_latency
from autotune.tuning.search import Search
from autotune.tuning.side import Side
from autotune.tuning.storage import STUDY_NAME, open_storage, storage_errors
from autotune.tuning.stored_trials import IDENTITY

RUN = "run"
"""Key of :meth:`History.keep`: the process that runs the study, and its host."""

_POLL_S = 0.5


def await_study(storage: str, deadline: float | None, note: Callable[[str], None]) -> None:
    """Wait until a run has begun the study of a storage that several hosts share: its host is the one that counts.

    Args:
        storage: URL of the storage.
        deadline: A ``time.monotonic()`` value.
        note: Told that it waits.

    Raises:
        DeadlineReached: The deadline passed.
        WorkspaceError: The storage cannot be used.
    """
    with storage_errors(storage):
        opened = open_storage(storage)
        told = False
        while not _begun(opened):
            if not told:
                note("No run has begun this study yet: this worker waits for `autotune run`")
                told = True
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineReached("The time given to the worker ended while it waited for a run")
            time.sleep(_POLL_S)


def _begun(storage: Any) -> bool:
    try:
        found = storage.get_study_id_from_name(STUDY_NAME)
    except KeyError:
        return False
    attrs: Mapping[str, Any] = storage.get_study_user_attrs(found)
    return IDENTITY in attrs


def name_run(history: History, host: Host) -> None:
    """Called by a run: keep which process it is and on what host, for workers elsewhere."""
    history.keep(RUN, {"owner": history.claims.owner.to_json(), "host": host.to_json()})


def await_run(history: History, host: Host, deadline: float | None, note: Callable[[str], None]) -> None:
    """Wait until the run lives, or has ended, and has measured fp32; called by a worker on another host.

    Args:
        history: The shared history.
        host: This host.
        deadline: A ``time.monotonic()`` value.
        note: Told what this worker does.

    Raises:
        DeadlineReached: The deadline passed.
        WorkspaceError: Accuracies of the two hosts are not the same.
    """
    note(
        "This worker executes models otherwise than the run, on another host or on another number of threads: it "
        "measures accuracy, and the run measures latency"
    )
    while not _measured(history) or not (_lives(history) or history.kept(SUMMARY)):
        history.claims.wait(_POLL_S, deadline)
    there = Host.from_json(history.kept(RUN)["host"])
    if there.saturates_u8s8 != host.saturates_u8s8:
        raise WorkspaceError(
            "A worker must sum products of 8 bits as the host of the run does, since accuracies are shared: the run is "
            f"on {there.cpu}, {_sums(there)}, and this worker on {host.cpu}, {_sums(host)}. Start it on such a host"
        )


def _sums(host: Host) -> str:
    return "which cuts sums of two to 16 bits" if host.saturates_u8s8 else "which sums them in 32 bits"


def _lives(history: History) -> bool:
    kept = history.kept(RUN)
    return kept is not None and history.claims.lives(Owner.from_json(kept["owner"]))


def _measured(history: History) -> bool:
    trials = history.trials
    return bool(trials) and trials[0].measurement is not None


class AccuracyAlone(EvaluatorInFront):
    """An evaluator whose latencies count for nothing: none is a reason to prune, and none is reported."""

    def evaluate(
        self,
        candidate: Any,
        *,
        incumbent: object = None,  # noqa: ARG002  speed is compared on the host of the run
        worth_from: object = None,  # noqa: ARG002
        **options: Any,
    ) -> Evaluation:
        """Measure a candidate; see :meth:`autotune.evaluation.Evaluator.evaluate`."""
        found: Evaluation = self._evaluator.evaluate(candidate, **options)
        return dataclasses.replace(found, measurement=without_latency(found.measurement))


class NotMeasuredHere(Exception):
    """A strategy asks for a latency that only the host of the run may measure, and that is not known yet.

    Attributes:
        known: Returns whether it is known by now.
    """

    def __init__(self, known: Callable[[], bool]) -> None:
        super().__init__("it is measured on the host of the run")
        self.known = known


class GuestInsights(MeasuredInsights[ModelT]):
    """Insights whose latencies come from the run."""

    def _op_latency(self) -> dict[str, dict[str, tuple[float, float]]]:
        raise NotMeasuredHere(lambda: self._history.kept("op_latency") is not None)

    def _crossing_latency(self) -> dict[str, float]:
        raise NotMeasuredHere(lambda: self._history.kept("crossing_latency") is not None)

    def _relative_speed(self, config: QuantizationConfig, other: QuantizationConfig) -> list[float]:
        key = f"relative speed:{config.fingerprint}:{other.fingerprint}"
        raise NotMeasuredHere(lambda: self._history.kept(key) is not None)


class GuestSearch(Search[ModelT]):
    """The part of a search that needs no latency.

    A candidate that misses the target is recorded. All others are handed over to the run, which times them, and so is
    one that fails, since it may do so on this host alone.
    """

    _needs_accuracy = False

    def baseline(self) -> Trial:
        """The fp32 model as the run has measured it."""
        found = self._history.trials[0]
        assert found.measurement is not None
        with self._stopwatch("evaluate"):
            self._evaluator.resume(found.measurement, deadline=self._limits.deadline)
        return found

    def _turns(self) -> Turns[ModelT]:
        return Turns(self._sides, {}, self._objective, self._note)

    def _try_preparation(self, side: Side[ModelT]) -> None:
        """Do nothing: what preparation gains is speed."""

    def _given_up(self) -> None:
        """Search in any case: whether compiling pays is the run's to say."""

    def _take_over(self) -> None:
        """Leave what was handed over to the run."""

    def _turn(self, side: Side[ModelT]) -> SearchEnd | Exhausted | None:
        if not _lives(self._history):
            return SearchEnd(reason="the run that this worker takes part in has ended")
        try:
            outcome = super()._turn(side)
        except NotMeasuredHere as missing:
            self._await_run(missing.known)
            return None
        if isinstance(outcome, Exhausted) and self._history.handed:
            self._await_run(lambda: False)
            return None
        return outcome

    def _await_run(self, known: Callable[[], bool]) -> None:
        """Wait until the run has measured something, or has ended."""
        before = self._states()
        while self._states() == before and not known() and _lives(self._history):
            self._history.claims.wait(_POLL_S, self._limits.deadline)

    def _states(self) -> list[tuple[int, TrialState]]:
        return [(trial.number, trial.state) for trial in self._history.trials]

    def _try(self, opened: OpenTrial, trials: Any, proposal: Proposal, side: Side[ModelT], model: Any = None) -> None:
        self._needs_accuracy = proposal.needs_accuracy
        super()._try(opened, trials, proposal, side, model)

    def _record(self, opened: OpenTrial, trial: Trial) -> None:
        measured = trial.measurement
        missed = measured is not None and measured.verdict is Verdict.MISSED
        if trial.same_as is None and not missed:
            self._history.hand_over(opened, measured, needs_accuracy=self._needs_accuracy)
            self._observer.trial_finished(trial, None)
            return
        if trial.same_as is None and trial.state is TrialState.COMPLETED:
            reason = "it misses the target, as a worker on another host has measured"
            trial = dataclasses.replace(trial, state=TrialState.PRUNED, reason=reason)
        super()._record(opened, trial)

    def _hand_out(self, candidate: ModelT, trial: Trial) -> None:
        """Keep no model: the run makes its own."""
