"""Mean average precision of object detectors, as COCO defines it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.errors import DataError, InputError
from autotune.evaluation.accuracy.metrics.metric import Metric, output_at
from autotune.notes import counted

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST_DETECTIONS = 100
"""Most detections per image and class."""


class BoxFormat(StrEnum):
    """The meaning of the four numbers of a box."""

    XYXY = "xyxy"
    """Left, top, right, bottom."""
    XYWH = "xywh"
    """Left, top, width, height."""


_Image = tuple[Mapping[int, int], Mapping[int, tuple[Array, Array, Array]]]
"""Matched detections of one image: how many objects each class has; by class the scores, and by threshold hits and
ignored. Plain data, so that the workspace can keep it."""


class MeanAveragePrecision(Metric):
    """Mean over classes and over ten IoU thresholds (0.50 to 0.95) of the average precision at 101 recalls.

    Follows COCO's evaluation (Lin et al. 2014, arXiv 1405.0312) with all areas and 100 detections per image and class.
    Labels are a dict with ``boxes`` and ``labels``, or a list with such a dict for each image: the boxes of an image of
    shape (objects, 4), their classes of shape (objects,), and optionally ``iscrowd`` of shape (objects,).

    Args:
        boxes: Index of the output with boxes, shape (samples, detections, 4).
        scores: Index of the output with scores, shape (samples, detections). Detections with a score of 0 do not count.
        classes: Index of the output with classes, shape (samples, detections).
        box_format: Box format of outputs and labels: ``xyxy`` or ``xywh``.
    """

    name = "map"
    resamples = 100

    def __init__(self, boxes: int = 0, scores: int = 1, classes: int = 2, box_format: str = BoxFormat.XYXY) -> None:
        if box_format not in list(BoxFormat):
            raise InputError(f"`box_format` must be one of {[str(f) for f in BoxFormat]}, but got {box_format!r}")
        self._boxes = boxes
        self._scores = scores
        self._classes = classes
        self._format = BoxFormat(box_format)

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """The matched detections of each image."""
        boxes, scores, classes = (
            output_at(outputs, index, self.name) for index in (self._boxes, self._scores, self._classes)
        )
        if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.shape != boxes.shape[:2] or classes.shape != scores.shape:
            raise DataError(
                f"Metric {self.name!r} needs boxes (samples, detections, 4), scores and classes (samples, detections), "
                f"but got {boxes.shape}, {scores.shape} and {classes.shape}"
            )
        truths = self._truths(labels, len(boxes))
        rows = np.empty(len(boxes), object)
        for index, truth in enumerate(truths):
            kept = scores[index] > 0
            rows[index] = self._match(
                self._corners(boxes[index][kept]), scores[index][kept], classes[index][kept].astype(np.int64), truth
            )
        return rows

    def figure(self, records: Array) -> float:
        """The figure, between 0 and 1; NaN where no image has an object."""
        totals: dict[int, int] = defaultdict(int)
        found: dict[int, list[tuple[Array, Array, Array]]] = defaultdict(list)
        for truths, matched in records:
            for label, count in truths.items():
                totals[label] += count
            for label, detections in matched.items():
                found[label].append(detections)
        precisions = [_average_precision(found[label], count) for label, count in totals.items() if count > 0]
        return float(np.mean(precisions)) if precisions else math.nan

    def _truths(self, labels: Any, samples: int) -> list[tuple[Array, Array, Array]]:
        if isinstance(labels, Mapping):
            names = list(labels)
            images = [dict(zip(names, row, strict=True)) for row in zip(*labels.values(), strict=True)]
        else:
            images = list(labels)
        truths = []
        for image in images:
            if not isinstance(image, Mapping) or not {"boxes", "labels"} <= set(image):
                raise DataError(f"Metric {self.name!r} needs a dict with 'boxes' and 'labels' for each image")
            boxes = np.asarray(image["boxes"], np.float64).reshape(-1, 4)
            classes = np.asarray(image["labels"], np.int64).reshape(-1)
            crowd = np.asarray(image.get("iscrowd", np.zeros(len(classes))), bool).reshape(-1)
            if not len(boxes) == len(classes) == len(crowd):
                raise DataError(
                    f"Metric {self.name!r} needs one label per box, but an image has "
                    f"{counted(len(boxes), 'box', 'boxes')} and "
                    f"{counted(len(classes), 'label')}"
                )
            truths.append((self._corners(boxes), classes, crowd))
        if len(truths) != samples:
            raise DataError(f"Metric {self.name!r} needs labels of {counted(samples, 'image')}, but got {len(truths)}")
        return truths

    def _corners(self, boxes: Array) -> Array:
        corners = np.asarray(boxes, np.float64).copy()
        if self._format is BoxFormat.XYWH:
            corners[:, 2:] += corners[:, :2]
        return corners

    def _match(self, boxes: Array, scores: Array, classes: Array, truth: tuple[Array, Array, Array]) -> _Image:
        true_boxes, true_classes, crowd = truth
        counts, detections = {}, {}
        for label in {*true_classes.tolist(), *classes.tolist()}:
            mine = true_classes == label
            counts[label] = int((mine & ~crowd).sum())
            chosen = np.flatnonzero(classes == label)
            chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:_MOST_DETECTIONS]
            hits, ignored = _assign(boxes[chosen], true_boxes[mine], crowd[mine])
            detections[label] = (scores[chosen], hits, ignored)
        return counts, detections


def _assign(boxes: Array, truths: Array, crowd: Array) -> tuple[Array, Array]:
    """Which detections hit an object, and which are to be ignored, at each threshold: shape (thresholds, detections).

    In the order of their scores, each detection takes the free object that it overlaps most; regions with a crowd take
    any number of detections that no single object takes.
    """
    order = np.argsort(crowd, kind="stable")
    truths, crowd = truths[order], crowd[order]
    overlaps = _overlaps(boxes, truths, crowd)
    hits = np.zeros((len(_THRESHOLDS), len(boxes)), bool)
    ignored = np.zeros_like(hits)
    for row, threshold in enumerate(_THRESHOLDS):
        taken = np.zeros(len(truths), bool)
        for index, overlap in enumerate(overlaps):
            best, match = min(threshold, 1 - 1e-10), -1
            for truth in range(len(truths)):
                if taken[truth] and not crowd[truth]:
                    continue
                if match >= 0 and not crowd[match] and crowd[truth]:
                    break
                if overlap[truth] >= best:
                    best, match = overlap[truth], truth
            if match >= 0:
                taken[match] = True
                hits[row, index], ignored[row, index] = not crowd[match], crowd[match]
    return hits, ignored


def _overlaps(boxes: Array, truths: Array, crowd: Array) -> Array:
    """Intersection over union, or over the detection's own area for a crowd: shape (detections, objects)."""
    low = np.maximum(boxes[:, None, :2], truths[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truths[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None]
    theirs = (truths[:, 2:] - truths[:, :2]).prod(axis=1)[None, :]
    union = np.where(crowd[None, :], own, own + theirs - shared)
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _average_precision(detections: list[tuple[Array, Array, Array]], objects: int) -> float:
    """Mean over thresholds of the precision at 101 recalls, precision made monotone from the right."""
    if not detections:
        return 0.0
    scores = np.concatenate([found[0] for found in detections])
    order = np.argsort(-scores, kind="stable")
    hits = np.concatenate([found[1] for found in detections], axis=1)[:, order]
    ignored = np.concatenate([found[2] for found in detections], axis=1)[:, order]
    true = np.cumsum(hits & ~ignored, axis=1).astype(np.float64)
    false = np.cumsum(~hits & ~ignored, axis=1).astype(np.float64)
    averages = []
    for row in range(len(_THRESHOLDS)):
        recall = true[row] / objects
        precision = true[row] / np.maximum(true[row] + false[row], np.finfo(np.float64).eps)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        index = np.searchsorted(recall, _RECALLS, side="left")
        averages.append(np.append(envelope, 0.0)[np.minimum(index, len(envelope))].mean())
    return float(np.mean(averages))
