"""The contract of a metric as a suite of tests: a metric that passes it can judge candidates."""

from __future__ import annotations

import copy
import math
from typing import Any

import cloudpickle
import numpy as np
import pytest

from autotune.adapter import Array
from autotune.evaluation.accuracy.metrics.metric import MeanMetric, Metric
from autotune.evaluation.accuracy.samples import join_labels

Batch = tuple[tuple[Array, ...], Any]
"""A model's outputs, whose first dimension counts samples, and the labels of these samples."""


class MetricSuite:
    """Checks a metric against :class:`autotune.evaluation.Metric`.

    A test module subclasses it under a name that begins with ``Test``, and overrides two methods::

        class TestMine(MetricSuite):
            def metric(self):
                return MyMetric()

            def batch(self):
                return (rng.normal(size=(24, 10)),), rng.integers(0, 10, 24)
    """

    def metric(self) -> Metric:
        """A new metric."""
        raise NotImplementedError

    def batch(self) -> Batch:
        """Outputs and labels of eight samples or more, the same at every call; labels may be None for label-free ones.

        The outputs are those of a model that is neither perfect nor useless, so that the figure is defined.
        """
        raise NotImplementedError

    def test_it_has_a_name_and_an_identity_that_its_options_decide(self) -> None:
        metric = self.metric()
        assert isinstance(metric.name, str)
        assert metric.name
        assert isinstance(metric.higher_is_better, bool)
        assert metric.identity == self.metric().identity, "the same in every process: no address of an object is in it"

    def test_each_sample_has_a_record(self) -> None:
        metric, batch = self.metric(), self.batch()
        records = _records(metric, batch)
        assert len(records) == _count(batch)
        assert records.dtype in (np.dtype(np.float64), np.dtype(object))

    def test_records_do_not_depend_on_how_samples_are_batched(self) -> None:
        metric, batch = self.metric(), self.batch()
        samples = np.arange(_count(batch))
        whole = metric.figure(_records(metric, batch))
        for parts in ([samples[5:], samples[:5]], [samples[i : i + 1] for i in samples]):
            rows = np.concatenate([_records(metric, _taken(batch, part)) for part in parts])
            assert metric.figure(rows) == pytest.approx(whole, rel=1e-9, abs=1e-12)

    def test_the_figure_is_a_number_for_any_samples(self) -> None:
        metric = self.metric()
        records = _records(metric, self.batch())
        figure = metric.figure(records)
        assert isinstance(figure, float)
        assert math.isfinite(figure)
        random = np.random.default_rng(0)
        for size in (1, 2, len(records)):
            drawn = metric.figure(records[random.integers(0, len(records), size)])
            assert isinstance(drawn, float), "NaN where it is not defined, and never an error"

    def test_outputs_and_labels_stay_as_they_are(self) -> None:
        metric, (outputs, labels) = self.metric(), self.batch()
        before = copy.deepcopy((outputs, labels))
        metric.figure(_records(metric, (outputs, labels)))
        metric.difficulty(outputs, labels)
        _assert_equal((outputs, labels), before)

    def test_the_same_batch_has_the_same_figure(self) -> None:
        metric = self.metric()
        first, second = (each.figure(_records(each, self.batch())) for each in (metric, self.metric()))
        assert first == second

    def test_it_goes_to_a_worker_process(self) -> None:
        metric = self.metric()
        again = cloudpickle.loads(cloudpickle.dumps(metric))
        assert again.identity == metric.identity
        assert again.figure(_records(again, self.batch())) == metric.figure(_records(metric, self.batch()))
        records = cloudpickle.loads(cloudpickle.dumps(_records(metric, self.batch())))
        assert metric.figure(records) == metric.figure(_records(metric, self.batch()))

    def test_difficulty_orders_samples(self) -> None:
        outputs, labels = self.batch()
        difficulty = self.metric().difficulty(outputs, labels)
        if difficulty is None:
            pytest.skip("the metric does not say which samples change easily, which is optional")
        assert difficulty.shape == (_count((outputs, labels)),)
        assert np.isfinite(difficulty).all()

    def test_scores_of_a_mean_lie_within_their_bounds(self) -> None:
        metric = self.metric()
        if not isinstance(metric, MeanMetric):
            pytest.skip("the figure is no mean over samples")
        records = _records(metric, self.batch())
        low, high = metric.bounds
        assert records.shape == (_count(self.batch()), 1)
        assert low <= records.min()
        assert records.max() <= high
        assert metric.figure(records) == pytest.approx(records.mean())

    def test_fp32_beside_itself_is_best_where_no_labels_are_read(self) -> None:
        metric, (outputs, _) = self.metric(), self.batch()
        if not metric.label_free:
            with pytest.raises(NotImplementedError):
                metric.reference(outputs)
            return
        reference = metric.reference(outputs)
        assert len(reference) == _count((outputs, None))
        itself = metric.figure(metric.records(outputs, None, reference))
        turned = tuple(np.roll(output, 1, axis=0) for output in outputs)
        other = metric.figure(metric.records(turned, None, reference))
        assert itself > other if metric.higher_is_better else itself < other


def _count(batch: Batch) -> int:
    return len(batch[0][0])


def _taken(batch: Batch, samples: Array) -> Batch:
    outputs, labels = batch
    own = None if labels is None else join_labels([(labels, int(sample)) for sample in samples])
    return tuple(output[samples] for output in outputs), own


def _records(metric: Metric, batch: Batch) -> Array:
    """Records of a batch; label-free metrics compare with outputs of the same model that are a little off."""
    outputs, labels = batch
    if not metric.label_free:
        return metric.records(outputs, labels, None)
    off = tuple(output * 0.9 if output.dtype.kind == "f" else output for output in outputs)
    return metric.records(off, None, metric.reference(outputs))


def _assert_equal(found: Any, expected: Any) -> None:
    if isinstance(found, dict):
        assert list(found) == list(expected)
        for key, value in found.items():
            _assert_equal(value, expected[key])
    elif isinstance(found, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_equal(one, other)
    else:
        np.testing.assert_array_equal(found, expected)
