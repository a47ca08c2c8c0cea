"""Top-k accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.bounds import require_least
from autotune.errors import DataError, InputError
from autotune.evaluation.accuracy.metrics.metric import MeanMetric, class_labels, class_scores


class TopK(MeanMetric):
    """The share of samples whose class is among the ``k`` with the highest scores.

    Among equal scores the lower class index counts as the higher one, as ``argmax`` has it.

    Args:
        k: How many guesses count.
        output: Index of the output with the class scores, shape (samples, classes).
    """

    def __init__(self, k: int = 1, output: int = 0) -> None:
        require_least(1, InputError, k=k)
        self.name = f"top{k}"
        self._k = k
        self._output = output

    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """1 where the class is among the first ``k``, else 0."""
        scores = self._class_scores(outputs)
        samples, classes = scores.shape
        truth = class_labels(labels, samples, classes, self.name)
        own = scores[np.arange(samples), truth][:, None]
        before = np.arange(classes)[None, :] < truth[:, None]
        rank = (scores > own).sum(axis=1) + ((scores == own) & before).sum(axis=1)
        return np.asarray(rank < self._k)

    def difficulty(self, outputs: tuple[Array, ...], labels: Any) -> Array:
        """How near the sample's own class is to the rank at which its answer changes: minus the gap between scores."""
        scores = np.array(self._class_scores(outputs), np.float64)
        samples = np.arange(len(scores))
        truth = class_labels(labels, len(scores), scores.shape[1], self.name)
        own = scores[samples, truth]
        scores[samples, truth] = -np.inf
        rival = -np.partition(-scores, self._k - 1, axis=1)[:, self._k - 1]
        return np.asarray(-np.abs(own - rival))

    def _class_scores(self, outputs: tuple[Array, ...]) -> Array:
        scores = class_scores(outputs, self._output, self.name)
        classes = scores.shape[1]
        if self._k >= classes:
            raise DataError(f"`k < classes` must hold, but metric {self.name!r} got an output of {classes} classes")
        return scores
