"""A metric from any callable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.errors import DataError
from autotune.evaluation.accuracy.metrics.metric import MeanMetric, Metric
from autotune.users_code import users_code


class SampleFunction(MeanMetric):
    """The mean of what a function gives for each sample.

    Args:
        function: ``function(outputs, labels)`` for one batch, ``outputs`` one array or a tuple; returns a number for
            each sample, shape (samples,).
        name: Name under which the figure is reported.
        higher_is_better: Whether a larger figure is a better one.
        low: The least that the function can return for a sample; bounds let evaluations end early.
        high: The largest.
    """

    def __init__(
        self,
        function: Callable[[Any, Any], object],
        name: str = "score",
        higher_is_better: bool = True,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> None:
        self.name = name
        self.higher_is_better = higher_is_better
        self.bounds = (low, high)
        self._function = function

    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """The result of the function."""
        scores = np.asarray(self._function(outputs[0] if len(outputs) == 1 else outputs, labels))
        if scores.ndim != 1 or scores.dtype.kind not in "fiub":
            raise DataError(
                f"Metric {self.name!r} must return a number for each sample, shape (samples,), but returned "
                f"{scores.dtype} of shape {scores.shape}. Use `figure` for a function of the whole data set"
            )
        low, high = self.bounds
        if scores.size and (scores.min() < low or scores.max() > high):
            raise DataError(
                f"Metric {self.name!r} must stay between {low:g} and {high:g}, as it was declared, but returned "
                f"values from {scores.min():g} to {scores.max():g}"
            )
        return scores.astype(np.float64)


class FigureFunction(Metric):
    """A metric that is a function of the outputs and labels of the whole data set, which are all kept in memory.

    Args:
        function: ``function(outputs, labels)``; ``outputs`` is one array or a tuple, ``labels`` an array, a list, or a
            dict of them, in the form in which the loader gives them. Returns a number.
        name: Name under which the figure is reported.
        higher_is_better: Whether a larger figure is a better one.
        resamples: Resamples of the paired bootstrap: how often the function is called on each candidate for its
            interval.
    """

    def __init__(
        self,
        function: Callable[[Any, Any], object],
        name: str = "score",
        higher_is_better: bool = True,
        resamples: int = 200,
    ) -> None:
        self.name = name
        self.higher_is_better = higher_is_better
        self.resamples = resamples
        self._function = function

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Outputs and labels of each sample, as objects."""
        samples = len(outputs[0])
        rows = np.empty(samples, object)
        for index in range(samples):
            rows[index] = (tuple(output[index] for output in outputs), _row(labels, index))
        return rows

    def figure(self, records: Array) -> float:
        """The result of the function."""
        columns = zip(*(outputs for outputs, _ in records), strict=True)
        outputs = tuple(np.stack(column) for column in columns)
        labels = _joined([label for _, label in records])
        with users_code(f"The function of metric {self.name!r}"):
            value = self._function(outputs[0] if len(outputs) == 1 else outputs, labels)
        number = np.asarray(value)
        if number.shape != () or number.dtype.kind not in "fiu":
            raise DataError(f"Metric {self.name!r} must return one number, but returned {value!r}")
        return float(number)


def _row(labels: Any, index: int) -> Any:
    """One sample's label, with whether it came in a list: plain data, so that the workspace can keep it."""
    if isinstance(labels, Mapping):
        return {name: _row(part, index) for name, part in labels.items()}
    return None if labels is None else (labels[index], isinstance(labels, (list, tuple)))


def _joined(rows: list[Any]) -> Any:
    """The labels of all samples in the form that they came in."""
    first = rows[0]
    if isinstance(first, Mapping):
        return {name: _joined([row[name] for row in rows]) for name in first}
    if first is None:
        return None
    values = [value for value, _ in rows]
    return values if first[1] else np.asarray(values)
