"""Lets a workspace go on with another target, objective or number of threads.

Recorded trials are judged anew instead of being refused. Accuracies are kept in any case. A trial whose figures do not
tell under the new target counts as untried, and so does every one where models are executed otherwise: its latency is
measured again, its accuracy is not.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from autotune.config import QuantizationConfig
from autotune.constraints import Constraints
from autotune.criterion import Criterion, Verdict
from autotune.notes import counted
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.claims import Claims
from autotune.tuning.history import CONSTRAINT, FORMAT_VERSION, HOLDOUT, SETUP, SUMMARY
from autotune.tuning.identity import EVALUATION_DATA
from autotune.tuning.rejudge import Rejudge, without_latency, worth_keeping
from autotune.tuning.storage import DATABASE, STUDY_NAME, is_shared, open_storage, storage_errors
from autotune.tuning.stored_trials import (
    DUPLICATE,
    FORMAT,
    IDENTITY,
    KEPT,
    MEASUREMENT,
    REASON,
    REVISION,
    STATE,
    constraint_of,
    counts,
    objective_value,
    revised,
    to_trial,
    told_values,
)

CRITERION, OBJECTIVE, EXECUTION = "criterion", "objective", "execution"
RETARGETABLE = frozenset({CRITERION, OBJECTIVE, EXECUTION})
"""Keys of an identity that may change within a workspace."""

KNOWN = "known accuracy"
"""Key of :meth:`History.keep`: by fingerprint of a model, its config and figures but for its latency, where models were
measured before they were executed otherwise."""

_REWRITTEN = f"{STUDY_NAME} (rewritten)"
_COMPLETE = "autotune:complete"
_FREE_OF_EXECUTION = (
    EVALUATION_DATA,
    "runs",
    "graph",
    "tensors",
    "sensitivity",
    "insight batches",
    "error:",
    "hessian",
)
"""Beginnings of the names, behind that of a runtime, of what is kept and does not depend on how models are executed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """The target of a run.

    Attributes:
        criterion: The accuracy target.
        criteria: Those of further figures.
        objective: The figure to minimize.
        constraints: The limits, where that is the loss.
    """

    criterion: Criterion
    criteria: Mapping[str, Criterion]
    objective: Objective
    constraints: Constraints | None = None


def retarget(storage: Path | str, identity: Mapping[str, str], target: Target) -> str | None:
    """Judge the trials of a history anew where it was begun with another target, objective or execution.

    Args:
        storage: The workspace, or the URL of the storage.
        identity: The identity of this run.
        target: The target of this run.

    Returns:
        A line on what was done; None where there was nothing to do, or the history is about something else besides.

    Raises:
        WorkspaceError: The storage cannot be used.
    """
    if isinstance(storage, Path) and not (storage / DATABASE).is_file():
        return None
    with storage_errors(storage):
        opened = open_storage(storage)
        _finish_rewriting(opened)
        if STUDY_NAME not in optuna.get_all_study_names(opened):
            return None
        study = optuna.load_study(study_name=STUDY_NAME, storage=opened)
        stored = study.user_attrs.get(IDENTITY)
        if stored is None or study.user_attrs.get(FORMAT) != FORMAT_VERSION:
            return None
        differing = {key for key in identity if key in stored and stored[key] != identity[key]}
        if not differing or not differing <= RETARGETABLE or _is_in_use(study, storage):
            return None
        rewriting = _Rewriting(study, {**stored, **identity}, target, anew=EXECUTION in differing)
        if not rewriting.possible:
            return None
        rewriting.write(opened)
        _finish_rewriting(opened)
    changes = "; ".join(f"{key}: {stored[key]} before, {identity[key]} now" for key in sorted(differing))
    return f"This workspace was begun with another target ({changes}). {rewriting.summary}"


def _is_in_use(study: Study, storage: Path | str) -> bool:
    """Whether another run takes part in a study."""
    claims = Claims(study, shared=is_shared(storage))
    try:
        return claims.release_dead() > 0
    finally:
        claims.close()


class _Rewriting:
    """One study as it is to be.

    Args:
        study: The study as it is.
        identity: The identity that it is to have.
        target: The new target.
        anew: Whether models are executed otherwise, so that all latencies are measured again.
    """

    def __init__(self, study: Study, identity: Mapping[str, str], target: Target, *, anew: bool) -> None:
        self._study = study
        self._identity = identity
        self._target = target
        self._anew = anew
        self._attrs = {key: value for key, value in study.user_attrs.items() if key != IDENTITY}
        self._frozen = study.get_trials(deepcopy=True)
        self._multi_objective = len(study.directions) > 1
        self._trials = {each.number: self._read(each) for each in self._frozen if counts(each)}
        self._judged: dict[int, Trial] = {}
        self._known: dict[str, Any] = dict(self._kept(KNOWN) or {})
        first = next(iter(self._trials.values()), None)
        self._baseline = None if first is None else first.measurement
        setup = self._kept(SETUP)
        self.possible = (
            first is not None
            and first.config.is_fp32
            and self._baseline is not None
            and self._baseline.accuracy is not None
            and setup is not None
            # The throughput of fp32 is measured when the run goes on, its memory is not.
            and (
                target.objective is Objective.THROUGHPUT
                or objective_value(self._baseline, target.objective) is not None
            )
        )
        if self.possible:
            assert self._baseline is not None
            self._rejudge = Rejudge(
                before=Criterion(**setup["criterion"]),
                after=target.criterion,
                criteria=target.criteria,
                baseline=self._baseline,
                objective=target.objective,
                before_objective=Objective(setup["objective"]),
                constraints=target.constraints,
            )
            target.criterion.check_baseline(self._baseline.accuracy or 0.0)
            self._judge()

    @property
    def summary(self) -> str:
        """The outcome in words."""
        candidates = [trial for trial in self._trials.values() if not trial.config.is_fp32]
        kept = sum(trial.number in self._judged for trial in candidates)
        judged = f"{kept} {'was' if kept == 1 else 'were'} judged anew by what was recorded of them"
        text = f"Of {counted(len(candidates), 'candidate')} {judged}"
        if self._anew:
            accuracies = counted(len(self._known), "accuracy", "accuracies")
            return f"{text}; latencies are measured again, {accuracies} {'is' if len(self._known) == 1 else 'are'} kept"
        left = len(candidates) - kept
        return f"{text}; {left} {'counts' if left == 1 else 'count'} as untried, since their figures do not tell"

    def write(self, storage: Any) -> None:
        """Write the study beside the old one, and mark it once it is whole."""
        study = optuna.create_study(storage=storage, study_name=_REWRITTEN, directions=self._study.directions)
        for frozen in self._frozen:
            study.add_trial(self._rewritten(frozen))
        for key, value in self._attrs.items():
            if self._stays(key):
                study.set_user_attr(key, value)
        if held_out := self._kept(HOLDOUT):
            judged = {number: self._rejudge.held_out(Measurement.from_json(each)) for number, each in held_out.items()}
            study.set_user_attr(KEPT + HOLDOUT, {number: each.to_json() for number, each in judged.items()})
        if self._known:
            study.set_user_attr(KEPT + KNOWN, self._known)
        study.set_user_attr(IDENTITY, dict(self._identity))
        study.set_user_attr(_COMPLETE, True)

    def _read(self, frozen: FrozenTrial) -> Trial:
        return revised(to_trial(frozen), self._kept(f"{REVISION}{frozen.number}"))

    def _kept(self, name: str) -> Any:
        return self._study.user_attrs.get(KEPT + name)

    def _judge(self) -> None:
        found = {number: self._rejudge(trial) for number, trial in self._trials.items()}
        judged = {number: trial for number, trial in found.items() if trial is not None}
        for number in self._trials.keys() - judged.keys():
            self._keep_judged_accuracy(self._trials[number])
        if self._target.objective is Objective.THROUGHPUT and (first := min(self._trials)) not in judged:
            judged[first] = self._trials[first]
        proven = [
            trial.measurement.speedup_interval.low
            for trial in judged.values()
            if trial.met and trial.measurement is not None and trial.measurement.speedup_interval is not None
        ]
        best_low = max(proven, default=1.0)
        for number, trial in judged.items():
            if trial.measurement is not None and trial.loss is None and not worth_keeping(trial, best_low):
                continue
            if not self._anew:
                self._judged[number] = trial
                continue
            self._keep_accuracy(trial)
            if trial.config.is_fp32 and trial.measurement is not None:
                untimed = without_latency(trial.measurement, baseline=True)
                self._judged[number] = dataclasses.replace(trial, measurement=untimed)
            elif trial.state is TrialState.FAILED:
                self._judged[number] = trial
        if not self._anew:
            # Accuracies that were kept before are judged by the new target too.
            for key, entry in self._known.items():
                measured = self._rejudge.judged(Measurement.from_json(entry["measurement"]))
                self._known[key] = {**entry, "measurement": None if measured is None else measured.to_json()}
            self._known = {key: entry for key, entry in self._known.items() if entry["measurement"] is not None}

    def _keep_judged_accuracy(self, trial: Trial) -> None:
        """Keep the accuracy of a trial that counts as untried for want of another figure."""
        if trial.measurement is not None and trial.loss is not None:
            judged = self._rejudge.judged(trial.measurement)
            if judged is not None:
                self._keep_accuracy(dataclasses.replace(trial, measurement=judged))

    def _keep_accuracy(self, trial: Trial) -> None:
        measured, model = trial.measurement, trial.model_fingerprint
        if measured is None or measured.loss is None or model is None or trial.config.is_fp32:
            return
        if not measured.complete and measured.verdict is not Verdict.MISSED:
            return
        self._known[model] = {
            "config": trial.config.to_json(),
            "measurement": without_latency(measured).to_json(),
            "speedup": measured.speedup,
        }

    def _stays(self, key: str) -> bool:
        if not key.startswith(KEPT):
            return True
        name = key.removeprefix(KEPT)
        if name in (SUMMARY, HOLDOUT, KNOWN, SETUP) or name.startswith(REVISION):
            return False
        return not self._anew or name.rpartition("/")[2].startswith(_FREE_OF_EXECUTION)

    def _rewritten(self, frozen: FrozenTrial) -> FrozenTrial:
        """A trial as the new study has it: what is not judged counts as untried."""
        new = copy.copy(frozen)
        kept = (STATE, REASON, MEASUREMENT)
        new.user_attrs = {key: value for key, value in frozen.user_attrs.items() if key not in kept}
        new._system_attrs = {k: v for k, v in frozen.system_attrs.items() if not k.endswith(f":{CONSTRAINT}")}
        new.intermediate_values = {}
        trial = self._judged.get(int(frozen.user_attrs.get(DUPLICATE, frozen.number)))
        values = None
        if trial is not None and trial.measurement is not None:
            values = told_values(trial.measurement, self._target.objective, multi_objective=self._multi_objective)
            if trial.loss is not None and not self._multi_objective:
                allowed = self._target.criterion.target
                new.set_constraint(CONSTRAINT, constraint_of(trial, trial.loss, self._target.objective, allowed))
        state = OptunaState.FAIL
        if trial is not None and trial.state is TrialState.COMPLETED and values is not None:
            state = OptunaState.COMPLETE
        elif trial is not None and trial.state is TrialState.PRUNED and not self._multi_objective:
            state = OptunaState.PRUNED
            new.intermediate_values = {} if values is None else {0: values[0]}
        new.state = state
        new.values = values if state is not OptunaState.FAIL else None
        if trial is not None and DUPLICATE not in frozen.user_attrs:
            new.user_attrs |= _recorded(trial)
        return new


def _recorded(trial: Trial) -> dict[str, Any]:
    """The attributes that say what came of a trial."""
    found: dict[str, Any] = {STATE: str(trial.state)}
    if trial.measurement is not None:
        found[MEASUREMENT] = trial.measurement.to_json()
    if trial.reason:
        found[REASON] = trial.reason
    return found


def _finish_rewriting(storage: Any) -> None:
    """Put a study that was rewritten in the place of the old one, also where a run was killed before it had done so."""
    names = optuna.get_all_study_names(storage)  # summaries would read all trials
    if _REWRITTEN not in names:
        return
    rewritten = optuna.load_study(study_name=_REWRITTEN, storage=storage)
    if rewritten.user_attrs.get(_COMPLETE):
        if STUDY_NAME in names:
            optuna.delete_study(study_name=STUDY_NAME, storage=storage)
        optuna.copy_study(
            from_study_name=_REWRITTEN, from_storage=storage, to_storage=storage, to_study_name=STUDY_NAME
        )
    optuna.delete_study(study_name=_REWRITTEN, storage=storage)


def known_configs(known: Mapping[str, Any]) -> Sequence[QuantizationConfig]:
    """The configs whose accuracy keeps the target and whose latency is not known, the one that was fastest first."""
    met = [entry for entry in known.values() if entry["measurement"]["verdict"] == Verdict.MET]
    ranked = sorted(met, key=lambda entry: -(entry.get("speedup") or 0.0))
    return [QuantizationConfig.from_json(entry["config"]) for entry in ranked]
