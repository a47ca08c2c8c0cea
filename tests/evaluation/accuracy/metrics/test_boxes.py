from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from autotune.errors import DataError, InputError
from autotune.evaluation import create_metric
from autotune.evaluation.accuracy.metrics.boxes import Boxes

Array = npt.NDArray[Any]

FIRST = (100.0, 100.0, 40.0, 60.0)  # centre, size
SECOND = (300.0, 200.0, 80.0, 80.0)
THIRD = (500.0, 400.0, 50.0, 30.0)


def corners(box: tuple[float, ...]) -> list[float]:
    x, y, width, height = box
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def yolov8(*detections: tuple[tuple[float, ...], float, int], anchors: int = 400, classes: int = 3) -> Array:
    """One image: the detections, a weaker neighbour of each as detectors write them, and scores of nothing."""
    output = np.full((1, 4 + classes, anchors), 0.01, np.float32)
    output[0, :4] = np.random.default_rng(0).uniform(1, 600, (4, anchors))
    for index, (box, score, label) in enumerate(detections):
        for place, weaker in ((2 * index, 0.0), (2 * index + 1, 0.1)):
            output[0, :4, place] = np.array(box) + 10 * weaker
            output[0, 4 + label, place] = score - weaker
    return output


def yolov5(*detections: tuple[tuple[float, ...], float, int]) -> Array:
    output = yolov8(*detections).transpose(0, 2, 1)
    objectness = np.ones((1, output.shape[1], 1), np.float32)
    return np.concatenate([output[..., :4], objectness, output[..., 4:]], axis=2)


def suppressed(*detections: tuple[tuple[float, ...], float, int]) -> Array:
    rows = [[*corners(box), score, label] for box, score, label in detections]
    return np.array([rows + [[0.0] * 6] * (10 - len(rows))], np.float32)


def figure(metric: Boxes, fp32: tuple[Array, ...], candidate: tuple[Array, ...]) -> float:
    return metric.figure(metric.records(candidate, None, metric.reference(fp32)))


THREE = [(FIRST, 0.9, 0), (SECOND, 0.8, 1), (THIRD, 0.5, 2)]


@pytest.mark.parametrize("write", [yolov8, yolov5, suppressed])
def test_each_layout_is_told_from_its_shape(write: Any) -> None:
    metric = Boxes()
    (found,) = metric.reference((write(*THREE),))
    np.testing.assert_allclose(found[:, :4], [corners(box) for box, _, _ in THREE], rtol=1e-5)
    np.testing.assert_allclose(found[:, 4], [0.9, 0.8, 0.5], rtol=1e-5)
    assert found[:, 5].tolist() == [0, 1, 2]
    assert figure(metric, (write(*THREE),), (write(*THREE),)) == 1.0
    # One is lost, one is new elsewhere, one is called by another name, one has moved a little.
    moved = (FIRST[0] + 3, *FIRST[1:])
    other = [(moved, 0.9, 0), (SECOND, 0.8, 2), ((50.0, 500.0, 30.0, 30.0), 0.6, 2)]
    assert figure(metric, (write(*THREE),), (write(*other),)) == pytest.approx(2 * 1 / (3 + 3))


def test_a_cosine_does_not_see_what_this_sees() -> None:
    """Scores vanish beside coordinates in pixels: without a single detection the output points the same way."""
    fp32 = yolov8(*THREE)
    silent = fp32.copy()
    silent[:, 4:] = 0.01
    cosine = create_metric("cosine")
    assert cosine.figure(cosine.records((silent,), None, cosine.reference((fp32,)))) > 0.999
    assert figure(Boxes(), (fp32,), (silent,)) == 0.0


def test_boxes_scores_and_classes_in_outputs_of_their_own() -> None:
    rows = suppressed(*THREE)
    outputs = (rows[..., :4], rows[..., 4], rows[..., 5].astype(np.int64))
    metric = Boxes()
    assert figure(metric, outputs, outputs) == 1.0
    lower = (outputs[0], outputs[1] * 0.4, outputs[2])
    assert figure(metric, outputs, lower) == pytest.approx(2 * 2 / (3 + 2))
    assert figure(Boxes(layout="separate", classes=-1), outputs[:2], outputs[:2]) == 1.0


def test_a_detection_is_found_once() -> None:
    twice = suppressed((FIRST, 0.9, 0), ((FIRST[0] + 1, *FIRST[1:]), 0.8, 0))
    assert figure(Boxes(), (suppressed((FIRST, 0.9, 0)),), (twice,)) == pytest.approx(2 / 3)


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    near = (FIRST[0] + 1, *FIRST[1:])
    (found,) = Boxes().reference((yolov8((FIRST, 0.9, 0), (near, 0.7, 1)),))
    assert found[:, 5].tolist() == [0, 1]
    (found,) = Boxes().reference((yolov8((FIRST, 0.9, 0), (near, 0.7, 0)),))
    assert found[:, 5].tolist() == [0]


def test_images_count_by_their_detections() -> None:
    metric = Boxes()
    fp32 = np.concatenate([suppressed(*THREE), suppressed((FIRST, 0.9, 0)), suppressed()])
    candidate = np.concatenate([suppressed(*THREE), suppressed(), suppressed()])
    assert figure(metric, (fp32,), (candidate,)) == pytest.approx(2 * 3 / (3 + 4))
    assert math.isnan(figure(metric, (suppressed(),), (suppressed(),)))


def test_what_is_no_detector() -> None:
    with pytest.raises(DataError, match=r"three axes, but output 0 has shape \(2, 5\)"):
        Boxes().reference((np.zeros((2, 5)),))
    with pytest.raises(DataError, match=r"needs boxes of shape \(samples, boxes, 4\)"):
        Boxes(layout="separate").reference((np.zeros((1, 5, 4)), np.zeros((1, 3)), np.zeros((1, 3))))
    with pytest.raises(InputError, match="`layout` must be one of"):
        create_metric("boxes", layout="yolo")
    with pytest.raises(InputError, match="`0 < match < 1` must hold, but got 5"):
        create_metric("boxes", match=5.0)


def test_fidelity_sees_the_size_of_a_single_number() -> None:
    metric = create_metric("fidelity")
    fp32 = np.array([[1.0], [2.0], [4.0], [9.0]])
    reference = metric.reference((fp32,))
    assert metric.figure(metric.records((fp32,), None, reference)) == 1.0
    assert metric.figure(metric.records((fp32 * 0 + 4.0,), None, reference)) == pytest.approx(0.0)
    off = fp32 + np.array([[1.0], [-1.0], [1.0], [-1.0]])
    assert metric.figure(metric.records((off,), None, reference)) == pytest.approx(1 - 4 / 38)
    assert math.isnan(metric.figure(metric.records((fp32[:1],), None, reference[:1])))
