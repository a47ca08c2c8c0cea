from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from scipy import special, stats

from autotune.errors import DataError
from autotune.evaluation import Metric, create_metric

Array = np.ndarray[Any, Any]

EXPECTED_MAP = 0.3420734511911309
"""Mean average precision by pycocotools 2.0.11 (COCOeval, bbox, all areas, 100 detections) for :func:`detector`."""


def streamed(metric: Metric, outputs: Array, labels: Array, size: int = 7) -> float:
    parts = [metric.records((outputs[i : i + size],), labels[i : i + size], None) for i in range(0, len(labels), size)]
    return metric.figure(np.concatenate(parts[::-1]))


@pytest.fixture
def pair() -> tuple[Array, Array]:
    generator = np.random.default_rng(0)
    truth = np.round(generator.standard_normal(80), 1)
    return np.round(truth + 0.5 * generator.standard_normal(80), 1).reshape(-1, 1), truth


def test_errors_equal_scikit_learn(pair: tuple[Array, Array]) -> None:
    predicted, truth = pair
    for name, function in {
        "mse": sklearn.metrics.mean_squared_error,
        "mae": sklearn.metrics.mean_absolute_error,
        "rmse": sklearn.metrics.root_mean_squared_error,
        "r2": sklearn.metrics.r2_score,
    }.items():
        assert streamed(create_metric(name), predicted, truth) == pytest.approx(function(truth, predicted))


def test_errors_of_several_values_are_their_mean() -> None:
    generator = np.random.default_rng(0)
    predicted, truth = generator.standard_normal((2, 30, 4))
    expected = sklearn.metrics.mean_squared_error(truth, predicted)
    assert streamed(create_metric("mse"), predicted, truth) == pytest.approx(expected)
    with pytest.raises(DataError, match="one value per sample"):
        streamed(create_metric("r2"), predicted, truth)


def test_correlations_equal_scipy(pair: tuple[Array, Array]) -> None:
    predicted, truth = pair
    assert streamed(create_metric("pearson"), predicted, truth) == pytest.approx(
        stats.pearsonr(predicted[:, 0], truth).statistic
    )
    assert streamed(create_metric("spearman"), predicted, truth) == pytest.approx(
        stats.spearmanr(predicted[:, 0], truth).statistic
    )
    assert math.isnan(streamed(create_metric("pearson"), np.zeros((80, 1)), truth))


def test_labels_of_another_shape_are_named(pair: tuple[Array, Array]) -> None:
    with pytest.raises(DataError, match="labels of the output's shape"):
        create_metric("mse").records((pair[0],), np.zeros((80, 2)), None)
    with pytest.raises(DataError, match="needs numbers"):
        create_metric("mse").records((pair[0],), np.array(["x"] * 80), None)


def test_agreement_compares_predictions() -> None:
    metric = create_metric("agreement")
    fp32 = np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 1.0]])
    candidate = np.array([[1.0, 5.0], [0.0, 1.0], [0.0, 0.1]])
    reference = metric.reference((fp32,))
    assert metric.figure(metric.records((fp32,), None, reference)) == 1.0
    assert metric.figure(metric.records((candidate,), None, reference)) == pytest.approx(2 / 3)


def test_agreement_of_maps_is_a_mean_over_places() -> None:
    metric = create_metric("agreement")
    fp32 = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    candidate = fp32.copy()
    candidate[0, :, :2] = -fp32[0, :, :2]
    scores = metric.records((candidate,), None, metric.reference((fp32,)))[:, 0]
    assert scores.tolist() == [0.5, 1.0]


def test_cosine_equals_scipy() -> None:
    from scipy.spatial.distance import cosine  # noqa: PLC0415

    metric = create_metric("cosine")
    fp32, candidate = np.random.default_rng(0).standard_normal((2, 4, 5, 3))
    scores = metric.records((candidate,), None, metric.reference((fp32,)))[:, 0]
    for score, ours, theirs in zip(scores, candidate, fp32, strict=True):
        assert score == pytest.approx(1 - cosine(ours.ravel(), theirs.ravel()))
    zero = np.zeros((2, 3))
    assert metric.records((zero,), None, zero)[:, 0].tolist() == [1.0, 1.0]
    assert metric.records((zero,), None, zero + 1)[:, 0].tolist() == [0.0, 0.0]


def test_perplexity_is_the_exponential_of_the_mean_log_loss() -> None:
    generator = np.random.default_rng(0)
    logits, tokens = generator.standard_normal((6, 9, 11)), generator.integers(0, 11, (6, 9))
    tokens[2, 5:] = -100
    kept = tokens[:, 1:] != -100
    chances = special.softmax(logits[:, :-1][kept], axis=-1)
    expected = math.exp(sklearn.metrics.log_loss(tokens[:, 1:][kept], chances, labels=range(11)))
    assert streamed(create_metric("perplexity"), logits, tokens, size=2) == pytest.approx(expected)
    softened = special.softmax(logits, axis=-1)
    assert streamed(create_metric("perplexity", logits=False), softened, tokens) == pytest.approx(expected)
    with pytest.raises(DataError, match="probabilities already"):
        streamed(create_metric("perplexity"), softened, tokens)
    with pytest.raises(DataError, match="vocabulary"):
        streamed(create_metric("perplexity"), logits, tokens + 20)


def squad_labels() -> dict[str, Any]:
    context = "The Eiffel Tower, in Paris"
    offsets = np.zeros((1, 8, 2), np.int64)
    for token, (start, stop) in enumerate([(0, 3), (4, 10), (11, 16), (16, 17), (18, 20), (21, 26)], start=1):
        offsets[0, token] = start, stop
    return {"context": [context], "offsets": offsets, "answers": [["Eiffel tower", "tower in Paris, France"]]}


def test_squad_reads_spans_of_the_context() -> None:
    first, last = np.full((1, 8), -9.0), np.full((1, 8), -9.0)
    first[0, 1], last[0, 3] = 2.0, 2.0  # "The Eiffel Tower"
    first[0, 0] = 50.0  # a token that is none of the context
    outputs = (first, last)
    assert create_metric("squad_exact_match").records(outputs, squad_labels(), None).tolist() == [[1.0]]
    last[0, 3], last[0, 6] = 0.0, 2.0  # "The Eiffel Tower, in Paris"
    assert create_metric("squad_exact_match").records(outputs, squad_labels(), None).tolist() == [[0.0]]
    # eiffel tower in paris: 2 of 4 and 2 of 2 words of the first answer, 3 of 4 and 3 of 4 of the second
    assert create_metric("squad_f1").records(outputs, squad_labels(), None)[0, 0] == pytest.approx(0.75)


def test_squad_keeps_spans_short_and_in_order() -> None:
    first, last = np.zeros((1, 8)), np.zeros((1, 8))
    first[0, 5], last[0, 2] = 9.0, 9.0  # the end before the start is no span
    answer = create_metric("squad_f1", longest=1)._spans((first, last), squad_labels())  # type: ignore[attr-defined]
    assert answer == ["in"] or answer == ["Eiffel"]  # noqa: PLR1714


def test_squad_says_what_labels_it_needs() -> None:
    with pytest.raises(DataError, match="answers"):
        create_metric("squad_f1").records((np.zeros((1, 3)), np.zeros((1, 3))), np.zeros(1), None)


def detector() -> tuple[tuple[Array, ...], list[dict[str, Array]]]:
    """Sixteen images with jittered, missed, doubled and made-up boxes, and regions with a crowd."""
    generator = np.random.default_rng(7)
    boxes, scores, classes = np.zeros((16, 8, 4)), np.zeros((16, 8)), np.zeros((16, 8))
    labels = []
    for image in range(16):
        count = int(generator.integers(1, 5))
        corner = generator.uniform(0, 60, (count, 2))
        truth = np.concatenate([corner, corner + generator.uniform(10, 40, (count, 2))], axis=1)
        kinds = generator.integers(0, 3, count)
        crowd = (generator.random(count) < 0.15).astype(int)
        labels.append({"boxes": truth, "labels": kinds, "iscrowd": crowd})
        for slot in range(8):
            source = int(generator.integers(0, count))
            boxes[image, slot] = truth[source] + generator.normal(0, 2.5, 4)
            kind = kinds[source] if generator.random() < 0.85 else generator.integers(0, 3)
            classes[image, slot] = kind
            scores[image, slot] = generator.random() if slot < 6 else 0.0
    return (boxes, scores, classes), labels


def test_mean_average_precision_equals_pycocotools() -> None:
    outputs, labels = detector()
    metric = create_metric("map")
    parts = [metric.records(tuple(o[i : i + 5] for o in outputs), labels[i : i + 5], None) for i in range(0, 16, 5)]
    assert metric.figure(np.concatenate(parts)) == pytest.approx(EXPECTED_MAP, abs=1e-9)
    wide = outputs[0].copy()
    wide[..., 2:] -= wide[..., :2]
    shapes = [
        {**label, "boxes": np.c_[label["boxes"][:, :2], label["boxes"][:, 2:] - label["boxes"][:, :2]]}
        for label in labels
    ]
    same = create_metric("map", box_format="xywh")
    assert same.figure(same.records((wide, *outputs[1:]), shapes, None)) == pytest.approx(EXPECTED_MAP, abs=1e-9)


def test_mean_average_precision_of_perfect_detections_is_one() -> None:
    truth = np.array([[0.0, 0, 10, 10], [20, 20, 50, 50]])
    labels = {"boxes": [truth], "labels": [np.array([1, 2])]}
    metric = create_metric("map")
    outputs = (truth[None], np.array([[0.9, 0.8]]), np.array([[1, 2]]))
    assert metric.figure(metric.records(outputs, labels, None)) == pytest.approx(1.0)
    with pytest.raises(DataError, match="labels of 2 images"):
        metric.records(tuple(np.repeat(o, 2, axis=0) for o in outputs), labels, None)
    assert math.isnan(metric.figure(metric.records(outputs, [{"boxes": [], "labels": []}], None)))


def test_a_function_of_each_sample() -> None:
    metric = create_metric("per_sample", function=lambda out, y: np.abs(out[:, 0] - y), low=0.0, high=1.0)
    assert streamed(metric, np.full((9, 1), 0.25), np.zeros(9)) == pytest.approx(0.25)
    with pytest.raises(DataError, match="between 0 and 1"):
        streamed(metric, np.full((9, 1), 2.5), np.zeros(9))
    with pytest.raises(DataError, match="a number for each sample"):
        streamed(create_metric("per_sample", function=lambda out, _: out.mean()), np.ones((9, 1)), np.zeros(9))


def test_a_function_of_the_whole_set_sees_labels_in_their_form() -> None:
    def figure(outputs: Array, labels: Any) -> float:
        assert isinstance(labels["name"], list)
        assert isinstance(labels["value"], np.ndarray)
        return float((outputs[:, 0] * labels["value"]).sum()) + len(labels["name"])

    metric = create_metric("figure", function=figure)
    rows = [
        metric.records((np.ones((2, 1)),), {"name": ["a", "b"], "value": np.array([1.0, 2.0])}, None) for _ in range(2)
    ]
    assert metric.figure(np.concatenate(rows)) == 10.0
    broken = create_metric("figure", function=lambda out, _: out)
    records = broken.records((np.ones((2, 1)),), np.zeros(2), None)
    with pytest.raises(DataError, match="must return one number"):
        broken.figure(records)
