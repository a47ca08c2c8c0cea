"""The data sets that an experiment file can declare, and the loaders that read them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

import numpy as np
from pydantic import Field, JsonValue, model_validator

from autotune.errors import DataError
from autotune.experiment.archive import open_member
from autotune.experiment.folders import is_flat, list_pictures, read_picture
from autotune.experiment.functions import FunctionLoader
from autotune.experiment.preprocessing import Array, Operation, Step, preprocess
from autotune.experiment.section import FilePath, Reference, Section, broken_rule, only

_KINDS = ("npz", "image_folder", "function")


_LARGEST_CONSTANT = 2**28


class Npz(Section):
    """Arrays in a NumPy archive; the first axis of each counts the samples."""

    path: FilePath
    """The .npz file."""
    inputs: Annotated[str | dict[str, str], Field(union_mode="left_to_right")]
    """Name of the array that the model reads; for several inputs, the name of the array for each input of the model."""
    labels: str | None = None
    """Name of the array with the labels."""


class ImageFolder(Section):
    """Pictures in a folder: a folder per class, or a flat folder, with a file of labels or without labels."""

    path: FilePath
    """The folder. Without `labels`, its subfolders are the classes: numbered from 0 in alphabetical order, and
    read one of each in turn. Where it has none, its pictures have no labels, as calibration needs none."""
    labels: FilePath | None = None
    """A text file with a line `file name, blank, class number` per picture, read in its order."""


class Filled(Section):
    """An array full of one value."""

    shape: tuple[Annotated[int, Field(ge=0, le=1_000_000_000)] | Literal["batch"], ...] = Field(strict=False)
    """Sizes of the array; `batch` is the number of samples in the batch."""
    value: Annotated[float, Field(allow_inf_nan=True)] = 0.0
    """Value of each element."""
    dtype: Literal["float32", "float64", "float16", "int64", "int32", "uint8", "bool"] = "float32"
    """Type of the values."""

    def array(self, samples: int) -> Array:
        """The array for a batch of so many samples."""
        shape = tuple(samples if size == "batch" else size for size in self.shape)
        if math.prod(shape) > _LARGEST_CONSTANT:
            raise DataError(f"A constant must have at most {_LARGEST_CONSTANT:,} elements, but has shape {list(shape)}")
        return np.full(shape, self.value, dtype=self.dtype)


Constant = Annotated[bool | int | float | str | tuple[int | float, ...] | Filled, Field(union_mode="left_to_right")]


class Dataset(Section):
    """Where samples come from: one of `npz`, `image_folder` and `function`."""

    npz: Npz | None = None
    """Arrays in a NumPy archive."""
    image_folder: ImageFolder | None = None
    """Pictures in a folder."""
    function: Reference | None = None
    """A Python callable, as `module:function`. It returns an iterable of batches, `inputs` or `(inputs, labels)`."""
    args: dict[str, JsonValue] | None = None
    """Keyword arguments of `function`."""
    preprocess: tuple[Step, ...] = ()
    """Steps that each sample goes through, in order."""
    batch_size: Annotated[int, Field(gt=0, le=65_536)] | None = None
    """Samples per batch; 1 unless given."""
    limit: Annotated[int, Field(gt=0, le=1_000_000_000)] | None = None
    """Use only so many samples, the first ones."""
    constants: dict[str, Constant] = Field(default_factory=dict)
    """By input: what is the same in every call, a number, a list or `{shape: [2, batch, 128], value: 0}`, for sampling
    rates and first states. The others are named in `npz.inputs`."""
    stack_axis: Annotated[int, Field(ge=0, lt=64)] | None = 0
    """The axis along which the samples of a batch are stacked; null where a call takes a single sample as it is."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        only(self, _KINDS)
        if self.function is None:
            if self.args is not None:
                raise broken_rule("`args` belong to `function` and to nothing else")
            return self._consistent()
        given = {
            "preprocess": bool(self.preprocess),
            "batch_size": self.batch_size,
            "limit": self.limit,
            "constants": bool(self.constants),
            "stack_axis": self.stack_axis != 0,
        }
        for name, value in given.items():
            if value:
                raise broken_rule(
                    f"`{name}` belongs to `npz` and `image_folder`; a function yields batches as the model reads them"
                )
        return self

    def _consistent(self) -> Self:
        if self.stack_axis is None and self.batch_size not in (None, 1):
            raise broken_rule(f"without `stack_axis` a call takes one sample, but `batch_size` is {self.batch_size}")
        if self.constants:
            inputs = None if self.npz is None else self.npz.inputs
            if not isinstance(inputs, dict):
                raise broken_rule("`constants` need `npz` with `inputs` by name, as in {x: array}, beside them")
            if both := sorted(set(inputs) & set(self.constants)):
                raise broken_rule(f"an input comes from `inputs` or from `constants`, but {both[0]!r} is in both")
        return self

    def open(self, directory: Path, trust: Collection[str] = ()) -> Loader | FunctionLoader:
        """A loader over this data set.

        Args:
            directory: The experiment file's own, which is put on the import path for `function`.
            trust: Packages whose functions may be called too.

        Raises:
            DataError: The data is missing, empty, or its labels do not match.
            ExperimentError: The function cannot be found.
            MissingDependencyError: Pictures are to be read and Pillow is not installed.
        """
        if self.function is not None:
            return FunctionLoader(self.function, directory, self.args or {}, trust)
        source: Source
        if self.npz is not None:
            source = NpzSource(self.npz)
        else:
            assert self.image_folder is not None
            source = ImageSource(self.image_folder)
        return Loader(
            source,
            [step.opened(directory, trust) for step in self.preprocess],
            batch_size=self.batch_size or 1,
            limit=self.limit,
            constants=self.constants,
            stack_axis=self.stack_axis,
        )

    @property
    def labelled(self) -> bool:
        """Whether labels are declared; a function may yield them or not."""
        if self.npz is not None:
            return self.npz.labels is not None
        folder = self.image_folder
        return folder is None or folder.labels is not None or not is_flat(folder.path)

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that the data come from, or that preprocess them."""
        steps = [step.function for step in self.preprocess]
        return tuple(each for each in (self.function, *steps) if each is not None)


class Source(Protocol):
    """Samples in a fixed order, read one by one."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether labels come along."""
        ...

    def samples(self) -> Iterator[tuple[Array | dict[str, Array], Any]]:
        """The samples, each with its label or None."""
        ...


class NpzSource:
    """Samples out of a NumPy archive. Rows are read as they are asked for: memory does not grow with the archive."""

    def __init__(self, section: Npz) -> None:
        names = section.inputs if isinstance(section.inputs, dict) else {"": section.inputs}
        self._inputs = {name: open_member(section.path, key) for name, key in names.items()}
        self._labels = None if section.labels is None else open_member(section.path, section.labels)
        self._by_name = isinstance(section.inputs, dict)
        if not self._inputs:
            raise DataError(f"`inputs` must name an array of {section.path} for each input of the model, but is empty")
        members = [*self._inputs.values(), *([] if self._labels is None else [self._labels])]
        for member in members:
            if member.shape[0] != members[0].shape[0]:
                raise DataError(
                    f"Arrays of {section.path} must have as many samples each, but {members[0].name!r} has "
                    f"{members[0].shape[0]} and {member.name!r} has {member.shape[0]}"
                )
        self._length = members[0].shape[0]
        if self._length == 0:
            raise DataError(f"A data set needs at least one sample, but {members[0].name!r} of {section.path} has none")

    def __len__(self) -> int:
        return self._length

    @property
    def labelled(self) -> bool:
        """Whether labels come along."""
        return self._labels is not None

    def samples(self) -> Iterator[tuple[Array | dict[str, Array], Any]]:
        """The samples, each with its label or None."""
        columns = {name: member.rows() for name, member in self._inputs.items()}
        labels = None if self._labels is None else self._labels.rows()
        for _ in range(self._length):
            row: dict[str, Array] = {name: next(column) for name, column in columns.items()}
            yield row if self._by_name else row[""], None if labels is None else next(labels)


class ImageSource:
    """Pictures out of a folder, decoded as they are asked for."""

    def __init__(self, section: ImageFolder) -> None:
        self._pictures = list_pictures(section.path, section.labels)

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def labelled(self) -> bool:
        """Whether labels come along."""
        return self._pictures[0][1] is not None

    def samples(self) -> Iterator[tuple[Array, int | None]]:
        """The pictures, each uint8 of shape (height, width, 3), with its class or None."""
        for path, label in self._pictures:
            yield read_picture(path), label


class Loader:
    """Batches of preprocessed samples, made as they are asked for; can be iterated again and again.

    Nothing is kept between passes: an evaluation keeps the batches that it needs again, within its own limit.
    """

    def __init__(
        self,
        source: Source,
        steps: Sequence[Operation],
        *,
        batch_size: int,
        limit: int | None,
        constants: Mapping[str, Constant] | None = None,
        stack_axis: int | None = 0,
    ) -> None:
        self._source = source
        self._steps = tuple(steps)
        self._batch_size = batch_size
        self._constants = dict(constants or {})
        self._axis = stack_axis
        self._samples = len(source) if limit is None else min(limit, len(source))

    def __len__(self) -> int:
        """How many batches there are; the last may be smaller."""
        return (self._samples + self._batch_size - 1) // self._batch_size

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return self._samples

    def __iter__(self) -> Iterator[Any]:
        samples = self._source.samples()
        for start in range(0, self._samples, self._batch_size):
            yield self._make(samples, min(self._batch_size, self._samples - start))

    def _make(self, samples: Iterator[tuple[Any, Any]], size: int) -> Any:
        inputs, labels = [], []
        for _ in range(size):
            sample, label = next(samples)
            inputs.append(
                {name: preprocess(array, self._steps) for name, array in sample.items()}
                if isinstance(sample, dict)
                else preprocess(sample, self._steps)
            )
            labels.append(label)
        batch: Any
        if isinstance(inputs[0], dict):
            batch = {name: _stack([sample[name] for sample in inputs], self._axis) for name in inputs[0]}
            batch |= {
                name: value.array(size) if isinstance(value, Filled) else np.asarray(value)
                for name, value in self._constants.items()
            }
        else:
            batch = _stack(inputs, self._axis)
        return (batch, _stack(labels)) if self._source.labelled else batch


def _stack(samples: Sequence[Any], axis: int | None = 0) -> Array:
    if axis is None:
        return np.asarray(samples[0])
    shapes = dict.fromkeys(np.shape(sample) for sample in samples)
    if len(shapes) > 1:
        raise DataError(
            "The samples of one batch must have the same shape after preprocessing, but have "
            f"{' and '.join(map(str, shapes))}. Bring them to one size with `resize` and "
            "`center_crop`, or set `batch_size: 1`"
        )
    if axis > np.ndim(samples[0]):
        raise DataError(f"Samples of shape {np.shape(samples[0])} cannot be stacked along axis {axis} of `stack_axis`")
    return np.stack(samples, axis=axis)
