"""How far the outputs of two runs of a model agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autotune.adapter import Array
from autotune.data import Batch
from autotune.evaluation.accuracy.metrics import Metric

Outputs = Sequence[tuple[Array, ...]]
"""Outputs of each batch, in graph order."""


def sqnr_db(reference: Outputs, actual: Outputs) -> float:
    """Signal to noise in decibels of the output that is off the most; infinite where all are equal.

    Outputs of other types than floating point are passed over. NaN where there is no other.
    """
    found = []
    for index, first in enumerate(reference[0]):
        if first.dtype.kind != "f":
            continue
        signal = sum(float(np.square(each[index], dtype=np.float64).sum()) for each in reference)
        noise = sum(
            float(np.square(each[index].astype(np.float64) - other[index]).sum())
            for each, other in zip(reference, actual, strict=True)
        )
        found.append(decibels(signal, noise))
    return min(found, default=math.nan)


def decibels(signal: float, noise: float) -> float:
    """The ratio of two energies in decibels; infinite without noise, minus infinity without a signal."""
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def changed_share(reference: Outputs, actual: Outputs) -> float | None:
    """The share of samples whose class, the largest value of the first output, is another one; None without classes."""
    if any(each[0].ndim != 2 or each[0].shape[1] < 2 for each in reference):
        return None
    changed = [a[0].argmax(axis=1) != b[0].argmax(axis=1) for a, b in zip(reference, actual, strict=True)]
    return float(np.concatenate(changed).mean())


def figure(metric: Metric, outputs: Outputs, batches: Sequence[Batch], reference: Outputs) -> float:
    """The figure of a metric over outputs that are there already.

    Args:
        metric: The metric to compute.
        outputs: Outputs of the model.
        batches: Batches that the model read, and their labels.
        reference: For label-free metrics, the outputs to compare with.

    Raises:
        DataError: Labels or outputs are not of the form that the metric reads.
    """
    records = [
        metric.records(own, batch.labels, metric.reference(other) if metric.label_free else None)
        for own, batch, other in zip(outputs, batches, reference, strict=True)
    ]
    return metric.figure(np.concatenate(records))
