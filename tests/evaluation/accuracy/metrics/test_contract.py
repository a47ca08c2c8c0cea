"""The contract of every metric that an experiment file can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotune.evaluation import METRICS, Metric, create_metric
from autotune.testing import MetricSuite
from autotune.testing.metrics import Batch

SAMPLES = 24


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def classes() -> Batch:
    """Logits of four classes that are right for two of three samples, and every class among the labels."""
    labels = np.arange(SAMPLES) % 4
    logits = random().normal(size=(SAMPLES, 4))
    logits[np.arange(SAMPLES), np.where(np.arange(SAMPLES) % 3, labels, (labels + 1) % 4)] += 2.0
    return (logits,), labels


def two_classes() -> Batch:
    (logits,), labels = classes()
    return (logits[:, :2],), labels % 2


def numbers() -> Batch:
    truth = random().normal(size=SAMPLES)
    return (truth[:, None] + 0.3 * np.random.default_rng(1).normal(size=(SAMPLES, 1)),), truth


def tokens() -> Batch:
    return (random().normal(size=(SAMPLES, 5, 7)),), random().integers(0, 7, (SAMPLES, 5))


def spans() -> Batch:
    """Scores of the first and the last word of an answer, in a context of four words of two letters."""
    starts, ends = random().normal(size=(2, SAMPLES, 4))
    words = [[3 * word, 3 * word + 2] for word in range(4)]
    labels: dict[str, Any] = {
        "context": ["aa bb cc dd"] * SAMPLES,
        "offsets": np.array([words] * SAMPLES),
        "answers": [["bb cc"], ["dd", "cc dd"]] * (SAMPLES // 2),
    }
    return (starts, ends), labels


def detections() -> Batch:
    """Two boxes in each picture, the first of them a little off and the second not there."""
    corners = np.cumsum(random().uniform(5, 20, (SAMPLES, 2, 4)), axis=2)[..., [0, 1, 2, 3]]
    boxes = np.concatenate([corners[:, :1] + 1.0, corners[:, 1:] + 100.0], axis=1)
    labels = [{"boxes": each, "labels": np.array([index % 2, 1])} for index, each in enumerate(corners)]
    found = np.stack([np.arange(SAMPLES) % 2, np.ones(SAMPLES)], axis=1)
    return (boxes, random().uniform(0.2, 1.0, (SAMPLES, 2)), found), labels


def suppressed() -> Batch:
    """Boxes, scores and classes in one output, as detectors write them after suppression."""
    (boxes, scores, found), _ = detections()
    rows = np.concatenate([boxes, scores[..., None], found[..., None]], axis=2)
    return (np.concatenate([rows, np.zeros((SAMPLES, 6, 6))], axis=1).astype(np.float32),), None


def absolute_error(outputs: Any, labels: Any) -> Any:
    return np.abs(outputs[:, 0] - labels)


def largest_error(outputs: Any, labels: Any) -> float:
    return float(np.abs(outputs[:, 0] - labels).max())


CASES: dict[str, Callable[[], Batch]] = {
    **dict.fromkeys(["topk", "f1", "precision", "recall", "log_loss", "matthews", "agreement", "cosine"], classes),
    **dict.fromkeys(["mse", "mae", "rmse", "r2", "pearson", "spearman", "fidelity", "per_sample", "figure"], numbers),
    **dict.fromkeys(["squad_exact_match", "squad_f1"], spans),
    "roc_auc": two_classes,
    "perplexity": tokens,
    "boxes": suppressed,
    "map": detections,
}
OPTIONS: dict[str, dict[str, object]] = {
    "log_loss": {"logits": True},
    "per_sample": {"function": absolute_error},
    "figure": {"function": largest_error},
}


@pytest.mark.parametrize("name", METRICS)
class TestEveryMetric(MetricSuite):
    @pytest.fixture(autouse=True)
    def _of(self, name: str) -> None:
        self._name = name

    def metric(self) -> Metric:
        return create_metric(self._name, **OPTIONS.get(self._name, {}))

    def batch(self) -> Batch:
        return CASES[self._name]()
