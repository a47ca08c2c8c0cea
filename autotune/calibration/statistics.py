"""Statistics of each tensor from one pass over calibration data, and their file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from autotune.atomic import replacing
from autotune.calibration.histogram import Histogram
from autotune.calibration.moments import ChannelMoments
from autotune.errors import WorkspaceError

FORMAT_VERSION = 2

_EXAMPLE = "example/"

_MOMENTS = ("minimum", "maximum", "mean", "variance")


@dataclass(frozen=True)
class TensorStatistics:
    """Statistics of one tensor.

    Attributes:
        minimum: Smallest of all values.
        maximum: Largest of all values.
        count: How many values there were.
        histogram: Counts of all values: exact in the tails, scaled up from a subsample in the bulk of a large tensor.
        channels: Moments per channel, where the tensor was given a channel axis.
    """

    minimum: float
    maximum: float
    count: int
    histogram: Histogram
    channels: ChannelMoments | None = None
    ranges: dict[Hashable, tuple[float, float]] = field(default_factory=dict, compare=False, repr=False, init=False)
    """Ranges that :func:`autotune.algorithms.activation_range` has computed; every candidate asks for them again."""


@dataclass(frozen=True)
class CalibrationStatistics:
    """Statistics of the fp32 model's tensors over the calibration data; their size does not depend on that data's.

    Attributes:
        tensors: By the tensor's name in the graph.
        samples: How many samples were seen.
        examples: A bounded number of them, the model's inputs by name, for recipes that run parts of the model again.
        unbounded: Tensors that held NaN, infinity or magnitudes that stand for it, as masks do. Their ``tensors``
            describe the other values, and have no channels.
    """

    tensors: Mapping[str, TensorStatistics]
    samples: int
    examples: tuple[Mapping[str, npt.NDArray[Any]], ...] = ()
    unbounded: frozenset[str] = frozenset()

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file; a reader sees the old file or the new one, never a part.

        Raises:
            WorkspaceError: It cannot be written.
        """
        try:
            # A file of ours: to a path, NumPy would append an ending.
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **self._arrays())
        except OSError as error:
            raise WorkspaceError(f"The calibration statistics cannot be written to {path}: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            WorkspaceError: It is missing, damaged or of another format version.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                version = int(archive["format_version"])
                if version != FORMAT_VERSION:
                    raise WorkspaceError(
                        f"{path} must have format version {FORMAT_VERSION}, but has {version}. "
                        "Delete it to calibrate anew"
                    )
                return cls._read(archive)
        except WorkspaceError:
            raise
        except Exception as error:  # whatever a file may hold, its reader learns that it cannot be used
            raise WorkspaceError(
                f"{path} must be a file of calibration statistics, but cannot be read ({error}). "
                "Delete it to calibrate anew"
            ) from error

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        values = list(self.tensors.values())
        histograms = [value.histogram for value in values]
        moments = [value.channels for value in values]
        present = [each for each in moments if each is not None]
        arrays: dict[str, npt.NDArray[Any]] = {
            "format_version": np.array(FORMAT_VERSION, np.int64),
            "samples": np.array(self.samples, np.int64),
            "unbounded": np.array(sorted(self.unbounded), dtype=np.str_),
            "names": np.array(list(self.tensors), dtype=np.str_),
            "extremes": np.array([(v.minimum, v.maximum) for v in values], np.float64).reshape(-1, 2),
            "counts": np.array([value.count for value in values], np.int64),
            "histogram_bins": np.array([each.bins for each in histograms], np.int64),
            "histogram_ranges": np.array([(each.low, each.high) for each in histograms], np.float64).reshape(-1, 2),
            "histogram_counts": np.concatenate([np.empty(0, np.int64), *(each.counts for each in histograms)]),
            "channel_sizes": np.array([-1 if each is None else each.mean.size for each in moments], np.int64),
            "channel_axes": np.array([0 if each is None else each.axis for each in moments], np.int64),
        }
        for name in _MOMENTS:
            arrays[f"channel_{name}"] = np.concatenate([np.empty(0), *(getattr(each, name) for each in present)])
        for index, example in enumerate(self.examples):
            arrays.update({f"{_EXAMPLE}{index}/{name}": _storable(array) for name, array in example.items()})
        return arrays

    @classmethod
    def _read(cls, archive: Mapping[str, npt.NDArray[Any]]) -> Self:
        arrays = {name: archive[name] for name in archive}
        sizes = arrays["channel_sizes"]
        bin_ends = np.cumsum(arrays["histogram_bins"])
        channel_ends = np.cumsum(np.maximum(sizes, 0))
        tensors = {}
        for index, name in enumerate(arrays["names"].tolist()):
            bins, size = int(arrays["histogram_bins"][index]), int(sizes[index])
            low, high = map(float, arrays["histogram_ranges"][index])
            counts = arrays["histogram_counts"][bin_ends[index] - bins : bin_ends[index]].copy()
            channels = None
            if size >= 0:
                part = slice(int(channel_ends[index]) - size, int(channel_ends[index]))
                channels = ChannelMoments(
                    int(arrays["channel_axes"][index]),
                    *(arrays[f"channel_{moment}"][part].copy() for moment in _MOMENTS),
                )
            minimum, maximum = map(float, arrays["extremes"][index])
            histogram = Histogram(counts, low, high)
            tensors[name] = TensorStatistics(minimum, maximum, int(arrays["counts"][index]), histogram, channels)
            _check_ranges(name, tensors[name])
        # Files of earlier versions know no unbounded tensors: such data was refused.
        unbounded = frozenset(arrays["unbounded"].tolist()) if "unbounded" in arrays else frozenset()
        return cls(tensors, int(arrays["samples"]), _examples(arrays), unbounded)


def _check_ranges(name: str, tensor: TensorStatistics) -> None:
    """Refuse figures that no data could leave.

    Raises:
        ValueError: A figure is out of its range; the message names the tensor.
    """
    ends, channels = (tensor.minimum, tensor.maximum), tensor.channels
    if not (np.isfinite(ends).all() and tensor.minimum <= tensor.maximum):
        raise ValueError(f"the values of {name!r} lie between {tensor.minimum} and {tensor.maximum}")
    if tensor.count < 0 or bool((tensor.histogram.counts < 0).any()):
        raise ValueError(f"a count of {name!r} is negative")
    if channels is None:
        return
    moments = np.stack([getattr(channels, moment) for moment in _MOMENTS])
    if not np.isfinite(moments).all() or bool((channels.minimum > channels.maximum).any()):
        raise ValueError(f"the channels of {name!r} have no ranges")
    if bool((channels.variance < 0).any()):
        raise ValueError(f"a variance of {name!r} is negative")


def _storable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array as an archive without pickles takes it: strings, which models read as objects, as text."""
    return array.astype(np.str_) if array.dtype == object else array


def _examples(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[Mapping[str, npt.NDArray[Any]], ...]:
    examples: dict[int, dict[str, npt.NDArray[Any]]] = {}
    for key, array in arrays.items():
        if key.startswith(_EXAMPLE):
            index, _, name = key.removeprefix(_EXAMPLE).partition("/")
            examples.setdefault(int(index), {})[name] = array.astype(object) if array.dtype.kind == "U" else array
    return tuple(examples[index] for index in sorted(examples))
