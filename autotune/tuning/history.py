"""The history of a run: one Optuna study, and nothing beside it.

The study holds everything that a killed run needs to continue, that several workers share and that reports read: its
user attributes say what the run is about (model, data, space, criterion, host), each trial's say what was asked and
what came of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from autotune.arguments import require
from autotune.config import QuantizationConfig
from autotune.errors import WorkspaceError
from autotune.garbage import uncollected
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.bulk import CONFIG
from autotune.tuning.claims import Claims, TrialGivenUp
from autotune.tuning.drawing import suggest
from autotune.tuning.handover import HandedOver, Handovers, stored
from autotune.tuning.identity import EVALUATION_DATA, LATER, elsewhere, require_same
from autotune.tuning.storage import DATABASE, STUDY_NAME, is_shared, name_of, open_storage, open_study, storage_errors
from autotune.tuning.stored_trials import (
    DUPLICATE,
    DURATION,
    FORMAT,
    HANDED,
    IDENTITY,
    KEPT,
    MEASUREMENT,
    MODEL,
    NOTE,
    REASON,
    REVISION,
    SAME_AS,
    STATE,
    TAKEN,
    constraint_of,
    counts,
    lost,
    revised,
    to_trial,
    told_values,
)

FORMAT_VERSION = 1

CONSTRAINT = "loss"
"""Constraint of a trial: ``loss - target``, where it was measured; every constrained sampler of Optuna reads it."""

SETUP = "setup"
"""Key of :meth:`History.keep`: what a reader needs to make sense of the trials of a run that did not end."""
RUNTIMES = "runtimes"
"""Key of :meth:`History.keep`: which runtime's fp32 is the baseline, and how fast fp32 is on each, where a run has
several."""
SUMMARY = "summary"
"""Key of :meth:`History.keep`: what the run came to."""
HOLDOUT = "holdout"
"""Key of :meth:`History.keep`: by number, what was measured of trials on the data held out."""


@dataclass(frozen=True, kw_only=True)
class OpenTrial:
    """A trial whose config is about to be chosen."""

    number: int
    handle: optuna.Trial

    def draw(self, distributions: Mapping[str, BaseDistribution]) -> Mapping[str, Any]:
        """Draw a value for each parameter from the study's sampler and store it with the trial."""
        return {name: suggest(self.handle, name, distribution) for name, distribution in distributions.items()}


class History:
    """The trials of one run, in one Optuna study.

    Args:
        storage: Place of the study: a workspace folder, an Optuna storage URL, or None for memory only.
        identity: Model, data and settings of the trials. A study with another identity is refused, so that figures of
            different models, data, targets or hosts never meet in one table.
        multi_objective: Whether the study has three values instead of one.
        on_any_host: Whether its trials may come from another host than the one in the identity.

    Attributes:
        claims: Owners of the running trials, where several runs share the study.
        elsewhere: Whether this process is on another host than the run, or executes models otherwise.

    Raises:
        WorkspaceError: The storage cannot be used, or holds the trials of something else.
    """

    def __init__(
        self,
        storage: Path | str | None,
        identity: Mapping[str, str],
        *,
        multi_objective: bool = False,
        on_any_host: bool = False,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._multi_objective = multi_objective
        self._finished: dict[int, Trial] = {}
        self._settled = 0  # so many trials of the study, from the first, have ended: they change no more
        self._known: list[int] = []  # the numbers of those among them that count
        self._gone = 0  # and how many of them were interrupted, those handed over aside
        self._handovers = Handovers()
        self._storage = storage
        with storage_errors(storage):
            self._study = open_study(storage, multi_objective=multi_objective)
            ignored = elsewhere(self._study.user_attrs.get(IDENTITY, identity), identity) if on_any_host else set()
            self.elsewhere = bool(ignored)
            self._check_identity(storage, identity, ignored)
            self.claims = Claims(self._study, shared=is_shared(storage))
            self.claims.release_dead()

    def close(self) -> None:
        """Called when the run has ended: a trial that it left running counts as untried from here on."""
        self.claims.close()

    @property
    def study(self) -> Study:
        """The Optuna study, for Optuna's own tools."""
        return self._study

    @property
    def trials(self) -> Sequence[Trial]:
        """All trials by number, the baseline first; without duplicates of earlier ones and without interrupted ones.

        One that another host has handed over runs until it is timed.
        """
        rest = self._read_new()
        found = [
            *map(self._finished.__getitem__, self._known),
            *(self._finished.get(trial.number) or self._read(trial) for trial in rest if counts(trial)),
        ]
        if handed := self._handovers.pending(rest):
            found = sorted([*found, *(each.running for each in handed)], key=lambda trial: trial.number)
        return found

    @property
    def handed(self) -> Sequence[HandedOver]:
        """The trials that another host has handed over and nobody has taken."""
        return self._handovers.pending(self._read_new())

    def accuracy_of(self, model: str) -> Measurement | None:
        """Figures of a model that another host has measured, by its fingerprint; None where there are none."""
        return self._handovers.accuracy_of(model)

    @property
    def begun(self) -> int:
        """The number of trials that were begun and not interrupted.

        A seed made of it lets a run that continues after a kill draw what the uninterrupted one would have drawn.
        """
        rest = self._read_new()
        return self._settled - self._gone + sum(not lost(trial) for trial in rest)

    def open(self, sampler: BaseSampler) -> OpenTrial:
        """Begin a trial; a config is given to it by :meth:`start` or :meth:`repeat`."""
        self._study.sampler = sampler
        with storage_errors(self._storage):
            handle = self._study.ask()
            self.claims.sign(handle)
        return OpenTrial(number=handle.number, handle=handle)

    def discard(self, opened: OpenTrial) -> None:
        """End a trial that got no config or no outcome; its config counts as untried. A finished trial stays."""
        with storage_errors(self._storage):
            self._study.tell(opened.handle, state=OptunaState.FAIL, skip_if_finished=True)

    def hand_over(self, opened: OpenTrial, measured: Measurement | None, *, needs_accuracy: bool) -> None:
        """End a trial whose latency is measured on the host of the run, with the figures that this host could take."""
        with storage_errors(self._storage), _given_up():
            opened.handle.set_user_attr(HANDED, stored(measured, needs_accuracy=needs_accuracy))
            self._study.tell(opened.handle, state=OptunaState.FAIL, skip_if_finished=True)

    def start(self, opened: OpenTrial, config: QuantizationConfig, note: str, *, taken_from: int | None = None) -> None:
        """Record what a trial asks; from here on it is part of the history.

        Args:
            opened: The trial that :meth:`open` returned.
            config: The config that it asks for.
            note: Why it was proposed.
            taken_from: Number of the trial of another host whose latency is measured in this one.
        """
        with storage_errors(self._storage), _given_up():
            if taken_from is not None:
                opened.handle.set_user_attr(TAKEN, taken_from)
            opened.handle.set_user_attr(NOTE, note)
            opened.handle.set_user_attr(CONFIG, config.to_json())

    def repeat(self, opened: OpenTrial, earlier: Trial, objective: Objective, target: float) -> None:
        """Answer a trial from an earlier one with the same config."""
        with storage_errors(self._storage), _given_up():
            opened.handle.set_user_attr(DUPLICATE, earlier.number)
            opened.handle.set_user_attr(CONFIG, earlier.config.to_json())
            self._tell(opened, earlier, objective, target)

    def identify(self, opened: OpenTrial, model: str) -> Trial | None:
        """Record which model a trial's config makes.

        Args:
            opened: The trial that :meth:`open` returned.
            model: The model's fingerprint.

        Returns:
            The first earlier trial whose config makes the same one; None where there is none.
        """
        with storage_errors(self._storage), _given_up():
            opened.handle.set_user_attr(MODEL, model)
            frozen = self._study.get_trials(deepcopy=False)
        same = {trial.number for trial in frozen[: opened.number] if trial.user_attrs.get(MODEL) == model}
        return next((trial for trial in self.trials if trial.number in same), None)

    def finish(self, opened: OpenTrial, trial: Trial, objective: Objective, target: float) -> None:
        """Record what came of a trial.

        Args:
            opened: The trial that :meth:`open` returned.
            trial: Outcome of the trial.
            objective: Which figure the sampler is told.
            target: The largest loss allowed, from which the sampler's constraint is made.
        """
        with storage_errors(self._storage), _given_up():
            handle = opened.handle
            if trial.measurement is not None:
                handle.set_user_attr(MEASUREMENT, trial.measurement.to_json())
            if trial.reason:
                handle.set_user_attr(REASON, trial.reason)
            if trial.duration_s is not None:
                handle.set_user_attr(DURATION, trial.duration_s)
            if trial.same_as is not None:
                handle.set_user_attr(SAME_AS, trial.same_as)
                handle.set_user_attr(NOTE, trial.note)
            # Last: what has a state has an outcome, also where the process ends between two of these.
            handle.set_user_attr(STATE, str(trial.state))
            self._tell(opened, trial, objective, target)

    def revise(self, trial: Trial) -> None:
        """Replace what is recorded of a finished trial, once more is known of it than its own time allowed.

        The values that the sampler was told stay as they were: it has drawn on them. Trials of the same model share
        what is learnt.
        """
        alike = [each for each in self.trials if each.same_as == trial.number]
        measurement = None if trial.measurement is None else trial.measurement.to_json()
        revision = {"state": str(trial.state), "reason": trial.reason, "measurement": measurement}
        for each in (trial, *alike):
            self._finished[each.number] = dataclasses.replace(
                each, state=trial.state, reason=trial.reason, measurement=trial.measurement
            )
            self.keep(f"{REVISION}{each.number}", revision)

    def kept(self, name: str) -> Any:
        """The value that :meth:`keep` stored, or None."""
        return self._study.user_attrs.get(KEPT + name)

    def keep(self, name: str, value: Any) -> None:
        """Store a JSON value beside the trials.

        Values that were measured once for the run are kept here, so that a resumed run decides on the same figures.
        """
        with storage_errors(self._storage):
            self._study.set_user_attr(KEPT + name, value)

    def require_evaluated_on(self, data: str | None) -> None:
        """See that all trials were evaluated on the same data; the first run says on which.

        Args:
            data: A hash of the labelled data; None where the user's function alone knows them.

        Raises:
            WorkspaceError: Earlier trials were evaluated on others.
        """
        known = self.kept(EVALUATION_DATA)
        if known is not None and data is not None:
            require_same(name_of(self._storage), {EVALUATION_DATA: known}, {EVALUATION_DATA: data})
        elif data is not None:
            self.keep(EVALUATION_DATA, data)

    def _read_new(self) -> Sequence[FrozenTrial]:
        """Read the trials that have ended since the last call, each once.

        Returns:
            The trials of the study from the first on that runs.
        """
        frozen = self._study.get_trials(deepcopy=False)
        new = list(itertools.takewhile(lambda trial: trial.state.is_finished(), frozen[self._settled :]))
        if new:
            # One query for all of them: a resumed run has thousands.
            kept, counting = self._study.user_attrs, [trial for trial in new if counts(trial)]
            with uncollected():
                for trial in counting:
                    if trial.number not in self._finished:
                        self._read(trial, kept)
            self._known += [trial.number for trial in counting]
            self._gone += sum(map(lost, new))
            self._handovers.settle(new)
            self._settled += len(new)
        return frozen[self._settled :]

    def _read(self, frozen: FrozenTrial, attrs: Mapping[str, Any] | None = None) -> Trial:
        trial = to_trial(frozen)
        if trial.state is TrialState.RUNNING:
            return trial
        attrs = self._study.user_attrs if attrs is None else attrs
        trial = revised(trial, attrs.get(f"{KEPT}{REVISION}{frozen.number}"))
        self._finished[trial.number] = trial
        return trial

    def _tell(self, opened: OpenTrial, trial: Trial, objective: Objective, target: float) -> None:
        measurement = trial.measurement
        # Where the loss is one of the values it must not be a constraint as well, or the front would end at the target.
        if measurement is not None and measurement.loss is not None and not self._multi_objective:
            opened.handle.set_constraint(CONSTRAINT, constraint_of(trial, measurement.loss, objective, target))
        values = None
        if measurement is not None:
            values = told_values(measurement, objective, multi_objective=self._multi_objective)
        if trial.state is TrialState.COMPLETED and values is not None:
            self._study.tell(opened.handle, values)
        elif trial.state is TrialState.PRUNED and not self._multi_objective:
            # Optuna keeps the value of a pruned trial as its last intermediate one.
            if values is not None:
                opened.handle.report(values[0], step=0)
            self._study.tell(opened.handle, state=OptunaState.PRUNED)
        else:
            self._study.tell(opened.handle, state=OptunaState.FAIL)

    def _check_identity(self, storage: Path | str | None, identity: Mapping[str, str], ignored: Set[str]) -> None:
        stored = self._study.user_attrs.get(IDENTITY)
        if stored is None:
            self._study.set_user_attr(FORMAT, FORMAT_VERSION)
            self._study.set_user_attr(IDENTITY, dict(identity))
            return
        version = self._study.user_attrs.get(FORMAT)
        if version != FORMAT_VERSION:
            raise WorkspaceError(_other_format(storage, version))
        require_same(name_of(storage), stored, identity, ignored)
        if LATER & (identity.keys() - stored.keys()):
            self._study.set_user_attr(IDENTITY, {**identity, **stored})


def read_study(storage: Path | str) -> tuple[Sequence[Trial], Mapping[str, Any]]:
    """The trials of a history and what was kept beside them, without changing anything there.

    Raises:
        WorkspaceError: There is no history.
    """
    require("storage", storage, Path | str, WorkspaceError)
    if isinstance(storage, str) and storage and "://" not in storage:
        storage = Path(storage)  # text that is no URL names a workspace
    if isinstance(storage, Path) and not (storage / DATABASE).is_file():
        raise WorkspaceError(f"{storage} holds no history ({DATABASE} is missing): is it the workspace of a run?")
    with storage_errors(storage):
        try:
            study = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(storage))
        except KeyError:
            raise WorkspaceError(
                f"{name_of(storage)} holds no study called {STUDY_NAME!r}: is it the storage of a run?"
            ) from None
        version = study.user_attrs.get(FORMAT, FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise WorkspaceError(_other_format(storage, version))
        kept = {key.removeprefix(KEPT): value for key, value in study.user_attrs.items() if key.startswith(KEPT)}
        frozen = [trial for trial in study.get_trials(deepcopy=False) if counts(trial)]
        trials = [revised(to_trial(trial), kept.get(f"{REVISION}{trial.number}")) for trial in frozen]
    return trials, kept


@contextmanager
def _given_up() -> Iterator[None]:
    try:
        yield
    except UpdateFinishedTrialError as error:
        raise TrialGivenUp(str(error)) from error


def _other_format(storage: Path | str | None, version: object) -> str:
    return (
        f"{name_of(storage)} has history format {version}, but this version of autotune reads {FORMAT_VERSION}. "
        "Read it with the version that wrote it, or choose another workspace"
    )
