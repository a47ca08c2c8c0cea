"""The contract of a metric: what it keeps of each sample, and the figure that it makes of what was kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.errors import DataError


class Metric(ABC):
    """A figure of merit over a data set, computed from a compact record of each sample.

    An evaluation calls :meth:`records` once per batch, in any order of batches, and :meth:`figure` on records of any
    subset of the samples. That makes every metric streaming (outputs are dropped as soon as their record is made) and
    lets two models be compared sample by sample: the records of both are resampled together (paired bootstrap).
    A metric whose figure is the mean over samples is a :class:`MeanMetric`, whose evaluation can also end early.

    Attributes:
        name: Name under which the figure is reported.
        higher_is_better: Whether a larger figure is a better one.
        label_free: Whether it compares with the fp32 model's own outputs and reads no labels.
        resamples: Resamples of the paired bootstrap, for figures that are no mean; fewer where a figure is expensive.
        undefined: Advice for the message where fp32's figure is NaN: when that happens and what to do.
    """

    name: str
    higher_is_better: bool = True
    label_free: bool = False
    resamples: int = 1000
    undefined: str = ""

    @property
    def identity(self) -> str:
        """Kind and options of the metric: figures of metrics that differ in it are not compared.

        A function among the options counts by its name, which is the same in every process.
        """
        options = ", ".join(f"{key.strip('_')}={_described(value)}" for key, value in sorted(vars(self).items()))
        return f"{type(self).__name__}({options})"

    @abstractmethod
    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:
        """Per-sample values of one batch from which the figure is computed.

        Args:
            outputs: The model's outputs in graph order, the first dimension of each counts samples.
            labels: The batch's labels as the loader gave them.
            reference: For label-free metrics, what :meth:`reference` made of the fp32 model's outputs.

        Returns:
            Shape (samples, ...), float64, or object where records vary in size.

        Raises:
            DataError: Labels or outputs are not of the form that the metric reads.
        """

    @abstractmethod
    def figure(self, records: Array) -> float:
        """The figure over the samples of ``records``, one or more of them; NaN where it is not defined."""

    def reference(self, outputs: tuple[Array, ...]) -> Array:
        """For label-free metrics: values to keep of each sample of the fp32 model's outputs, shape (samples, ...)."""
        raise NotImplementedError(f"{type(self).__name__} is not label-free")

    def difficulty(self, outputs: tuple[Array, ...], labels: Any) -> Array | None:  # noqa: ARG002
        """How easily the fp32 model's result on each sample may change, shape (samples,), larger is easier.

        Only the order counts. It decides which samples are evaluated first, never the figure itself; None where
        outputs say nothing of it.
        """
        return None


class MeanMetric(Metric):
    """A metric whose figure is the mean of one score per sample; its records have shape (samples, 1).

    Attributes:
        bounds: The least and the largest score that a sample can have, infinite where there is none. They are what
            lets an evaluation end as soon as its outcome is certain or nearly so.
    """

    bounds: tuple[float, float] = (0.0, 1.0)

    @abstractmethod
    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:
        """The score of each sample of one batch, shape (samples,)."""

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:
        """The scores as a column."""
        return np.asarray(self.scores(outputs, labels, reference), np.float64).reshape(-1, 1)

    def figure(self, records: Array) -> float:
        """The mean score."""
        return float(records.mean())


def output_at(outputs: tuple[Array, ...], index: int, metric: str) -> Array:
    """The output that a metric reads.

    Raises:
        DataError: The model has fewer outputs.
    """
    if not 0 <= index < len(outputs):
        raise DataError(
            f"Metric {metric!r} reads output {index}, but the model has {len(outputs)}. Give `output` between 0 and "
            f"{len(outputs) - 1}"
        )
    return outputs[index]


def class_labels(labels: Any, samples: int, classes: int | None, metric: str) -> Array:
    """Labels as class indices, shape (samples,).

    Args:
        labels: Integers of shape (samples,) or (samples, 1).
        samples: How many the outputs have.
        classes: How many classes the outputs have; None: any.
        metric: Name of the metric, for the message.

    Raises:
        DataError: Labels have another length or shape, are no integers, or no class of the outputs.
    """
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.shape == (samples, classes):
        raise DataError(
            f"Metric {metric!r} needs the index of each sample's class, but the labels have shape {array.shape} like "
            "the outputs: one-hot. Pass `labels.argmax(1)`"
        )
    if array.ndim == 0 and samples == 1:
        array = array.reshape(1)
    if array.shape != (samples,):
        raise DataError(
            f"Metric {metric!r} needs one label per sample, shape ({samples},), but the labels have shape {array.shape}"
        )
    if array.dtype.kind == "f" and bool((array == np.floor(array)).all()):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iub":
        raise DataError(f"Metric {metric!r} needs integer labels, but they are {array.dtype}")
    if classes is not None and (array.min() < 0 or array.max() >= classes):
        bad = int(array.max() if array.max() >= classes else array.min())
        raise DataError(
            f"Metric {metric!r} needs labels between 0 and {classes - 1}, for the {classes} classes of the output, "
            f"but got {bad}. Do labels start at 1, or belong to another data set?"
        )
    return array.astype(np.int64)


def class_scores(outputs: tuple[Array, ...], index: int, metric: str) -> Array:
    """One output as class scores, shape (samples, classes).

    Raises:
        DataError: It has another number of dimensions.
    """
    output = output_at(outputs, index, metric)
    if output.ndim > 2 and all(size == 1 for size in output.shape[2:]):
        output = output.reshape(output.shape[:2])
    if output.ndim != 2:
        raise DataError(
            f"Metric {metric!r} needs an output of shape (samples, classes), but output {index} has {output.shape}"
        )
    return output


def _described(value: object) -> str:
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return repr(value)
