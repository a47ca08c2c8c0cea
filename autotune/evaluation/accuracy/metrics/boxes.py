"""Detections compared with the fp32 model's own: needs no labels, and sees what a cosine of all values does not."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.errors import DataError, InputError
from autotune.evaluation.accuracy.metrics.metric import Metric, output_at
from autotune.notes import counted

_FEW_ROWS = 1000
"""Rows up to which six numbers each are boxes after suppression; a detector with one class has many more before it."""

_CANDIDATES = 1000
"""Boxes of the best scores that suppression looks at, per image."""

_MOST_DETECTIONS = 300
"""Most detections per image."""


class BoxLayout(StrEnum):
    """How a detector writes its boxes."""

    AUTO = "auto"
    """The layout is told by the output's shape."""
    YOLOV8 = "yolov8"
    """(samples, 4 + classes, anchors): centre x, centre y, width, height, and a score for each class."""
    YOLOV5 = "yolov5"
    """(samples, anchors, 5 + classes): centre x, centre y, width, height, objectness, and a score for each class."""
    SUPPRESSED = "suppressed"
    """(samples, boxes, 6): left, top, right, bottom, score, class; what is left after non-maximum suppression."""
    SEPARATE = "separate"
    """Outputs of their own for boxes (samples, boxes, 4; left, top, right, bottom), scores and classes."""


class Boxes(Metric):
    """F1 of a candidate's detections against the fp32 model's; fp32 itself has 1 by definition.

    A detection counts as found where the other model has one of the same class that it overlaps by ``match`` at least,
    each taken once, those of the highest scores first. The figure is ``2 * found / (own + fp32's)`` over all images.

    Args:
        output: Index of the output with boxes.
        layout: How boxes are written: ``auto``, ``yolov8``, ``yolov5``, ``suppressed`` or ``separate``.
        scores: With ``separate``, index of the output with scores, shape (samples, boxes).
        classes: With ``separate``, index of the output with classes, shape (samples, boxes); -1: there is none.
        score: Least score of a detection.
        match: Least intersection over union of two detections that are the same.
        overlap: Before suppression: largest intersection over union of two detections of one class that are both kept.
    """

    name = "boxes"
    label_free = True
    resamples = 300
    undefined = "it finds nothing in any image. Lower `score`, or see that pictures are prepared as in training"

    def __init__(  # noqa: PLR0917  options are given by name, in files and in calls
        self,
        output: int = 0,
        layout: str = BoxLayout.AUTO,
        scores: int = 1,
        classes: int = 2,
        score: float = 0.25,
        match: float = 0.5,
        overlap: float = 0.45,
    ) -> None:
        if layout not in list(BoxLayout):
            raise InputError(f"`layout` must be one of {[str(each) for each in BoxLayout]}, but got {layout!r}")
        for name, value in (("score", score), ("match", match), ("overlap", overlap)):
            if not 0 < value < 1:
                raise InputError(f"`0 < {name} < 1` must hold, but got {value}")
        self._output = output
        self._layout = BoxLayout(layout)
        self._scores = scores
        self._classes = classes
        self._score = score
        self._match = match
        self._overlap = overlap

    def reference(self, outputs: tuple[Array, ...]) -> Array:
        """The fp32 model's detections of each image: an object array of arrays of shape (detections, 6)."""
        found = self._detections(outputs)
        rows = np.empty(len(found), object)
        for index, detections in enumerate(found):
            rows[index] = detections
        return rows

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Counts for each image: detections that both models have, the candidate's, and fp32's; shape (samples, 3)."""
        assert reference is not None
        own = self._detections(outputs)
        if len(own) != len(reference):
            raise DataError(
                f"Metric {self.name!r} compares {counted(len(reference), 'image')} of fp32's with {len(own)}"
            )
        pairs = zip(own, reference, strict=True)
        counts = [(_found(mine, theirs, self._match), len(mine), len(theirs)) for mine, theirs in pairs]
        return np.array(counts, np.float64).reshape(-1, 3)

    def figure(self, records: Array) -> float:
        """The figure, between 0 and 1; NaN where neither model detects anything."""
        found, own, theirs = records.sum(axis=0)
        return float(2 * found / (own + theirs)) if own + theirs > 0 else math.nan

    def _detections(self, outputs: tuple[Array, ...]) -> list[Array]:
        """By image, shape (detections, 6): left, top, right, bottom, score, class; the highest score first."""
        boxes = output_at(outputs, self._output, self.name)
        layout = self._layout
        if layout is BoxLayout.AUTO:
            layout = self._told(boxes, outputs)
        if layout is BoxLayout.SEPARATE:
            scores = output_at(outputs, self._scores, self.name)
            classes = np.zeros(scores.shape) if self._classes < 0 else output_at(outputs, self._classes, self.name)
            if boxes.ndim != 3 or boxes.shape[2] != 4 or {scores.shape, classes.shape} != {boxes.shape[:2]}:
                raise DataError(
                    f"Metric {self.name!r} needs boxes of shape (samples, boxes, 4) and as many scores and classes, "
                    f"but the outputs have {boxes.shape}, {scores.shape} and {classes.shape}"
                )
            rows = np.concatenate([boxes, scores[..., None], classes[..., None]], axis=2)
            return [self._above(image) for image in rows.astype(np.float64)]
        if boxes.ndim != 3:
            raise DataError(
                f"Metric {self.name!r} needs boxes of shape (samples, ..., ...), but output {self._output} has "
                f"{boxes.shape}"
            )
        if layout is BoxLayout.SUPPRESSED:
            return [self._above(image[:, :6]) for image in boxes.astype(np.float64)]
        per_anchor = boxes.transpose(0, 2, 1) if layout is BoxLayout.YOLOV8 else boxes
        return [self._suppressed(image, layout) for image in per_anchor]

    def _told(self, boxes: Array, outputs: tuple[Array, ...]) -> BoxLayout:
        if boxes.ndim != 3:
            raise DataError(
                f"Metric {self.name!r} tells a `layout` from an output of three axes, but output {self._output} has "
                f"shape {boxes.shape}. Decode the boxes in the model, or score them in a `function` of your own"
            )
        _, rows, columns = boxes.shape
        if columns == 4 and len(outputs) > 1:
            return BoxLayout.SEPARATE
        if columns == 6 and rows <= _FEW_ROWS:
            return BoxLayout.SUPPRESSED
        return BoxLayout.YOLOV8 if rows < columns else BoxLayout.YOLOV5

    def _above(self, rows: Array) -> Array:
        kept = rows[rows[:, 4] >= self._score]
        return np.asarray(kept[np.argsort(-kept[:, 4], kind="stable")][:_MOST_DETECTIONS])

    def _suppressed(self, anchors: Array, layout: BoxLayout) -> Array:
        """The boxes of one image that remain, class by class, where those of higher scores do not cover them."""
        scores = anchors[:, 4:] if layout is BoxLayout.YOLOV8 else anchors[:, 4:5] * anchors[:, 5:]
        if scores.shape[1] == 0:  # objectness alone
            scores = anchors[:, 4:5]
        best = scores.max(axis=1)
        chosen = np.flatnonzero(best >= self._score)
        chosen = chosen[np.argsort(-best[chosen], kind="stable")][:_CANDIDATES]
        centre, size = anchors[chosen, :2].astype(np.float64), anchors[chosen, 2:4].astype(np.float64)
        classes = scores[chosen].argmax(axis=1)
        rows = np.column_stack([centre - size / 2, centre + size / 2, best[chosen], classes])
        overlaps = _overlaps(rows, rows)
        covered = np.zeros(len(rows), bool)
        kept = []
        for index in range(len(rows)):
            if covered[index]:
                continue
            kept.append(index)
            covered |= (overlaps[index] > self._overlap) & (classes == classes[index])
        return rows[kept[:_MOST_DETECTIONS]]


def _found(own: Array, theirs: Array, match: float) -> int:
    """How many detections both have."""
    overlaps = np.where(own[:, None, 5] == theirs[None, :, 5], _overlaps(own, theirs), 0.0)
    found = 0
    for row in overlaps:
        best = int(row.argmax()) if row.size else -1
        if best >= 0 and row[best] >= match:
            found += 1
            overlaps[:, best] = 0.0
    return found


def _overlaps(first: Array, second: Array) -> Array:
    """Intersection over union of each box with each: shape (first, second)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(each[:, 2:4] - each[:, :2], 0, None).prod(axis=1) for each in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
