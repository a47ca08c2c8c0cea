from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from scipy import special

from autotune.errors import DataError, InputError
from autotune.evaluation import METRICS, Metric, create_metric


def streamed(metric: Metric, outputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], size: int = 7) -> float:
    """The figure from records made batch by batch, and put together out of order."""
    parts = [metric.records((outputs[i : i + size],), labels[i : i + size], None) for i in range(0, len(labels), size)]
    return metric.figure(np.concatenate(parts[::-1]))


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 3])
def test_topk_equals_scikit_learn(generator: np.random.Generator, k: int) -> None:
    logits, labels = generator.standard_normal((100, 6)), generator.integers(0, 6, 100)
    expected = sklearn.metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(6))
    assert streamed(create_metric("topk", k=k), logits, labels) == pytest.approx(expected)


def test_topk_breaks_ties_as_argmax_does() -> None:
    logits = np.zeros((4, 3))
    labels = np.array([0, 1, 2, 0])
    assert create_metric("topk").records((logits,), labels, None)[:, 0].tolist() == [1, 0, 0, 1]
    assert create_metric("topk", k=2).records((logits,), labels, None)[:, 0].tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
@pytest.mark.parametrize("average", ["micro", "macro", "binary"])
def test_averaged_metrics_equal_scikit_learn(generator: np.random.Generator, name: str, average: str) -> None:
    classes = 2 if average == "binary" else 5
    logits, labels = generator.standard_normal((100, classes)), generator.integers(0, classes, 100)
    logits[:, -1] -= 1.0
    function = getattr(sklearn.metrics, f"{name}_score")
    expected = function(labels, logits.argmax(1), average=average, zero_division=0)
    assert streamed(create_metric(name, average=average), logits, labels) == pytest.approx(expected)


def test_a_class_that_is_never_predicted_counts_as_zero() -> None:
    logits = np.eye(3)[[0, 0, 1]]
    labels = np.array([0, 2, 1])
    expected = sklearn.metrics.f1_score(labels, [0, 0, 1], average="macro")
    assert streamed(create_metric("f1"), logits, labels) == pytest.approx(expected)


def test_binary_metrics_read_one_value_per_sample(generator: np.random.Generator) -> None:
    chances, labels = generator.random((60, 1)), generator.integers(0, 2, 60)
    expected = sklearn.metrics.f1_score(labels, chances[:, 0] > 0.3)
    assert streamed(create_metric("f1", average="binary", threshold=0.3), chances, labels) == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 5])
def test_matthews_equals_scikit_learn(generator: np.random.Generator, classes: int) -> None:
    logits, labels = generator.standard_normal((80, classes)), generator.integers(0, classes, 80)
    expected = sklearn.metrics.matthews_corrcoef(labels, logits.argmax(1))
    assert streamed(create_metric("matthews"), logits, labels) == pytest.approx(expected)


def test_matthews_of_constant_predictions_is_zero() -> None:
    assert streamed(create_metric("matthews"), np.eye(3)[[0] * 5], np.array([0, 1, 2, 0, 1])) == 0.0


def test_roc_auc_equals_scikit_learn(generator: np.random.Generator) -> None:
    labels = generator.integers(0, 2, 90)
    scores = np.round(generator.standard_normal(90) + labels, 1)  # with ties
    expected = sklearn.metrics.roc_auc_score(labels, scores)
    assert streamed(create_metric("roc_auc"), scores, labels) == pytest.approx(expected)
    pair = np.column_stack([-scores, scores])
    assert streamed(create_metric("roc_auc"), pair, labels) == pytest.approx(expected)


def test_roc_auc_of_several_classes_equals_scikit_learn(generator: np.random.Generator) -> None:
    labels, logits = generator.integers(0, 4, 90), generator.standard_normal((90, 4))
    expected = sklearn.metrics.roc_auc_score(labels, special.softmax(logits, axis=1), multi_class="ovr")
    assert streamed(create_metric("roc_auc", logits=True), logits, labels) == pytest.approx(expected)
    with pytest.raises(DataError, match="logits=True"):
        streamed(create_metric("roc_auc"), logits, labels)


def test_roc_auc_of_one_class_is_not_defined() -> None:
    assert math.isnan(streamed(create_metric("roc_auc"), np.arange(4.0), np.ones(4, np.int64)))


def test_log_loss_equals_scikit_learn(generator: np.random.Generator) -> None:
    labels, logits = generator.integers(0, 4, 90), generator.standard_normal((90, 4))
    chances = special.softmax(logits, axis=1)
    expected = sklearn.metrics.log_loss(labels, chances)
    assert streamed(create_metric("log_loss"), chances, labels) == pytest.approx(expected)
    assert streamed(create_metric("log_loss", logits=True), logits, labels) == pytest.approx(expected)


def test_log_loss_reads_one_value_per_sample(generator: np.random.Generator) -> None:
    labels, logits = generator.integers(0, 2, 50), generator.standard_normal((50, 1))
    expected = sklearn.metrics.log_loss(labels, special.expit(logits[:, 0]))
    assert streamed(create_metric("log_loss"), special.expit(logits), labels) == pytest.approx(expected)
    assert streamed(create_metric("log_loss", logits=True), logits, labels) == pytest.approx(expected)


def test_log_loss_tells_logits_from_probabilities(generator: np.random.Generator) -> None:
    labels, logits = generator.integers(0, 4, 9), generator.standard_normal((9, 4))
    with pytest.raises(DataError, match="needs probabilities"):
        streamed(create_metric("log_loss"), logits, labels)
    with pytest.raises(DataError, match="probabilities already"):
        streamed(create_metric("log_loss", logits=True), special.softmax(logits, axis=1), labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1, 2, 5, 0]), "between 0 and 4"),
        (np.array([-1, 2, 3, 0]), "between 0 and 4"),
        (np.array([0, 1, 2]), r"shape \(4,\)"),
        (np.eye(5)[:4], "one-hot"),
        (np.array([0.5, 1, 2, 3]), "integer labels"),
        (np.array(["cat"] * 4), "integer labels"),
        (np.zeros((4, 2), np.int64), "one label per sample"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        create_metric("topk").records((np.zeros((4, 5)),), labels, None)


def test_an_output_that_does_not_fit_is_named() -> None:
    with pytest.raises(DataError, match=r"output 1, but the model has 1"):
        create_metric("topk", output=1).records((np.zeros((4, 5)),), np.zeros(4, np.int64), None)
    with pytest.raises(DataError, match=r"shape \(samples, classes\)"):
        create_metric("topk").records((np.zeros((4, 5, 6)),), np.zeros(4, np.int64), None)
    for k in (5, 6, 2**63 - 1, 10**30):
        metric, outputs, labels = create_metric("topk", k=k), (np.zeros((4, 5)),), np.zeros(4, np.int64)
        with pytest.raises(DataError, match="k < classes"):
            metric.records(outputs, labels, None)
        with pytest.raises(DataError, match="k < classes"):
            metric.difficulty(outputs, labels)


def test_creating_metrics_names_what_is_wrong() -> None:
    with pytest.raises(InputError, match="did you mean 'topk'"):
        create_metric("top_k")
    with pytest.raises(InputError, match="has no option 'kk'"):
        create_metric("topk", kk=3)
    with pytest.raises(InputError, match="must be a whole number, but got 'five'"):
        create_metric("topk", k="five")
    with pytest.raises(InputError, match="k >= 1"):
        create_metric("topk", k=0)
    with pytest.raises(InputError, match="needs the option 'function'"):
        create_metric("per_sample")
    with pytest.raises(InputError, match="`average` must be one of"):
        create_metric("f1", average="weighted")


def test_every_metric_has_a_name_and_a_direction() -> None:
    for name, made in METRICS.items():
        options = {"function": len} if name in ("per_sample", "figure") else {}
        metric = create_metric(name, **options)
        assert isinstance(metric, made)
        assert metric.name
        assert isinstance(metric.higher_is_better, bool)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_difficulty_is_small_margins_first_and_leaves_outputs_as_they_are(dtype: type) -> None:
    logits: np.ndarray[Any, Any] = np.array([[3.0, 1.0], [0.0, 0.1], [5.0, 0.0]], dtype)
    before = logits.copy()
    difficulty = create_metric("topk").difficulty((logits,), np.array([0, 0, 1]))
    assert difficulty is not None
    assert np.argsort(-difficulty).tolist() == [1, 0, 2]
    assert (logits == before).all()
