from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autotune.algorithms import activation_range
from autotune.calibration import StatisticsCollector, TensorStatistics
from autotune.calibration.histogram import HistogramCollector
from autotune.calibration.sampling import SUBSAMPLE, SampledHistogramCollector
from autotune.config import MSE, PERCENTILE, QuantizedType, TensorScheme
from autotune.errors import DataError

U8 = TensorScheme(dtype=QuantizedType.U8)


def collect(
    *arrays: npt.NDArray[Any], axis: int | None = None, subsample: int | None = SUBSAMPLE, seed: int = 0
) -> TensorStatistics:
    collector = StatisticsCollector({} if axis is None else {"t": axis}, seed, subsample=subsample)
    for array in arrays:
        collector.update("t", array)
    return collector.finish(len(arrays)).tensors["t"]


def batches(count: int, size: int, seed: int = 0) -> list[npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return [rng.laplace(size=(1, 8, size)).astype(np.float32) for _ in range(count)]


def test_extremes_and_count_are_exact_however_little_is_sampled() -> None:
    arrays = batches(5, 50_000)
    arrays[3][0, 2, 17] = 99.0
    arrays[4][0, 7, 5] = -88.0
    found = collect(*arrays, subsample=16)
    assert (found.minimum, found.maximum) == (-88.0, 99.0)
    assert found.count == found.histogram.total == 5 * 8 * 50_000


def test_tails_are_exact_and_the_bulk_nearly_so() -> None:
    arrays = batches(8, 40_000)
    exact, sampled = collect(*arrays, subsample=None), collect(*arrays)
    low, high = exact.histogram.quantile(0.004), exact.histogram.quantile(0.996)
    outside = (exact.histogram.edges[1:] <= low) | (exact.histogram.edges[:-1] >= high)
    assert np.array_equal(exact.histogram.counts[outside], sampled.histogram.counts[outside])
    assert not np.array_equal(exact.histogram.counts, sampled.histogram.counts)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert sampled.histogram.quantile(share) == pytest.approx(exact.histogram.quantile(share), abs=0.05)
    for algorithm in (PERCENTILE, MSE):
        assert activation_range(sampled, algorithm, U8) == pytest.approx(
            activation_range(exact, algorithm, U8), rel=0.01
        )


def test_tails_are_cut_anew_when_the_data_moves() -> None:
    arrays = [array * (1.0 + 5.0 * (i > 1)) for i, array in enumerate(batches(8, 40_000))]
    exact, sampled = collect(*arrays, subsample=None), collect(*arrays)
    assert sampled.histogram.total == exact.histogram.total
    assert activation_range(sampled, PERCENTILE, U8) == pytest.approx(activation_range(exact, PERCENTILE, U8), rel=0.01)


@pytest.mark.parametrize("at", [0, 1])
def test_an_array_costs_a_part_of_its_size_the_first_one_too(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Binning the first batch of ten pictures in full took as long as all that came after it."""
    binned: list[int] = []
    update = HistogramCollector.update

    def counted(self: HistogramCollector, values: npt.NDArray[Any], extremes: tuple[float, float] | None) -> None:
        binned.append(values.size)
        update(self, values, extremes)

    monkeypatch.setattr(HistogramCollector, "update", counted)
    collector = SampledHistogramCollector("t", np.random.default_rng(0), SUBSAMPLE)
    for array in batches(at + 1, 100_000):
        binned.clear()
        collector.update(array)
    assert sum(binned) < 0.04 * 800_000


@pytest.mark.parametrize("constant", [0.0, -2.5, 1e-30])
def test_a_large_tensor_of_one_value_has_no_tails(constant: float) -> None:
    arrays = [np.full((1, 8, 20_000), constant, np.float32) for _ in range(2)]
    assert collect(*arrays).histogram == collect(*arrays, subsample=None).histogram


def test_outliers_that_the_subsample_missed_are_counted() -> None:
    array = batches(1, 100_000)[0]
    array[0, 3, ::10_000] = 60.0
    exact, sampled = collect(array, subsample=None), collect(array)
    beyond = exact.histogram.edges[:-1] >= 30.0
    assert np.array_equal(exact.histogram.counts[beyond], sampled.histogram.counts[beyond])
    assert sampled.histogram.counts[beyond].sum() == 10


def test_small_tensors_are_counted_in_full() -> None:
    arrays = batches(20, 100)
    assert collect(*arrays).histogram == collect(*arrays, subsample=None).histogram


def test_the_seed_decides_the_subsample() -> None:
    arrays = batches(4, 40_000)
    assert collect(*arrays, seed=3) == collect(*arrays, seed=3)
    assert collect(*arrays, seed=3) != collect(*arrays, seed=4)


def test_a_tensors_subsample_does_not_depend_on_other_tensors() -> None:
    arrays = batches(4, 40_000)
    both = StatisticsCollector({}, 0)
    for array in arrays:
        both.update("other", array)
        both.update("t", array)
    assert both.finish(4).tensors["t"] == collect(*arrays)


@given(
    arrays=st.lists(
        hnp.arrays(
            np.float32,
            st.tuples(st.integers(1, 3), st.just(4), st.integers(1, 9)),
            elements=st.floats(-1024, 1024, width=32),
        ),
        min_size=1,
        max_size=4,
    ),
    shift=st.sampled_from([0.0, 1e4, -1e5]),
)
@settings(max_examples=80, deadline=None)
def test_channel_moments_match_those_of_all_values(arrays: Any, shift: float) -> None:
    arrays = [(array + np.float32(shift)).astype(np.float32) for array in arrays]
    found = collect(*arrays, axis=1).channels
    assert found is not None
    values = np.concatenate([np.moveaxis(array, 1, 0).reshape(4, -1) for array in arrays], axis=1).astype(np.float64)
    scale = np.abs(values).max() + 1e-30
    assert np.array_equal(found.minimum, values.min(axis=1))
    assert np.array_equal(found.maximum, values.max(axis=1))
    assert np.allclose(found.mean, values.mean(axis=1), rtol=1e-5, atol=1e-6 * scale)
    assert np.allclose(found.variance, values.var(axis=1), rtol=1e-3, atol=1e-12 * scale**2)


@pytest.mark.parametrize("axis", [1, -1, 0])
def test_moments_along_any_axis(axis: int) -> None:
    rng = np.random.default_rng(2)
    array = (rng.standard_normal((6, 5, 7)) * 3 + 100).astype(np.float32)
    found = collect(array, axis=axis).channels
    assert found is not None
    assert found.axis == axis % 3
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)
    assert np.allclose(found.mean, rows.mean(axis=1), rtol=1e-7)
    assert np.allclose(found.variance, rows.var(axis=1), rtol=1e-5)
    assert np.array_equal(found.absolute_maximum, np.abs(rows).max(axis=1))


def test_a_mean_far_above_the_deviation_costs_no_digits() -> None:
    rng = np.random.default_rng(3)
    arrays = [(1e4 + rng.standard_normal((2, 3, 9000))).astype(np.float32) for _ in range(10)]
    found = collect(*arrays, axis=1).channels
    assert found is not None
    rows = np.concatenate([np.moveaxis(array, 1, 0).reshape(3, -1) for array in arrays], axis=1).astype(np.float64)
    assert np.allclose(found.variance, rows.var(axis=1), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_squares_neither_vanish_nor_overflow(scale: float) -> None:
    array = (np.random.default_rng(4).standard_normal((1, 3, 500)) * scale).astype(np.float32)
    found = collect(array, axis=1).channels
    assert found is not None
    assert np.allclose(found.variance, array.astype(np.float64).var(axis=2)[0], rtol=1e-5, atol=0.0)


def test_constant_channels_have_no_variance() -> None:
    found = collect(*[np.full((2, 3, 50), 0.1, np.float32)] * 3, axis=1).channels
    assert found is not None
    assert np.array_equal(found.variance, np.zeros(3))
    assert np.array_equal(found.mean, np.full(3, np.float32(0.1), np.float64))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, np.finfo(np.float32).min])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_what_is_not_finite_is_left_out_and_remembered(value: float, axis: int | None) -> None:
    collector = StatisticsCollector({} if axis is None else {"t": axis}, 0)
    collector.update("t", np.array([[1.0, 2.0]], np.float32))
    collector.update("t", np.array([[-3.0, value]], np.float32))
    collector.update("t", np.full((1, 2), value, np.float32))
    collector.update("other", np.ones(3, np.float32))
    found = collector.finish(3)
    assert found.unbounded == {"t"}
    assert collector.has_nan("t") is bool(np.isnan(value))
    assert (found.tensors["t"].minimum, found.tensors["t"].maximum, found.tensors["t"].count) == (-3.0, 2.0, 3)
    assert found.tensors["t"].histogram.total == 3
    assert found.tensors["t"].channels is None


def test_large_values_are_not_taken_for_infinities() -> None:
    large = np.array([1e25, -2e25], np.float32)  # their squares overflow
    collector = StatisticsCollector({"t": 0}, 0)
    collector.update("t", large)
    found = collector.finish(1)
    assert not found.unbounded
    assert found.tensors["t"].maximum == float(large[0])


def test_a_tensor_without_a_finite_value_has_no_statistics() -> None:
    collector = StatisticsCollector({}, 0)
    collector.update("t", np.full((2, 2), -np.inf, np.float32))
    collector.update("empty", np.zeros((2, 0), np.float32))
    found = collector.finish(1)
    assert found.unbounded == {"t"}
    assert not found.tensors


def test_half_precision_is_calibrated_and_integers_are_not() -> None:
    found = collect(np.array([1.5, -2.0], np.float16))
    assert (found.minimum, found.maximum) == (-2.0, 1.5)
    with pytest.raises(DataError, match=r"'t'.*floats.*int64"):
        collect(np.array([1, 2]))


def test_channels_that_change_are_an_error() -> None:
    with pytest.raises(DataError, match="keep its channels"):
        collect(np.ones((1, 3, 2), np.float32), np.ones((1, 4, 2), np.float32), axis=1)
    with pytest.raises(DataError, match="axis 3"):
        collect(np.ones((1, 3), np.float32), axis=3)
