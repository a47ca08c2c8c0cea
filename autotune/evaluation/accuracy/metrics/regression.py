"""Metrics of models that predict numbers."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.errors import DataError
from autotune.evaluation.accuracy.metrics.metric import MeanMetric, Metric, output_at


class _MeanError(MeanMetric):
    """Mean over samples of an error that is a mean over a sample's values.

    Args:
        output: Index of the output; labels have its shape.
    """

    higher_is_better = False
    bounds = (0.0, math.inf)

    def __init__(self, output: int = 0) -> None:
        self._output = output

    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Each sample's mean error."""
        predicted, truth = _values(outputs, self._output, labels, self.name)
        return np.asarray(self._errors(predicted - truth).mean(axis=1))

    @abstractmethod
    def _errors(self, differences: Array) -> Array: ...


class MeanSquaredError(_MeanError):
    """Mean squared error; over all values of a sample where it has several.

    Args:
        output: Index of the output; labels have its shape.
    """

    name = "mse"

    def _errors(self, differences: Array) -> Array:
        return np.square(differences)


class MeanAbsoluteError(_MeanError):
    """Mean absolute error; over all values of a sample where it has several.

    Args:
        output: Index of the output; labels have its shape.
    """

    name = "mae"

    def _errors(self, differences: Array) -> Array:
        return np.abs(differences)


class RootMeanSquaredError(Metric):
    """Square root of the mean squared error.

    Args:
        output: Index of the output; labels have its shape.
    """

    name = "rmse"
    higher_is_better = False

    def __init__(self, output: int = 0) -> None:
        self._output = output

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:
        """Each sample's mean squared error, shape (samples, 1)."""
        return MeanSquaredError(self._output).records(outputs, labels, reference)

    def figure(self, records: Array) -> float:
        """The figure in the unit of the labels."""
        return math.sqrt(records.mean())


class _Pairs(Metric):
    """A figure from one predicted and one true value per sample; its records are these two.

    Args:
        output: Index of the output, shape (samples,) or (samples, 1).
    """

    def __init__(self, output: int = 0) -> None:
        self._output = output

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Predicted and true value, shape (samples, 2)."""
        predicted, truth = _values(outputs, self._output, labels, self.name)
        if predicted.shape[1] != 1:
            raise DataError(f"Metric {self.name!r} needs one value per sample, but there are {predicted.shape[1]}")
        return np.column_stack([predicted, truth])


class R2(_Pairs):
    """Coefficient of determination: the share of the labels' variance that is predicted."""

    name = "r2"

    def figure(self, records: Array) -> float:
        """The figure, at most 1; NaN where the labels do not vary."""
        predicted, truth = records.T
        spread = ((truth - truth.mean()) ** 2).sum()
        return float(1 - ((truth - predicted) ** 2).sum() / spread) if spread > 0 else math.nan


class Pearson(_Pairs):
    """Pearson's correlation of predicted and true values."""

    name = "pearson"

    def figure(self, records: Array) -> float:
        """The figure, between -1 and 1; NaN where either does not vary."""
        return _correlation(*records.T)


class Spearman(_Pairs):
    """Spearman's rank correlation of predicted and true values; ties share their mean rank."""

    name = "spearman"

    def figure(self, records: Array) -> float:
        """The figure, between -1 and 1; NaN where either does not vary."""
        from scipy.stats import rankdata  # noqa: PLC0415  takes a second to import, which a run without it need not wait

        return _correlation(rankdata(records[:, 0]), rankdata(records[:, 1]))


def _correlation(first: Array, second: Array) -> float:
    first, second = first - first.mean(), second - second.mean()
    bottom = math.sqrt(first @ first) * math.sqrt(second @ second)
    return float(first @ second / bottom) if bottom > 0 else math.nan


def _values(outputs: tuple[Array, ...], index: int, labels: Any, metric: str) -> tuple[Array, Array]:
    """Output and labels as float64, shape (samples, values) both.

    Raises:
        DataError: Shapes of outputs and labels differ, or labels are no numbers.
    """
    output = output_at(outputs, index, metric)
    truth = np.asarray(labels)
    if truth.dtype.kind not in "fiub":
        raise DataError(f"Metric {metric!r} needs numbers as labels, but they are {truth.dtype}")
    squeezed = [tuple(size for size in array.shape[1:] if size != 1) for array in (output, truth)]
    if output.ndim == 0 or truth.ndim == 0 or len(output) != len(truth) or squeezed[0] != squeezed[1]:
        raise DataError(
            f"Metric {metric!r} needs labels of the output's shape {output.shape}, but they have {truth.shape}"
        )
    return output.reshape(len(output), -1).astype(np.float64), truth.reshape(len(truth), -1).astype(np.float64)
