"""Metrics that need no labels: how far a candidate is from the fp32 model, which says nothing of how good that is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.errors import DataError
from autotune.evaluation.accuracy.metrics.metric import MeanMetric, Metric, output_at


class Agreement(MeanMetric):
    """The share of predictions that are the fp32 model's own; fp32 itself has 1 by definition.

    Args:
        output: Index of the output.
        axis: The axis that counts classes; over what other axes there are, a sample's agreement is a mean.
        threshold: For outputs of shape (samples,) or (samples, 1): above it is one class, below the other.
    """

    name = "agreement"
    label_free = True

    def __init__(self, output: int = 0, axis: int = 1, threshold: float = 0.5) -> None:
        self._output = output
        self._axis = axis
        self._threshold = threshold

    def reference(self, outputs: tuple[Array, ...]) -> Array:
        """The fp32 model's predictions."""
        return self._predictions(outputs)

    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """The share of each sample's predictions that agree."""
        assert reference is not None
        own = self._predictions(outputs)
        same = own == _same_shape(own, reference, self.name)
        return np.asarray(same.reshape(len(own), -1).mean(axis=1))

    def difficulty(self, outputs: tuple[Array, ...], labels: Any) -> Array | None:  # noqa: ARG002
        """How close the two best classes are."""
        output = output_at(outputs, self._output, self.name)
        if output.ndim != 2 or output.shape[1] < 2 or self._axis not in (1, -1):
            return None
        best = -np.partition(-np.asarray(output, np.float64), 1, axis=1)[:, :2]
        return np.asarray(best[:, 1] - best[:, 0])

    def _predictions(self, outputs: tuple[Array, ...]) -> Array:
        output = output_at(outputs, self._output, self.name)
        if output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1):
            return np.asarray(output.reshape(-1, 1) > self._threshold)
        if not -output.ndim < self._axis < output.ndim or self._axis == 0:
            raise DataError(
                f"Metric {self.name!r} needs an axis of classes, but axis {self._axis} is none of "
                f"the output's, which has shape {output.shape}"
            )
        return np.asarray(output.argmax(axis=self._axis))


class CosineSimilarity(MeanMetric):
    """Mean cosine between a candidate's output and the fp32 model's, each sample's values taken as one vector.

    It keeps the fp32 model's outputs of all samples in memory.

    Args:
        output: Index of the output.
    """

    name = "cosine"
    label_free = True
    bounds = (-1.0, 1.0)

    def __init__(self, output: int = 0) -> None:
        self._output = output

    def reference(self, outputs: tuple[Array, ...]) -> Array:
        """The output itself."""
        return output_at(outputs, self._output, self.name)

    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Each sample's cosine; 1 where both outputs are zero, 0 where one is."""
        assert reference is not None
        output = output_at(outputs, self._output, self.name)
        ours = output.reshape(len(output), -1).astype(np.float64)
        theirs = _same_shape(output, reference, self.name).reshape(len(output), -1).astype(np.float64)
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        products = (ours * theirs).sum(axis=1)
        cosines = np.divide(products, lengths, out=np.zeros(len(ours)), where=lengths > 0)
        both_zero = ~ours.any(axis=1) & ~theirs.any(axis=1)
        return np.clip(np.where(both_zero, 1.0, cosines), -1.0, 1.0)


class Fidelity(Metric):
    """Share of the variance of the fp32 model's output that a candidate's gives; fp32 itself has 1 by definition.

    R squared with fp32's output in the place of labels: for models that predict numbers, where a cosine of one value
    sees its sign alone.

    Args:
        output: Index of the output.
    """

    name = "fidelity"
    label_free = True
    undefined = "its output is the same for all data. Are these samples like those that it was made for?"

    def __init__(self, output: int = 0) -> None:
        self._output = output

    def reference(self, outputs: tuple[Array, ...]) -> Array:
        """The output itself."""
        return output_at(outputs, self._output, self.name)

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Sums for each sample: squared error; count, sum and sum of squares of fp32's values; shape (samples, 4)."""
        assert reference is not None
        output = output_at(outputs, self._output, self.name)
        theirs = _same_shape(output, reference, self.name).reshape(len(output), -1).astype(np.float64)
        errors = output.reshape(len(output), -1).astype(np.float64) - theirs
        counts = np.full(len(theirs), theirs.shape[1])
        return np.column_stack([(errors**2).sum(axis=1), counts, theirs.sum(axis=1), (theirs**2).sum(axis=1)])

    def figure(self, records: Array) -> float:
        """The figure, at most 1; NaN where fp32's output does not vary."""
        error, count, total, squares = records.sum(axis=0)
        spread = squares - total**2 / count
        return float(1 - error / spread) if spread > 0 else math.nan


def _same_shape(output: Array, reference: Array, metric: str) -> Array:
    if output.shape != reference.shape:
        raise DataError(
            f"Metric {metric!r} compares with fp32's output of shape {reference.shape}, but the candidate's has "
            f"{output.shape}"
        )
    return reference
