"""The record that metrics keep of each sample, and the file with those of the fp32 model."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from autotune.adapter import Array
from autotune.atomic import replacing
from autotune.cache import keep_within_limit, used
from autotune.errors import DataError, WorkspaceError
from autotune.evaluation.accuracy.metrics import Metric
from autotune.evaluation.accuracy.samples import Chunk
from autotune.evaluation.accuracy.stored_records import UnstorableError, read_tree, write_tree
from autotune.notes import counted


@dataclass(frozen=True, kw_only=True)
class Records:
    """The records of some samples of one model; row ``i`` of every array belongs to ``samples[i]``.

    Attributes:
        samples: Positions in the data set.
        records: By metric.
        references: Values that label-free metrics keep of the fp32 model's outputs, by metric; empty for candidates.
        difficulty: How easily fp32's results change, by the judged metric; None where it does not say.
    """

    samples: Array
    records: Mapping[str, Array]
    references: Mapping[str, Array]
    difficulty: Array | None

    @classmethod
    def make(
        cls,
        metrics: Sequence[Metric],
        chunk: Chunk,
        outputs: tuple[Array, ...],
        references: Mapping[str, Array] | None,
    ) -> Records:
        """The records of one batch.

        Args:
            metrics: The judged one first.
            chunk: The batch.
            outputs: The model's.
            references: The fp32 model's references of these samples; None: this is the fp32 model.

        Raises:
            DataError: Labels or outputs are not of the form that a metric reads.
        """
        outputs = chunk.axes.per_sample(outputs)
        own: dict[str, Array] = {}
        difficulty = None
        if references is None:
            own = {metric.name: metric.reference(outputs) for metric in metrics if metric.label_free}
            difficulty = metrics[0].difficulty(outputs, chunk.labels)
        using = own if references is None else references
        records = {metric.name: metric.records(outputs, chunk.labels, using.get(metric.name)) for metric in metrics}
        for name, rows in records.items():
            if len(rows) != len(chunk.samples):
                raise DataError(
                    f"Metric {name!r} must keep a row for each of "
                    f"{counted(len(chunk.samples), 'sample')}, but kept {len(rows)}. "
                    "Does the first dimension of the output count samples?"
                )
        return cls(samples=chunk.samples, records=records, references=own, difficulty=difficulty)

    @property
    def fits_together(self) -> bool:
        """Whether all arrays have a row for each sample, and no sample is there twice."""
        columns = [*self.records.values(), *self.references.values()]
        columns += [] if self.difficulty is None else [self.difficulty]
        if (
            self.samples.ndim != 1
            or self.samples.dtype.kind != "i"
            or len(set(self.samples.tolist())) < len(self.samples)
        ):
            return False
        return all(isinstance(column, np.ndarray) and len(column) == len(self.samples) for column in columns)

    def of(self, metric: Metric) -> Array:
        """The records of one metric."""
        return self.records[metric.name]

    def references_of(self, rows: Array) -> dict[str, Array]:
        """The references of some rows; where shapes differ from call to call, those of one call are one array again."""
        return {name: _stacked(values[rows]) for name, values in self.references.items()}

    def sorted(self) -> Records:
        """The same in the order of the data set."""
        order = np.argsort(self.samples, kind="stable")
        return Records(
            samples=self.samples[order],
            records={name: rows[order] for name, rows in self.records.items()},
            references={name: values[order] for name, values in self.references.items()},
            difficulty=None if self.difficulty is None else self.difficulty[order],
        )


def concatenate(parts: Sequence[Records]) -> Records:
    """Batches put together."""
    first = parts[0]
    return Records(
        samples=np.concatenate([part.samples for part in parts]),
        records={name: np.concatenate([part.records[name] for part in parts]) for name in first.records},
        references={name: _joined([part.references[name] for part in parts]) for name in first.references},
        difficulty=None
        if first.difficulty is None
        else np.concatenate([part.difficulty for part in parts if part.difficulty is not None]),
    )


def _joined(parts: Sequence[Array]) -> Array:
    """Arrays behind each other; a row is an object where the rows' shapes differ, as those of sequences do."""
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    rows = [row for part in parts for row in part]
    joined = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        joined[index] = row
    return joined


def _stacked(rows: Array) -> Array:
    shapes = {row.shape for row in rows} if rows.dtype == object and isinstance(rows[0], np.ndarray) else set()
    return np.stack(list(rows)) if len(shapes) == 1 else rows


class RecordCache:
    """The fp32 model's records in a folder.

    Args:
        folder: Folder of the cache; None keeps nothing.
        key: Key of the model.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._folder = folder
        self._key = key

    @property
    def keeps(self) -> bool:
        """Whether there is a folder."""
        return self._folder is not None

    def read(self, name: str) -> Records | None:
        """Read what :meth:`write` wrote; None where the file is missing or cannot be used."""
        path = self._path(name)
        if path is None or not path.is_file():
            return None
        # A file of another version, damaged or made up is worth no more than no file: it is made again.
        with contextlib.suppress(Exception):
            found = Records(**read_tree(path))
            if found.fits_together:
                used(path)
                return found
        return None

    def write(self, name: str, records: Records) -> None:
        """Keep records; a reader sees all of them or nothing.

        Records with objects that are no plain data are not kept: whoever needs them runs the fp32 model again.

        Raises:
            WorkspaceError: The folder cannot be written.
        """
        path = self._path(name)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(UnstorableError), replacing(path) as temporary:
                write_tree(temporary, {each.name: getattr(records, each.name) for each in fields(records)})
            keep_within_limit(path.parent, path)
        except OSError as error:
            raise WorkspaceError(f"The workspace must be writable, but {path} is not: {error}") from error

    def _path(self, name: str) -> Path | None:
        return None if self._folder is None else self._folder / f"fp32-{self._key}-{name}.npz"
