"""The suite finds the faults that metrics have: each metric here has one, and fails the test that is about it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array
from autotune.evaluation import MeanMetric, Metric
from autotune.evaluation.accuracy.metrics.label_free import CosineSimilarity
from autotune.testing import MetricSuite
from autotune.testing.metrics import Batch


class Sound(MeanMetric):
    """One less the absolute error, which is at most one."""

    name = "sound"

    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        return np.asarray(np.clip(1.0 - np.abs(outputs[0][:, 0] - labels), 0.0, 1.0))


class Nameless(Sound):
    name = ""


class Addressed(Sound):
    """Its identity has the address of an object in it."""

    def __init__(self) -> None:
        self._helper = object()


class Merged(Sound):
    """Makes one record of a batch."""

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:
        return np.asarray(super().records(outputs, labels, reference).mean(axis=0, keepdims=True))


class Centred(Sound):
    """Compares with the mean of the batch that a sample happens to be in."""

    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:
        return super().scores((outputs[0] - outputs[0].mean(),), labels, reference)


class Fragile(Sound):
    """Cannot do without two samples."""

    def figure(self, records: Array) -> float:
        if len(records) < 2:
            raise ValueError("too few")
        return super().figure(records)


class Spoiling(Sound):
    """Writes into the outputs."""

    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:
        outputs[0][:] += 0.1
        return super().scores(outputs, labels, reference)


class Counting(Sound):
    """Gives another figure at each call."""

    def figure(self, records: Array) -> float:
        return super().figure(records) + 1e-6 * next(COUNT)


COUNT = itertools.count()


class Bound(Sound):
    """Holds what belongs to this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()


class Unordered(Sound):
    def difficulty(self, outputs: tuple[Array, ...], labels: Any) -> Array | None:  # noqa: ARG002
        return np.full(len(outputs[0]), np.nan)


class Unbounded(Sound):
    bounds = (0.5, 1.0)


class Backwards(CosineSimilarity):
    """Calls the larger cosine the worse one."""

    higher_is_better = False


def suite_of(made: Callable[[], Metric]) -> MetricSuite:
    class Suite(MetricSuite):
        def metric(self) -> Metric:
            return made()

        def batch(self) -> Batch:
            truth = np.random.default_rng(0).normal(size=12)
            return (np.stack([truth + np.linspace(-0.9, 0.9, 12), truth], axis=1),), truth

    return Suite()


@pytest.mark.parametrize(
    ("faulty", "about", "sound"),
    [
        (Nameless, "test_it_has_a_name_and_an_identity_that_its_options_decide", Sound),
        (Addressed, "test_it_has_a_name_and_an_identity_that_its_options_decide", Sound),
        (Merged, "test_each_sample_has_a_record", Sound),
        (Centred, "test_records_do_not_depend_on_how_samples_are_batched", Sound),
        (Fragile, "test_the_figure_is_a_number_for_any_samples", Sound),
        (Spoiling, "test_outputs_and_labels_stay_as_they_are", Sound),
        (Counting, "test_the_same_batch_has_the_same_figure", Sound),
        (Bound, "test_it_goes_to_a_worker_process", Sound),
        (Unordered, "test_difficulty_orders_samples", CosineSimilarity),
        (Unbounded, "test_scores_of_a_mean_lie_within_their_bounds", Sound),
        (Backwards, "test_fp32_beside_itself_is_best_where_no_labels_are_read", CosineSimilarity),
    ],
)
def test_a_fault_fails_the_test_that_is_about_it(
    faulty: Callable[[], Metric], about: str, sound: Callable[[], Metric]
) -> None:
    try:
        getattr(suite_of(sound), about)()
    except pytest.skip.Exception:
        assert faulty is Unordered, "a sound metric passes"
    with pytest.raises((AssertionError, TypeError, ValueError)):
        getattr(suite_of(faulty), about)()
