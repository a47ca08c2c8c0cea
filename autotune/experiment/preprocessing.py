"""Preprocessing from one sample of a data set to a model's input: a list of steps, declared in the experiment file.

Every step takes and gives one sample without a batch axis; pictures are height x width x channels until a step
transposes them. Arithmetic is in float32, in the order in which the steps are written.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from autotune.errors import DataError, MissingDependencyError
from autotune.experiment.references import resolve
from autotune.experiment.section import Choice, Reference, Section, Size, broken_rule
from autotune.notes import counted
from autotune.users_code import users_code

Array = npt.NDArray[Any]
Operation: TypeAlias = Callable[[Array], Array]
"""A step as it runs: called with a sample, gives a sample."""
_Positive = Annotated[float, Field(gt=0)]


class Interpolation(StrEnum):
    """How a picture is resampled, in Pillow's own words."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"
    BOX = "box"
    HAMMING = "hamming"


class Resize(Section):
    """Resample a uint8 picture with Pillow."""

    size: Size | None = None
    """Height and width of the result, or one number for both; the aspect ratio is not kept."""
    shorter_side: Annotated[int, Field(gt=0)] | None = None
    """Length of the shorter side of the result; the aspect ratio is kept."""
    interpolation: Interpolation = Interpolation.BILINEAR
    """Pillow's resampling filter."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.size is None) == (self.shorter_side is None):
            raise broken_rule("must have one of `size` and `shorter_side`")
        return self

    def __call__(self, sample: Array) -> Array:
        """Resample one picture, uint8 of shape (height, width[, channels])."""
        if sample.dtype != np.uint8 or sample.ndim not in (2, 3):
            raise DataError(
                "Step `resize` needs a uint8 picture of shape (height, width[, channels]), but got "
                f"{sample.dtype} {sample.shape}. Put it before the steps that calculate"
            )
        height, width = self.size if self.size is not None else self._keep_aspect(*sample.shape[:2])
        if sample.shape[:2] == (height, width):
            return sample
        image = pillow()
        picture = image.fromarray(np.ascontiguousarray(sample))
        filters = image.Resampling
        return np.asarray(picture.resize((width, height), resample=filters[self.interpolation.name]))

    def _keep_aspect(self, height: int, width: int) -> tuple[int, int]:
        assert self.shorter_side is not None
        # The longer side is cut to an integer, as torchvision does: reference accuracies come from there.
        if height <= width:
            return self.shorter_side, int(self.shorter_side * width / height)
        return int(self.shorter_side * height / width), self.shorter_side


class CenterCrop(Section):
    """Cut the middle out of a picture."""

    size: Size
    """Height and width of the part that is kept, or one number for both."""

    def __call__(self, sample: Array) -> Array:
        """Crop one picture of shape (height, width[, channels])."""
        height, width = self.size
        if sample.ndim < 2 or sample.shape[0] < height or sample.shape[1] < width:
            raise DataError(
                f"Step `center_crop` needs a picture of at least {height} x {width}, but got shape {sample.shape}"
            )
        top = round((sample.shape[0] - height) / 2)
        left = round((sample.shape[1] - width) / 2)
        return sample[top : top + height, left : left + width]


class Rescale(Section):
    """Divide all values by one number."""

    divisor: _Positive = 255.0
    """255 takes 8-bit pixels to the range from 0 to 1."""

    def __call__(self, sample: Array) -> Array:
        """Divide one sample; the result is float32."""
        return np.asarray(sample, dtype=np.float32) / np.float32(self.divisor)


class Normalize(Section):
    """Subtract a mean and divide by a standard deviation, channel by channel."""

    mean: tuple[float, ...]
    """One number per channel, or a single one for all."""
    std: tuple[_Positive, ...]
    """One number per channel, or a single one for all."""
    channel_axis: int = -1
    """The axis of one sample that holds the channels: -1 before `transpose` to channels first, 0 after it."""

    def __call__(self, sample: Array) -> Array:
        """Normalize one sample; the result is float32."""
        _require_axis("normalize", self.channel_axis, sample)
        channels = sample.shape[self.channel_axis]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise DataError(
                    f"Step `normalize` needs 1 or {channels} values of `{name}` for a sample of shape {sample.shape} "
                    f"with its channels in axis {self.channel_axis}, but has {len(values)}"
                )
        shape = [1] * sample.ndim
        shape[self.channel_axis] = -1
        mean = np.asarray(self.mean, dtype=np.float32).reshape(shape)
        std = np.asarray(self.std, dtype=np.float32).reshape(shape)
        return (np.asarray(sample, dtype=np.float32) - mean) / std


class Transpose(Section):
    """Reorder the axes of a sample."""

    order: tuple[int, ...]
    """The axes of one sample, without the batch axis: [2, 0, 1] takes height x width x channels to channels first."""

    @model_validator(mode="after")
    def _is_permutation(self) -> Self:
        if sorted(self.order) != list(range(len(self.order))):
            raise broken_rule(
                "`order` must have each axis once, as [2, 0, 1] for a picture to channels first, "
                f"but got {list(self.order)}"
            )
        return self

    def __call__(self, sample: Array) -> Array:
        """Reorder one sample."""
        if sample.ndim != len(self.order):
            raise DataError(
                f"Step `transpose` orders {counted(len(self.order), 'axis', 'axes')}, but a sample "
                f"has shape {sample.shape} "
                "(the batch axis does not count)"
            )
        return sample.transpose(self.order)


class Reshape(Section):
    """Give a sample another shape with the same number of elements."""

    shape: tuple[int, ...]
    """The shape of one sample, without the batch axis; one number may be -1."""

    def __call__(self, sample: Array) -> Array:
        """Reshape one sample."""
        try:
            return sample.reshape(self.shape)
        except ValueError:
            raise DataError(
                f"Step `reshape` cannot make shape {self.shape} of a sample of shape {sample.shape}"
            ) from None


class ReverseChannels(Section):
    """Turn RGB into BGR, or back."""

    channel_axis: int = -1
    """The axis of one sample that holds the channels."""

    def __call__(self, sample: Array) -> Array:
        """Reverse the channels of one sample."""
        _require_axis("reverse_channels", self.channel_axis, sample)
        return np.flip(sample, self.channel_axis)


class Cast(Section):
    """Convert to another type."""

    dtype: Literal["float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool"]
    """The type, in numpy's words."""

    def __call__(self, sample: Array) -> Array:
        """Convert one sample."""
        return sample.astype(self.dtype)


class Step(Choice):
    """One step of the preprocessing; has one key, which names it."""

    resize: Resize | None = None
    center_crop: CenterCrop | None = None
    rescale: Rescale | None = None
    normalize: Normalize | None = None
    transpose: Transpose | None = None
    reshape: Reshape | None = None
    reverse_channels: ReverseChannels | None = None
    cast: Cast | None = None
    function: Reference | None = None
    """A Python callable, as `module:function`: called with one sample, returns it preprocessed."""

    @model_validator(mode="after")
    def _one_step(self) -> Self:
        self.chosen()
        return self

    @cached_property
    def operation(self) -> Any:
        """The step itself: called with a sample, gives a sample. A function's is its reference, see :meth:`opened`."""
        return self.chosen()

    def opened(self, directory: Path, trust: Collection[str] = ()) -> Operation:
        """The step as it runs.

        Args:
            directory: The experiment file's, where a function may lie.
            trust: Packages whose functions may be called too.

        Raises:
            ExperimentError: There is no such function.
        """
        operation: Operation = self.operation
        return operation if self.function is None else UsersStep(self.function, directory, trust)


class UsersStep:
    """A function of the user's as a step. It is pickled by its reference, by which another process imports it.

    Args:
        reference: The function, as ``module:function``.
        directory: The experiment file's.
        trust: Packages whose functions may be called too.
    """

    def __init__(self, reference: str, directory: Path, trust: Collection[str] = ()) -> None:
        self._state = (reference, directory, tuple(trust))
        self._reference = reference
        self._function = resolve(reference, directory, trust)

    def __call__(self, sample: Array) -> Array:
        """The sample as the function returns it.

        Raises:
            DataError: It returned nothing, or what is no array.
            Exception: Any exception of the function itself, unchanged.
        """
        with users_code(f"Function {self._reference!r}"):
            made = self._function(sample)
        array = np.asarray(made)
        if made is None or array.dtype == object:
            raise DataError(
                f"Function {self._reference!r} must return one sample as an array, but returned a {type(made).__name__}"
            )
        return array

    def __getstate__(self) -> tuple[str, Path, tuple[str, ...]]:
        """The reference; another process imports the function by it."""
        return self._state

    def __setstate__(self, state: tuple[str, Path, tuple[str, ...]]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # the constructor is what makes a step of these


def preprocess(sample: Array, steps: Sequence[Operation]) -> Array:
    """Run the steps over one sample.

    Raises:
        DataError: A step cannot read what the one before it gave.
    """
    for step in steps:
        sample = step(sample)
    return sample


def _require_axis(step: str, axis: int, sample: Array) -> None:
    if not -sample.ndim <= axis < sample.ndim:
        raise DataError(f"Step `{step}` has no axis {axis} in a sample of shape {sample.shape}")


def pillow() -> ModuleType:
    """Pillow's ``Image`` module.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return importlib.import_module("PIL.Image")
    except ImportError:
        raise MissingDependencyError(
            "Reading and resizing pictures needs Pillow: pip install 'autotune-quantization[images]'"
        ) from None
