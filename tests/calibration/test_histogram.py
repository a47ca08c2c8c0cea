from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autotune.calibration import Histogram, HistogramCollector
from autotune.errors import DataError

ARRAYS = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


def collect(*parts: npt.NDArray[Any]) -> Histogram:
    collector = HistogramCollector("t")
    for part in parts:
        collector.update(part)
    return collector.finish()


@given(st.lists(ARRAYS, min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_neither_order_nor_parts_change_a_bin(parts: Any, random: Any) -> None:
    shuffled = parts.copy()
    random.shuffle(shuffled)
    once = collect(np.concatenate(parts))
    assert collect(*parts) == once
    assert collect(*shuffled) == once


@given(st.lists(ARRAYS, min_size=2, max_size=5))
@settings(max_examples=100, deadline=None)
def test_merging_collectors_equals_collecting_everything(parts: Any) -> None:
    merged = HistogramCollector("t")
    for part in parts:
        other = HistogramCollector("t")
        other.update(part)
        merged.merge(other)
    assert merged.finish() == collect(*parts)


@given(st.lists(ARRAYS, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_every_value_is_counted_in_the_bin_that_holds_it(parts: Any) -> None:
    histogram = collect(*parts)
    values = np.concatenate(parts).astype(np.float64)
    assert histogram.total == values.size
    index = np.floor(values / histogram.width).astype(np.int64) - round(histogram.low / histogram.width)
    assert np.array_equal(np.bincount(index, minlength=histogram.bins), histogram.counts)


def test_values_span_more_than_half_of_the_bins_after_growth_over_many_magnitudes() -> None:
    rng = np.random.default_rng(0)
    histogram = collect(*(rng.standard_normal(100).astype(np.float32) * 10.0**k for k in range(-3, 6)))
    occupied = np.flatnonzero(histogram.counts)
    assert occupied[-1] - occupied[0] >= histogram.bins // 2 >= 2048


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(5),
        np.full(5, 1000.0),
        np.full(5, -3.5),
        np.array([1e-45, -1e-44, 0.0]),
        np.array([3.4e38, -3.4e38]),
        np.array([1.0, 1.0 + 2**-20]),
        np.append(np.linspace(-1, 1, 99), 1e30),
    ],
    ids=["zeros", "constant", "negative", "denormal", "largest", "far from zero", "outlier"],
)
def test_unusual_values_are_counted_within_their_extremes(values: npt.NDArray[Any]) -> None:
    values = values.astype(np.float32)
    histogram = collect(values)
    assert histogram.total == values.size
    assert histogram.low <= float(values.min())
    assert float(values.max()) < histogram.high


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_the_tensor(value: float) -> None:
    with pytest.raises(DataError, match=r"'conv_3'.*finite"):
        HistogramCollector("conv_3").update(np.array([0.0, value, 1.0], np.float32))


def test_no_value_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match=r"'t'.*at least one value"):
        HistogramCollector("t").finish()


def test_too_few_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="2048"):
        HistogramCollector("t", bins=128)


def test_quantiles_follow_the_values() -> None:
    values = np.random.default_rng(1).standard_normal(50_000).astype(np.float32)
    histogram = collect(values)
    shares = np.array([0.01, 0.1, 0.5, 0.9, 0.99])
    found = [histogram.quantile(share) for share in shares]
    assert np.allclose(found, np.quantile(values, shares), atol=0.005)
    assert histogram.quantile(0.0) <= values.min()
    assert histogram.quantile(1.0) >= values.max()


def test_an_ill_formed_histogram_is_refused() -> None:
    with pytest.raises(ValueError, match="low < high"):
        Histogram(np.ones(3, np.int64), 1.0, 1.0)
    with pytest.raises(ValueError, match="int64"):
        Histogram(np.ones(3), 0.0, 1.0)  # type: ignore[arg-type]
