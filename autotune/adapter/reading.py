"""Reads batches that hold a framework's tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from autotune.adapter.example import looks_labelled


class TensorBatches(ABC):
    """A :class:`autotune.adapter.BatchReader` but for the framework's own: its tensors, and the inputs of a model."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many inputs a batch has at the least, by which a pair is told to be two inputs or inputs with labels."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether the model has an input of this name."""

    @abstractmethod
    def array(self, value: object) -> object:
        """A tensor as an array; any other value as it is."""

    def __call__(self, item: object) -> object:
        """One item of a loader with arrays for tensors, labels included."""
        if not looks_labelled(item, self.count):
            return self.inputs(item)
        assert isinstance(item, (tuple, list))
        return self.inputs(item[0]), self.array(item[1])

    def inputs(self, inputs: object) -> object:
        """Inputs with arrays for tensors; what the model does not take of a dict is left out."""
        if isinstance(inputs, Mapping):
            kept = [name for name in inputs if self.has(str(name))]
            # Where it takes none of them, all stay: what reads them says which it wants.
            return {str(name): self.array(inputs[name]) for name in kept or inputs}
        if isinstance(inputs, (tuple, list)) and are_arrays(inputs):
            return tuple(map(self.array, inputs))
        return self.array(inputs)


def are_arrays(values: tuple[object, ...] | list[object]) -> bool:
    """Whether a tuple or list holds inputs, and is not itself one that Python writes as lists of numbers."""
    return bool(values) and all(hasattr(each, "shape") for each in values)
