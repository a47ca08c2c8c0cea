"""A few calibration samples, kept for the recipes that run parts of the model again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

EXAMPLES = 32
"""Samples kept. Full bias correction reaches its figures in docs/recipes.md with these; others were not tried."""

EXAMPLE_BYTES = 32 * 2**20
"""Most that they take together; of inputs beyond a mebibyte, fewer than 32 are kept."""

_Feeds = Mapping[str, npt.NDArray[Any]]


class ExampleReservoir:
    """Draws a fixed number of samples evenly from a stream of unknown length (Vitter, 1985, algorithm R).

    Args:
        axes: The axis that counts samples, by input: a batch is taken apart along them. An input that is not named,
            such as a sampling rate, goes with each sample. Without any, a batch counts as one sample.
        seed: Seed of the draw.
    """

    def __init__(self, axes: Mapping[str, int], seed: int) -> None:
        self._axes = dict(axes)
        self._random = np.random.default_rng([seed, EXAMPLES])
        self._kept: list[_Feeds] = []
        self._seen = 0
        self._limit = EXAMPLES

    def watch(self, batches: Iterable[_Feeds]) -> Iterator[_Feeds]:
        """The batches as they come; each is looked at on its way."""
        for feeds in batches:
            for sample in self._samples(feeds):
                self._offer(sample)
            yield feeds

    def finish(self) -> tuple[_Feeds, ...]:
        """The samples kept."""
        return tuple(self._kept)

    def _samples(self, feeds: _Feeds) -> Iterator[_Feeds]:
        lengths = {feeds[name].shape[axis] for name, axis in self._axes.items()}
        if len(lengths) != 1:
            yield feeds
            return
        for index in range(lengths.pop()):
            yield {
                name: array.take([index], axis=self._axes[name]) if name in self._axes else array
                for name, array in feeds.items()
            }

    def _offer(self, sample: _Feeds) -> None:
        if self._seen == 0:
            size = sum(array.nbytes for array in sample.values())
            self._limit = min(EXAMPLES, EXAMPLE_BYTES // max(size, 1))
        self._seen += 1
        if len(self._kept) < self._limit:
            self._kept.append({name: np.array(array) for name, array in sample.items()})
        elif self._limit and (place := int(self._random.integers(self._seen))) < self._limit:
            self._kept[place] = {name: np.array(array) for name, array in sample.items()}
