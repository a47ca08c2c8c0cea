"""The history of a run: one Optuna study, and nothing beside it.

The study holds everything that a killed run needs to continue, that several workers share and that reports read: its
user attributes say what the run is about (model, data, space, criterion, host), each trial's say what was asked and
what came of it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState as OptunaState
from sqlalchemy.exc import SQLAlchemyError

from autotune.config import QuantizationConfig
from autotune.errors import WorkspaceError
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.identity import difference_from

FORMAT_VERSION = 1
STUDY_NAME = "autotune"
DATABASE = "study.db"

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

_REVISION = "revision:"
"""Prefix of a trial's number in the key under which the trial that :meth:`History.revise` is given is kept."""

_CONFIG, _NOTE, _MEASUREMENT = "autotune:config", "autotune:note", "autotune:measurement"
_STATE, _REASON, _DURATION, _DUPLICATE = (
    "autotune:state",  # Optuna has no pruned trials in studies of several objectives, and no interrupted ones at all
    "autotune:reason",
    "autotune:duration_s",
    "autotune:duplicate_of",
)
_MODEL, _SAME_AS = "autotune:model", "autotune:same_as"
_IDENTITY, _FORMAT, _KEPT = "autotune:identity", "autotune:format", "autotune:kept:"


@dataclass(frozen=True, kw_only=True)
class OpenTrial:
    """A trial whose config is about to be chosen."""

    number: int
    handle: optuna.Trial

    def draw(self, distributions: Mapping[str, BaseDistribution]) -> Mapping[str, Any]:
        """Draw a value for each parameter from the study's sampler and store it with the trial."""
        return {name: _suggest(self.handle, name, distribution) for name, distribution in distributions.items()}


class History:
    """The trials of one run, in one Optuna study.

    Args:
        storage: Place of the study: a workspace folder, an Optuna storage URL, or None for memory only.
        identity: Model, data and settings of the trials. A study with another identity is refused, so that figures of
            different models, data, targets or hosts never meet in one table.
        multi_objective: Whether the study has three values instead of one.

    Raises:
        WorkspaceError: The storage cannot be used, or holds the trials of something else.
    """

    def __init__(
        self, storage: Path | str | None, identity: Mapping[str, str], *, multi_objective: bool = False
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._multi_objective = multi_objective
        self._finished: dict[int, Trial] = {}
        with _storage_errors(storage):
            self._study = _open_study(storage, multi_objective)
            self._check_identity(storage, identity)
            self._drop_interrupted()

    @property
    def study(self) -> Study:
        """The Optuna study, for Optuna's own tools."""
        return self._study

    @property
    def trials(self) -> Sequence[Trial]:
        """All trials by number, the baseline first; without duplicates of earlier ones and without interrupted ones."""
        frozen = self._study.get_trials(deepcopy=False)
        return [self._finished.get(trial.number) or self._read(trial) for trial in frozen if _counts(trial)]

    @property
    def next_number(self) -> int:
        """The number that the next trial will have when no other worker is faster."""
        return len(self._study.get_trials(deepcopy=False))

    def open(self, sampler: BaseSampler) -> OpenTrial:
        """Begin a trial; a config is given to it by :meth:`start` or :meth:`repeat`."""
        self._study.sampler = sampler
        with _storage_errors(None):
            handle = self._study.ask()
        return OpenTrial(number=handle.number, handle=handle)

    def discard(self, opened: OpenTrial) -> None:
        """End a trial that got no config or no outcome; its config counts as untried. A finished trial stays."""
        with _storage_errors(None):
            self._study.tell(opened.handle, state=OptunaState.FAIL, skip_if_finished=True)

    def start(self, opened: OpenTrial, config: QuantizationConfig, note: str) -> None:
        """Record what a trial asks; from here on it is part of the history."""
        with _storage_errors(None):
            opened.handle.set_user_attr(_NOTE, note)
            opened.handle.set_user_attr(_CONFIG, config.to_json())

    def repeat(self, opened: OpenTrial, earlier: Trial, objective: Objective, target: float) -> None:
        """Answer a trial from an earlier one with the same config."""
        with _storage_errors(None):
            opened.handle.set_user_attr(_DUPLICATE, earlier.number)
            opened.handle.set_user_attr(_CONFIG, earlier.config.to_json())
            self._tell(opened, earlier, objective, target)

    def identify(self, opened: OpenTrial, model: str) -> Trial | None:
        """Record which model a trial's config makes.

        Args:
            opened: The trial that :meth:`open` returned.
            model: The model's fingerprint.

        Returns:
            The first earlier trial whose config makes the same one; None where there is none.
        """
        with _storage_errors(None):
            opened.handle.set_user_attr(_MODEL, model)
            frozen = self._study.get_trials(deepcopy=False)
        same = {trial.number for trial in frozen[: opened.number] if trial.user_attrs.get(_MODEL) == model}
        return next((trial for trial in self.trials if trial.number in same), None)

    def finish(self, opened: OpenTrial, trial: Trial, objective: Objective, target: float) -> None:
        """Record what came of a trial.

        Args:
            opened: The trial that :meth:`open` returned.
            trial: Outcome of the trial.
            objective: Which figure the sampler is told.
            target: The largest loss allowed, from which the sampler's constraint is made.
        """
        with _storage_errors(None):
            handle = opened.handle
            handle.set_user_attr(_STATE, str(trial.state))
            if trial.measurement is not None:
                handle.set_user_attr(_MEASUREMENT, trial.measurement.to_json())
            if trial.reason:
                handle.set_user_attr(_REASON, trial.reason)
            if trial.duration_s is not None:
                handle.set_user_attr(_DURATION, trial.duration_s)
            if trial.same_as is not None:
                handle.set_user_attr(_SAME_AS, trial.same_as)
                handle.set_user_attr(_NOTE, trial.note)
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
            self.keep(f"{_REVISION}{each.number}", revision)

    def kept(self, name: str) -> Any:
        """The value that :meth:`keep` stored, or None."""
        return self._study.user_attrs.get(_KEPT + name)

    def keep(self, name: str, value: Any) -> None:
        """Store a JSON value beside the trials.

        Values that were measured once for the run are kept here, so that a resumed run decides on the same figures.
        """
        with _storage_errors(None):
            self._study.set_user_attr(_KEPT + name, value)

    def _read(self, frozen: optuna.trial.FrozenTrial) -> Trial:
        trial = _revised(_to_trial(frozen), self.kept(f"{_REVISION}{frozen.number}"))
        if trial.state is not TrialState.RUNNING:
            self._finished[trial.number] = trial
        return trial

    def _tell(self, opened: OpenTrial, trial: Trial, objective: Objective, target: float) -> None:
        measurement = trial.measurement
        # Where the loss is one of the values it must not be a constraint as well, or the front would end at the target.
        if measurement is not None and measurement.loss is not None and not self._multi_objective:
            opened.handle.set_constraint(CONSTRAINT, measurement.loss - target)
        values = self._values(measurement, objective) if measurement is not None else None
        if trial.state is TrialState.COMPLETED and values is not None:
            self._study.tell(opened.handle, values)
        elif trial.state is TrialState.PRUNED and not self._multi_objective:
            # Optuna keeps the value of a pruned trial as its last intermediate one.
            if values is not None:
                opened.handle.report(values[0], step=0)
            self._study.tell(opened.handle, state=OptunaState.PRUNED)
        else:
            self._study.tell(opened.handle, state=OptunaState.FAIL)

    def _values(self, measurement: Measurement, objective: Objective) -> list[float] | None:
        if not self._multi_objective:
            value = objective_value(measurement, objective)
            return None if value is None else [value]
        values = [objective_value(measurement, Objective.LATENCY), measurement.loss, measurement.size_bytes]
        return None if None in values else [float(value) for value in values if value is not None]

    def _check_identity(self, storage: Path | str | None, identity: Mapping[str, str]) -> None:
        stored = self._study.user_attrs.get(_IDENTITY)
        if stored is None:
            self._study.set_user_attr(_FORMAT, FORMAT_VERSION)
            self._study.set_user_attr(_IDENTITY, dict(identity))
            return
        version = self._study.user_attrs.get(_FORMAT)
        if version != FORMAT_VERSION:
            raise WorkspaceError(f"{storage} has history format {version}, but this version reads {FORMAT_VERSION}")
        if (difference := difference_from(stored, identity)) is not None:
            raise WorkspaceError(
                f"{storage} holds trials of another run {difference} Choose another workspace, or delete that one"
            )

    def _drop_interrupted(self) -> None:
        """End what a killed run left running, so that its config counts as untried."""
        for trial in self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)):
            self._study.tell(trial.number, state=OptunaState.FAIL)


def read_study(storage: Path | str) -> tuple[Sequence[Trial], Mapping[str, Any]]:
    """The trials of a history and what was kept beside them, without changing anything there.

    Raises:
        WorkspaceError: There is no history.
    """
    if isinstance(storage, Path) and not (storage / DATABASE).is_file():
        raise WorkspaceError(f"{storage} holds no history ({DATABASE} is missing): is it the workspace of a run?")
    with _storage_errors(storage):
        try:
            study = optuna.load_study(study_name=STUDY_NAME, storage=_storage(storage))
        except KeyError:
            raise WorkspaceError(
                f"{storage} holds no study called {STUDY_NAME!r}: is it the storage of a run?"
            ) from None
        kept = {key.removeprefix(_KEPT): value for key, value in study.user_attrs.items() if key.startswith(_KEPT)}
        frozen = [trial for trial in study.get_trials(deepcopy=False) if _counts(trial)]
        trials = [_revised(_to_trial(trial), kept.get(f"{_REVISION}{trial.number}")) for trial in frozen]
    return trials, kept


def objective_value(measurement: Measurement, objective: Objective) -> float | None:
    """The figure to minimise: latency as a share of the baseline's, or bytes. None where it was not measured."""
    if objective is Objective.LATENCY:
        return None if measurement.speedup is None else 1.0 / measurement.speedup
    size = measurement.size_bytes if objective is Objective.SIZE else measurement.peak_memory_bytes
    return None if size is None else float(size)


def _open_study(storage: Path | str | None, multi_objective: bool) -> Study:
    directions = [StudyDirection.MINIMIZE] * (3 if multi_objective else 1)
    study = optuna.create_study(
        storage=_storage(storage), study_name=STUDY_NAME, directions=directions, load_if_exists=True
    )
    if len(study.directions) != len(directions):
        raise WorkspaceError(
            f"{storage} holds a study of {len(study.directions)} objectives, but this strategy "
            f"needs {len(directions)}. Choose another workspace"
        )
    return study


def _storage(storage: Path | str | None) -> BaseStorage:
    if storage is None:
        return InMemoryStorage()
    if isinstance(storage, Path):
        storage.mkdir(parents=True, exist_ok=True)
        return RDBStorage(f"sqlite:///{storage / DATABASE}")
    return RDBStorage(storage)


@contextmanager
def _storage_errors(storage: Path | str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError, json.JSONDecodeError) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        where = f" {storage}" if storage is not None else ""
        raise WorkspaceError(
            f"The history{where} cannot be read or written ({cause}). "
            "Is the disk full, or the folder read-only? What was measured before is kept"
        ) from error


def _suggest(handle: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """Optuna's ``suggest`` call that belongs to a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return handle.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return handle.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, FloatDistribution):
        return handle.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    raise TypeError(f"Optuna's categorical, int and float distributions can be drawn from, but got {distribution!r}")


def _counts(frozen: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial of the study is one of the run's: it was given a config, and no earlier trial answered it.

    A failed trial without an outcome of ours was interrupted, and its config counts as untried.
    """
    attrs = frozen.user_attrs
    interrupted = frozen.state is OptunaState.FAIL and _STATE not in attrs
    return _CONFIG in attrs and _DUPLICATE not in attrs and not interrupted


def _to_trial(frozen: optuna.trial.FrozenTrial) -> Trial:
    attrs = frozen.user_attrs
    measurement = attrs.get(_MEASUREMENT)
    return Trial(
        number=frozen.number,
        config=QuantizationConfig.from_json(attrs[_CONFIG]),
        state=TrialState(attrs[_STATE]) if frozen.state.is_finished() else TrialState.RUNNING,
        measurement=None if measurement is None else Measurement.from_json(measurement),
        reason=attrs.get(_REASON),
        duration_s=attrs.get(_DURATION),
        note=attrs.get(_NOTE, ""),
        params=frozen.params,
        same_as=attrs.get(_SAME_AS),
    )


def _revised(trial: Trial, revision: Mapping[str, Any] | None) -> Trial:
    if revision is None:
        return trial
    measurement = revision["measurement"]
    return dataclasses.replace(
        trial,
        state=TrialState(revision["state"]),
        reason=revision["reason"],
        measurement=None if measurement is None else Measurement.from_json(measurement),
    )


def require_writable(folder: Path) -> None:
    """See that files can be made in a folder, before hours are spent.

    Raises:
        WorkspaceError: The files cannot be written.
    """
    probe = folder / ".autotune-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise WorkspaceError(
            f"The workspace {folder} must be a folder that can be written, but {error.strerror or error}"
        ) from error
