"""The first batch of the user's data, for frameworks that need one to read a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import DataError


class Example:
    """The first batch of a data loader, before anything is known of the model's inputs; read when it is asked for.

    Args:
        loader: Yields ``inputs`` or ``(inputs, labels)``; ``inputs`` is an array, a tuple or list in graph order, or a
            dict by input name.
        batch_axis: The axis that counts samples where the user names it, or such axes by the name of inputs.
    """

    def __init__(self, loader: Iterable[object], batch_axis: int | Mapping[str, int] | None = None) -> None:
        self._loader = loader
        self.batch_axis = batch_axis

    def arrays(self, inputs: int) -> Mapping[str, npt.NDArray[Any]] | tuple[npt.NDArray[Any], ...]:
        """The batch without labels, by input name where the loader names them, else in the model's order.

        It is not checked against the model's inputs.

        Args:
            inputs: How many inputs the model has, by which a pair is told to be two inputs or inputs with labels.

        Raises:
            DataError: The loader is empty.
        """
        item = self.items(1)[0]
        if looks_labelled(item, inputs):
            assert isinstance(item, (tuple, list))
            item = item[0]
        if isinstance(item, Mapping):
            return {str(name): np.asarray(value) for name, value in item.items()}
        if isinstance(item, (tuple, list)) and not (inputs == 1 and len(item) != 1):
            return tuple(np.asarray(value) for value in item)
        return (np.asarray(item),)

    def items(self, count: int) -> Sequence[object]:
        """The first items of the loader as it yields them, labels included.

        Args:
            count: How many at the most.

        Raises:
            DataError: The loader is empty.
        """
        items = list(itertools.islice(iter(self._loader), count))
        if not items:
            raise DataError("The data loader must yield at least one batch, but it is empty")
        return items


def looks_labelled(item: object, inputs: int) -> bool:
    """Whether a loader's item is ``(inputs, labels)``: a pair, and not merely the two inputs of a two-input model."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        return False
    return inputs == 1 or isinstance(item[0], (tuple, list, Mapping))
