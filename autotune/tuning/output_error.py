"""How far a candidate's outputs are from the fp32 model's, as a ratio of noise to signal.

Total energy hides what a metric reads. A detector hands out boxes in pixels and scores between 0 and 1 in one tensor:
its scores may vanish, and the error is a thousandth of the boxes' energy. So channels whose scales lie orders of
magnitude apart are looked at apart, each part against its own spread, and the parts count alike. That also holds for
what is computed inside: a Concat of boxes and scores with one scale for both shows as an error of the scores alone.

Values between 0 and 1 are scores, probabilities or masks, and what reads them compares them with a threshold. For
these, the share of decisions that change is counted instead of energy, for a threshold that may lie anywhere, and
squared, so that errors of independent ops add up as energies do. Energy follows the few scores that change by much,
which are one decision each, and says little of the many that change by little near the threshold. Over the ops of
YOLOv8n, one at a time in int8, the rank correlation with the loss of F1 is 0.64 for energy and 0.76 for decisions; of
configs with equal speed, those chosen by decisions lose half as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autotune.adapter import Array, TensorSpec

_APART = 16.0
"""Groups of channels are told apart where the largest values of one are less than those of the other by this factor."""

_NOTHING = 0.05
"""Nobody's threshold lies below: the thousands of scores that are nearly 0 take no part."""

_OFFSET = 1e-6
"""Least spread of a part as a share of its energy: a constant output has none."""


def output_error(
    expected: Sequence[Sequence[Array]], actual: Sequence[Sequence[Array]], outputs: Sequence[TensorSpec]
) -> float:
    """Squared error over squared spread, the mean over the parts of all outputs; integer outputs do not count.

    Args:
        expected: By batch, by output.
        actual: The same outputs of the candidate.
        outputs: The model's specification of each output; only an axis of a fixed length can be the channels.

    Returns:
        Infinite where an actual output is not finite although the expected one is.
    """
    ratios = [
        ratio
        for index, spec in enumerate(outputs)
        if expected[0][index].dtype.kind == "f"
        for ratio in _ratios([batch[index] for batch in expected], [batch[index] for batch in actual], spec)
    ]
    return float(np.mean(ratios)) if ratios else 0.0


def _ratios(expected: Sequence[Array], actual: Sequence[Array], spec: TensorSpec) -> list[float]:
    """Noise-to-signal ratios of one output: one for each part."""
    parts = _parts(expected, spec)
    if parts is None:
        return [_ratio([each.ravel() for each in expected], [each.ravel() for each in actual])]
    axis, groups = parts
    return [
        _ratio(*([np.compress(group, each, axis=axis).ravel() for each in side] for side in (expected, actual)))
        for group in groups
    ]


def _ratio(expected: Sequence[Array], actual: Sequence[Array]) -> float:
    want, have = (np.concatenate(side).astype(np.float64) for side in (expected, actual))
    known = np.isfinite(want)
    want, have = want[known], have[known]
    if not len(want):
        return 0.0
    if not np.isfinite(have).all():
        return float("inf")
    if want.min() >= 0 and want.max() <= 1 and (decisions := float(np.maximum(want - _NOTHING, 0).sum())) > 0:
        changed = np.abs(np.maximum(want, _NOTHING) - np.clip(have, _NOTHING, 1.0)).sum()
        return float(changed / decisions) ** 2
    energy = float(np.dot(want, want))
    spread = max(float(np.var(want)) * len(want), _OFFSET * energy) if len(want) > 1 else energy
    error = float(np.dot(have - want, have - want))
    return error / spread if spread > 0 else float(error > 0)


def _parts(batches: Sequence[Array], spec: TensorSpec) -> tuple[int, tuple[npt.NDArray[np.bool_], ...]] | None:
    """The axis whose channels fall into two groups that are furthest apart, and the groups; None where none do."""
    shape = batches[0].shape
    # Probabilities of classes that no sample shows are small, and nobody reads them.
    if all(batch.size == 0 or (np.nanmin(batch) >= 0 and np.nanmax(batch) <= 1) for batch in batches):
        return None
    found: list[tuple[float, int, tuple[npt.NDArray[np.bool_], ...]]] = []
    for axis in range(1, len(shape)):
        fixed = axis < len(spec.shape) and isinstance(spec.shape[axis], int)
        if not fixed or shape[axis] < 2 or any(batch.ndim != len(shape) for batch in batches):
            continue
        others = tuple(other for other in range(len(shape)) if other != axis)
        largest = np.max([np.abs(np.nan_to_num(batch)).max(axis=others, initial=0.0) for batch in batches], axis=0)
        scales = np.sort(largest[largest > 0])
        if len(scales) < 2:
            continue
        steps = scales[1:] / scales[:-1]
        widest = int(np.argmax(steps))
        if steps[widest] >= _APART:
            large = largest >= scales[widest + 1]
            found.append((float(steps[widest]), axis, (large, ~large & (largest > 0))))
    if not found:
        return None
    _, axis, groups = max(found, key=lambda each: each[0])
    return axis, groups
