"""Metrics of classifiers beyond top-k accuracy."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.adapter import Array
from autotune.errors import DataError, InputError
from autotune.evaluation.accuracy.metrics.metric import MeanMetric, Metric, class_labels, class_scores, output_at


class Average(StrEnum):
    """How the figures of several classes become one."""

    BINARY = "binary"
    """The figure of the positive class alone."""
    MICRO = "micro"
    """One figure from the counts of all classes together."""
    MACRO = "macro"
    """The mean over classes that occur among labels or predictions."""


class _Predictions(Metric):
    """A figure of merit from each sample's class and the predicted one; its records are these two.

    Args:
        output: Index of the output. Shape (samples, classes): the highest score is the prediction; shape (samples,)
            or (samples, 1): class 1 where the value exceeds ``threshold``.
        threshold: For outputs with one value per sample: 0.5 for probabilities, 0 for logits.
    """

    def __init__(self, output: int = 0, threshold: float = 0.5) -> None:
        self._output = output
        self._threshold = threshold

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Class and predicted class, shape (samples, 2)."""
        output = output_at(outputs, self._output, self.name)
        if output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1):
            predicted = (output.reshape(-1) > self._threshold).astype(np.int64)
            truth = class_labels(labels, len(predicted), 2, self.name)
        else:
            scores = class_scores(outputs, self._output, self.name)
            predicted = scores.argmax(axis=1)
            truth = class_labels(labels, len(predicted), scores.shape[1], self.name)
        return np.stack([truth, predicted], axis=1).astype(np.float64)


class _Averaged(_Predictions):
    """A figure from true positives, predicted and actual counts of each class.

    Args:
        average: How the figures of several classes become one.
        positive: The positive class, for ``binary``.
        output: See above.
        threshold: See above.
    """

    def __init__(
        self, average: str = Average.MACRO, positive: int = 1, output: int = 0, threshold: float = 0.5
    ) -> None:
        super().__init__(output, threshold)
        if average not in list(Average):
            raise InputError(f"`average` must be one of {[str(known) for known in Average]}, but got {average!r}")
        self._average = Average(average)
        self._positive = positive
        self.name = f"{type(self).__name__.lower()}_{self._average}"

    def figure(self, records: Array) -> float:
        """The figure; 0 where a class has nothing to divide by."""
        confusion = _confusion(records)
        hits, predicted, actual = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
        if self._average is Average.BINARY:
            if self._positive >= len(hits):
                return 0.0
            counts = [count[self._positive : self._positive + 1] for count in (hits, predicted, actual)]
        elif self._average is Average.MICRO:
            counts = [count.sum(keepdims=True) for count in (hits, predicted, actual)]
        else:
            present = (predicted + actual) > 0
            counts = [count[present] for count in (hits, predicted, actual)]
        top, bottom = self._ratio(*counts)
        return float(np.divide(top, bottom, out=np.zeros(len(top)), where=bottom > 0).mean())

    def _ratio(self, hits: Array, predicted: Array, actual: Array) -> tuple[Array, Array]:
        raise NotImplementedError


class Precision(_Averaged):
    """The share of samples predicted as a class that belong to it."""

    def _ratio(self, hits: Array, predicted: Array, actual: Array) -> tuple[Array, Array]:  # noqa: ARG002
        return hits, predicted


class Recall(_Averaged):
    """The share of samples of a class that are predicted as it."""

    def _ratio(self, hits: Array, predicted: Array, actual: Array) -> tuple[Array, Array]:  # noqa: ARG002
        return hits, actual


class F1(_Averaged):
    """Harmonic mean of precision and recall."""

    def _ratio(self, hits: Array, predicted: Array, actual: Array) -> tuple[Array, Array]:
        return 2 * hits, predicted + actual


class Matthews(_Predictions):
    """Matthews correlation coefficient of classes and predictions (Gorodkin 2004 for more than two classes)."""

    name = "matthews"

    def figure(self, records: Array) -> float:
        """The figure, between -1 and 1; 0 where all samples are of one class or predicted as one."""
        confusion = _confusion(records)
        predicted, actual = confusion.sum(axis=0), confusion.sum(axis=1)
        total = confusion.sum()
        top = np.trace(confusion) * total - predicted @ actual
        bottom = math.sqrt(total**2 - predicted @ predicted) * math.sqrt(total**2 - actual @ actual)
        return float(top / bottom) if bottom > 0 else 0.0


class RocAuc(Metric):
    """Area under the receiver operating characteristic; of more than two classes the mean of one against the rest.

    Args:
        output: Index of the output: one score per sample, or one per class. More than two classes need probabilities.
        logits: Apply softmax to the scores of more than two classes first.
    """

    name = "roc_auc"
    resamples = 400

    def __init__(self, output: int = 0, logits: bool = False) -> None:
        self._output = output
        self._logits = logits

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Class and scores: one score of the positive class where there are two, else one per class."""
        output = output_at(outputs, self._output, self.name)
        if output.ndim == 1:
            output = output[:, None]
        scores = np.asarray(class_scores((output,), 0, self.name), np.float64)
        classes = max(2, scores.shape[1])
        truth = class_labels(labels, len(scores), classes, self.name)
        if classes > 2:
            scores = probabilities(scores, self.name, logits=self._logits)
        elif scores.shape[1] == 2:
            scores = scores[:, 1:] - scores[:, :1]
        return np.column_stack([truth, scores])

    def figure(self, records: Array) -> float:
        """The figure, between 0 and 1; NaN where a class has no sample."""
        truth, scores = records[:, 0], records[:, 1:]
        if scores.shape[1] == 1:
            return _auc(truth == 1, scores[:, 0])
        return float(np.mean([_auc(truth == index, scores[:, index]) for index in range(scores.shape[1])]))


class LogLoss(MeanMetric):
    """Mean negative logarithm of the probability that the model gives to each sample's class.

    Args:
        output: Index of the output: probabilities of shape (samples, classes), or of class 1 of shape (samples, 1).
        logits: The output is logits: apply softmax, or the logistic function where there is one value per sample.
    """

    name = "log_loss"
    higher_is_better = False
    bounds = (0.0, math.inf)

    def __init__(self, output: int = 0, logits: bool = False) -> None:
        self._output = output
        self._logits = logits

    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Minus the logarithm of the class's probability, which is cut at the spacing of floats."""
        output = output_at(outputs, self._output, self.name)
        if output.ndim == 1:
            output = output[:, None]
        scores = np.asarray(class_scores((output,), 0, self.name), np.float64)
        if scores.shape[1] == 1:
            # The logistic function is the softmax of (0, x).
            scores = np.column_stack([np.zeros(len(scores)) if self._logits else 1 - scores[:, 0], scores[:, 0]])
        truth = class_labels(labels, len(scores), scores.shape[1], self.name)
        chances = probabilities(scores, self.name, logits=self._logits)
        eps = np.finfo(np.float64).eps
        return np.asarray(-np.log(np.clip(chances[np.arange(len(truth)), truth], eps, 1 - eps)))


def probabilities(scores: Array, metric: str, *, logits: bool) -> Array:
    """Scores as probabilities over their last axis.

    Raises:
        DataError: The outputs are said to be probabilities and are not, or logits and look like probabilities.
    """
    sums = scores.sum(axis=-1)
    fits = bool((scores >= -1e-6).all() and (np.abs(sums - 1) < 1e-2).all())
    if logits:
        if fits:
            raise DataError(
                f"Metric {metric!r} was told that the output is logits, but its values are probabilities already: "
                "they lie between 0 and 1 and sum to 1. Give logits=False"
            )
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
    if not fits:
        raise DataError(
            f"Metric {metric!r} needs probabilities, but the output has values from {scores.min():.4g} to "
            f"{scores.max():.4g} that do not sum to 1. If they are logits, give logits=True"
        )
    return scores


def _confusion(records: Array) -> npt.NDArray[np.float64]:
    """How often each class (row) was predicted as each class (column)."""
    pairs = records.astype(np.int64)
    classes = max(2, int(pairs.max()) + 1)
    counts = np.bincount(pairs[:, 0] * classes + pairs[:, 1], minlength=classes**2)
    return counts.reshape(classes, classes).astype(np.float64)


def _auc(positive: Array, scores: Array) -> float:
    """Probability that a positive sample scores above a negative one, ties counting half (Mann and Whitney 1947)."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return math.nan
    from scipy.stats import rankdata  # noqa: PLC0415  takes a second to import, which a run without it need not wait

    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))
