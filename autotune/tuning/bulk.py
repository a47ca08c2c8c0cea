"""Optuna's storage in a database, whose trials are read as rows.

Optuna makes an object of SQLAlchemy's for each attribute, parameter and value of each trial. A study of 10,000 trials
took 5 s to read so, every time that it was opened, and 4 minutes to write. Here there is one query for each table, and
trials are made of what it returns; rows of many trials are written together.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Table, delete, func, insert, inspect, or_, select
from sqlalchemy.engine import Connection

from autotune.garbage import uncollected

CONFIG = "autotune:config"
"""Attribute of a trial: its config."""

_MOST_NAMED = 500
"""Trials that a query may name one by one; databases have limits of their own."""

_distribution_text: Callable[[BaseDistribution], str] = functools.lru_cache(maxsize=2**12)(distribution_to_json)
_distribution: Callable[[str], BaseDistribution] = functools.lru_cache(maxsize=2**12)(json_to_distribution)


class BulkStorage(RDBStorage):
    """Reads what :class:`optuna.storages.RDBStorage` reads, and returns the same trials.

    Only configs are left as the JSON text that they are. In 10,000 trials they are a million lists and dicts, which are
    needed once and would be gone over by each garbage collection from then on.
    """

    def running(self, study_id: int) -> list[FrozenTrial]:
        """The running trials of a study."""
        table = _table(models.TrialModel)
        return self._read((table.c.study_id == study_id, table.c.state == TrialState.RUNNING))

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """Copy a trial whose config was left as text: it is stored as what it says."""
        if template_trial is not None and isinstance(config := template_trial.user_attrs.get(CONFIG), str):
            template_trial = copy.copy(template_trial)
            template_trial.user_attrs = {**template_trial.user_attrs, CONFIG: json.loads(config)}
        return super()._create_new_trial(study_id, template_trial)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        named = [each for each in included_trial_ids if each <= trial_id_greater_than]
        if states is not None or len(named) > _MOST_NAMED:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        table = _table(models.TrialModel)
        wanted = table.c.trial_id > trial_id_greater_than
        return self._read((table.c.study_id == study_id, or_(wanted, table.c.trial_id.in_(named)) if named else wanted))

    def add_trials(self, study_id: int, trials: Sequence[FrozenTrial]) -> None:
        """Append trials that have ended to a study that no other process writes to, in one transaction."""
        table = _table(models.TrialModel)
        own = table.c.study_id == study_id
        with self.engine.begin() as connection:
            first = connection.execute(select(func.count()).where(own)).scalar_one()
            numbered = list(enumerate(trials, start=first))
            heads = [
                {
                    "number": number, "study_id": study_id, "state": trial.state,
                    "datetime_start": trial.datetime_start, "datetime_complete": trial.datetime_complete,
                }
                for number, trial in numbered
            ]  # fmt: skip
            _insert(connection, models.TrialModel, heads)
            found = connection.execute(select(table.c.number, table.c.trial_id).where(own, table.c.number >= first))
            ids = {row.number: row.trial_id for row in found}
            for model, rows_of in _PARTS:
                rows = [{"trial_id": ids[number], **row} for number, trial in numbered for row in rows_of(trial)]
                _insert(connection, model, rows)

    def remove_trials(self, study_id: int) -> None:
        """Remove all trials of a study that no other process works on, in one transaction."""
        table = _table(models.TrialModel)
        own = select(table.c.trial_id).where(table.c.study_id == study_id)
        with self.engine.begin() as connection:
            for model in (*(model for model, _ in _PARTS), models.TrialHeartbeatModel):
                part = _table(model)
                connection.execute(delete(part).where(part.c.trial_id.in_(own)))
            connection.execute(delete(table).where(table.c.study_id == study_id))

    def _read(self, where: Sequence[ColumnElement[bool]]) -> list[FrozenTrial]:
        with uncollected(), self.engine.connect() as connection:
            read = _Reading(connection, where)
            # Before all else: what belongs to a finished trial was written before its state.
            found = list(read.trials())
            if not found:
                return []
            user, system = (
                read.attributes(models.TrialUserAttributeModel),
                read.attributes(models.TrialSystemAttributeModel),
            )
            values, steps, params = read.values(), read.intermediate_values(), read.params()
        return [
            FrozenTrial(
                number=number,
                state=state,
                value=None,
                values=None if trial_id not in values else [each for _, each in sorted(values[trial_id].items())],
                datetime_start=began,
                datetime_complete=ended,
                params={name: value for name, (value, _) in params.get(trial_id, {}).items()},
                distributions={name: each for name, (_, each) in params.get(trial_id, {}).items()},
                user_attrs=user.get(trial_id, {}),
                system_attrs=system.get(trial_id, {}),
                intermediate_values=steps.get(trial_id, {}),
                trial_id=trial_id,
            )
            for trial_id, number, state, began, ended in found
        ]


class BulkCache(_CachedStorage):
    """Optuna's cache of the trials that have ended, which orders thousands of them several times for each proposal."""

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials by number."""
        if deepcopy:
            return super().get_all_trials(study_id, deepcopy, states)
        self._read_trials_from_remote_storage(study_id)
        with self._lock:
            found = self._studies[study_id].trials
            trials = map(found.__getitem__, sorted(found))
            return list(trials) if states is None else [trial for trial in trials if trial.state in states]


class _Reading:
    """Rows of some trials of a study, from all tables.

    Args:
        connection: Connection to the database.
        where: Conditions on the table of trials, all of which hold for these.
    """

    def __init__(self, connection: Connection, where: Sequence[ColumnElement[bool]]) -> None:
        self._connection = connection
        self._trials = _table(models.TrialModel)
        self._where = where

    def trials(self) -> Iterator[Any]:
        """Id, number, state, begin and end of each trial, in the order of their ids."""
        columns = (
            self._trials.c[name] for name in ("trial_id", "number", "state", "datetime_start", "datetime_complete")
        )
        return iter(self._connection.execute(select(*columns).where(*self._where).order_by(self._trials.c.trial_id)))

    def attributes(self, model: Any) -> dict[int, dict[str, Any]]:
        """By trial: values by key."""
        return _by_trial(
            (key, name, text if name == CONFIG else json.loads(text))
            for key, name, text in self._rows(model, "key", "value_json")
        )

    def values(self) -> dict[int, dict[int, float]]:
        """By trial: values by objective."""
        rows = self._rows(models.TrialValueModel, "objective", "value", "value_type")
        read = models.TrialValueModel.stored_repr_to_value
        return _by_trial((key, objective, read(value, kind)) for key, objective, value, kind in rows)

    def intermediate_values(self) -> dict[int, dict[int, float]]:
        """By trial: values by step."""
        model = models.TrialIntermediateValueModel
        rows = self._rows(model, "step", "intermediate_value", "intermediate_value_type")
        read = model.stored_repr_to_intermediate_value
        return _by_trial((key, step, read(value, kind)) for key, step, value, kind in rows)

    def params(self) -> dict[int, dict[str, tuple[Any, BaseDistribution]]]:
        """By trial: value and distribution of each parameter, in the order in which they were drawn."""
        rows = self._rows(models.TrialParamModel, "param_name", "param_value", "distribution_json")
        return _by_trial(
            (key, name, (_distribution(text).to_external_repr(value), _distribution(text)))
            for key, name, value, text in rows
        )

    def _rows(self, model: Any, *names: str) -> Iterator[Any]:
        table = _table(model)
        columns = (table.c[name] for name in ("trial_id", *names))
        joined = table.join(self._trials, table.c.trial_id == self._trials.c.trial_id)
        order = next(iter(table.primary_key.columns))
        return iter(self._connection.execute(select(*columns).select_from(joined).where(*self._where).order_by(order)))


def _insert(connection: Connection, model: Any, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(_table(model)), rows)


def _user_attributes(trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    return ({"key": key, "value_json": json.dumps(value)} for key, value in trial.user_attrs.items())


def _system_attributes(trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    return ({"key": key, "value_json": json.dumps(value)} for key, value in trial.system_attrs.items())


def _values(trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for objective, value in enumerate(trial.values or ()):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        yield {"objective": objective, "value": stored, "value_type": kind}


def _intermediate_values(trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for step, value in trial.intermediate_values.items():
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        yield {"step": step, "intermediate_value": stored, "intermediate_value_type": kind}


def _params(trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for name, distribution in trial.distributions.items():
        yield {
            "param_name": name, "param_value": distribution.to_internal_repr(trial.params[name]),
            "distribution_json": _distribution_text(distribution),
        }  # fmt: skip


_PARTS: tuple[tuple[Any, Callable[[FrozenTrial], Iterator[dict[str, Any]]]], ...] = (
    (models.TrialUserAttributeModel, _user_attributes),
    (models.TrialSystemAttributeModel, _system_attributes),
    (models.TrialValueModel, _values),
    (models.TrialIntermediateValueModel, _intermediate_values),
    (models.TrialParamModel, _params),
)


def _by_trial(rows: Iterator[tuple[int, Any, Any]]) -> dict[int, dict[Any, Any]]:
    found: dict[int, dict[Any, Any]] = {}
    for key, name, value in rows:
        found.setdefault(key, {})[name] = value
    return found


def _table(model: Any) -> Table:
    table = inspect(model).local_table
    assert isinstance(table, Table)
    return table
