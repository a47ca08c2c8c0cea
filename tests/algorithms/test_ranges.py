from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autotune.algorithms import (
    activation_range,
    affine_parameters,
    dequantize,
    fake_quantize,
    noise_to_signal,
    quantize,
)
from autotune.calibration import StatisticsCollector, TensorStatistics
from autotune.config import (
    KL,
    LEAST_ERROR,
    MINMAX,
    MSE,
    PERCENTILE,
    CalibrationAlgorithm,
    CalibrationMethod,
    QuantizedType,
    TensorScheme,
)

U8 = TensorScheme(dtype=QuantizedType.U8)
S8 = TensorScheme(dtype=QuantizedType.S8)
U8_SYMMETRIC = TensorScheme(dtype=QuantizedType.U8, symmetric=True)
S8_SYMMETRIC = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
SCHEMES = (U8, S8, U8_SYMMETRIC, S8_SYMMETRIC)
ALGORITHMS = (MINMAX, PERCENTILE, KL, MSE, LEAST_ERROR)
NORMAL = np.random.default_rng(0).standard_normal(100_000)


def stats(values: npt.NDArray[Any]) -> TensorStatistics:
    collector = StatisticsCollector({}, 0, subsample=None)
    collector.update("t", values.astype(np.float32))
    return collector.finish(1).tensors["t"]


OUTLIERS = stats(np.append(NORMAL, [-35.0, 60.0]))


@given(
    values=hnp.arrays(
        np.float32,
        st.integers(1, 60),
        elements=st.floats(-(2.0**120), 2.0**120, width=32),  # larger ones stand for infinity
    ),
    algorithm=st.sampled_from(ALGORITHMS),
    scheme=st.sampled_from(SCHEMES),
)
@settings(max_examples=300, deadline=None)
def test_ranges_hold_zero_exactly_and_never_exceed_the_extremes(
    values: npt.NDArray[Any], algorithm: Any, scheme: TensorScheme
) -> None:
    tensor = stats(values)
    low, high = activation_range(tensor, algorithm, scheme)
    bound = max(-tensor.minimum, tensor.maximum, 0.0)
    assert low <= 0.0 <= high
    assert low >= (-bound if scheme.symmetric else min(tensor.minimum, 0.0))
    assert high <= (bound if scheme.symmetric else max(tensor.maximum, 0.0))
    assert not scheme.symmetric or low == -high
    params = affine_parameters(low, high, scheme)
    zero = dequantize(quantize(np.zeros(1, np.float32), params, scheme), params, scheme)
    assert zero[0] == 0.0
    assert np.isfinite(params.scale)
    assert params.scale >= np.finfo(np.float32).tiny


@pytest.mark.parametrize("scheme", [U8, S8_SYMMETRIC], ids=str)
def test_kl_clips_outliers_that_minmax_keeps(scheme: TensorScheme) -> None:
    low, high = activation_range(OUTLIERS, KL, scheme)
    assert -9.0 < low < -3.0
    assert 3.0 < high < 9.0
    assert activation_range(OUTLIERS, MINMAX, scheme) == ((-35.0, 60.0) if scheme == U8 else (-60.0, 60.0))


def test_both_ends_are_searched_one_by_one() -> None:
    values = np.concatenate([-np.abs(NORMAL) * 0.1, np.abs(NORMAL), [-30.0]])
    for algorithm in (KL, PERCENTILE):
        low, high = activation_range(stats(values), algorithm, U8)
        assert -1.5 < low < -0.2
        assert 3.0 < high < 4.6


@pytest.mark.parametrize("algorithm", [KL, MSE, PERCENTILE, LEAST_ERROR], ids=str)
def test_one_sided_tensors_keep_their_end_at_zero(algorithm: Any) -> None:
    relu = stats(np.maximum(NORMAL, 0))
    low, high = activation_range(relu, algorithm, U8)
    assert low == 0.0
    assert 3.0 < high <= relu.maximum
    low, high = activation_range(stats(-np.abs(NORMAL)), algorithm, U8)
    assert high == 0.0
    assert -4.5 < low < -3.0


@pytest.mark.parametrize("algorithm", [KL, MSE, LEAST_ERROR], ids=str)
def test_what_piles_up_at_zero_and_at_six_is_kept(algorithm: Any) -> None:
    clipped = stats(np.clip(NORMAL * 4, 0, 6))
    assert activation_range(clipped, algorithm, U8) == pytest.approx((0.0, 6.0), rel=0.01)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@pytest.mark.parametrize("value", [0.0, 7.0, -7.0])
def test_constants_are_exact(value: float, algorithm: Any) -> None:
    values = np.full(100, value, np.float32)
    for scheme in SCHEMES:
        params = affine_parameters(*activation_range(stats(values), algorithm, scheme), scheme)
        assert np.allclose(fake_quantize(values, params, scheme), values, rtol=1e-6)


def test_percentile_covers_its_share_and_follows_numpy() -> None:
    for percentile in (99.0, 99.9, 99.99):
        algorithm = CalibrationAlgorithm(CalibrationMethod.PERCENTILE, percentile)
        low, high = activation_range(OUTLIERS, algorithm, U8)
        values = np.append(NORMAL, [-35.0, 60.0])
        assert (low, high) == pytest.approx(np.percentile(values, [50 - percentile / 2, 50 + percentile / 2]), abs=0.03)
        bound = activation_range(OUTLIERS, algorithm, S8_SYMMETRIC)[1]
        assert bound == pytest.approx(np.percentile(np.abs(values), percentile), abs=0.03)


def test_percentile_of_hundred_is_minmax() -> None:
    algorithm = CalibrationAlgorithm(CalibrationMethod.PERCENTILE, 100.0)
    assert activation_range(OUTLIERS, algorithm, U8) == (-35.0, 60.0)


def test_a_sparse_tensor_keeps_its_values() -> None:
    sparse = stats(np.append(np.zeros(1_000_000), [1.0, 2.0, 3.0]))
    assert activation_range(sparse, PERCENTILE, U8) == (0.0, 3.0)
    assert activation_range(sparse, MSE, U8) == pytest.approx((0.0, 3.0), rel=0.01)


@pytest.mark.parametrize("scheme", [U8, S8_SYMMETRIC], ids=str)
@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "skewed", "outliers"])
def test_mse_is_within_two_percent_of_the_best_of_a_brute_force_grid(name: str, scheme: TensorScheme) -> None:
    rng = np.random.default_rng(5)
    values = {
        "normal": NORMAL[:20_000],
        "laplace": rng.laplace(size=20_000),
        "relu": np.maximum(NORMAL[:20_000], 0),
        "skewed": rng.gamma(2.0, size=20_000) - 0.5,
        "outliers": np.append(NORMAL[:20_000], np.full(20, 12.0)),
    }[name].astype(np.float32)

    def error(low: float, high: float) -> float:
        rounded = fake_quantize(values, affine_parameters(low, high, scheme), scheme)
        return float(np.mean((rounded - values.astype(np.float64)) ** 2))

    tensor = stats(values)
    low, high = min(tensor.minimum, 0.0), max(tensor.maximum, 0.0)
    shrink = np.linspace(0.3, 1.0, 36)
    best = min(error(low * a, high * b) for a in shrink for b in (shrink if low < 0 and not scheme.symmetric else [a]))
    found = error(*activation_range(tensor, MSE, scheme))
    assert found <= error(*activation_range(tensor, MINMAX, scheme))
    assert found <= best * 1.02


def test_kl_equals_a_direct_evaluation_of_its_definition() -> None:
    tensor = stats(np.abs(NORMAL[:5000]))
    found = activation_range(tensor, KL, U8)[1]
    occupied = np.flatnonzero(tensor.histogram.counts)
    counts = tensor.histogram.counts[: occupied[-1] + 1 + occupied[-1] % 2]
    counts = counts[: counts.size // 2 * 2].reshape(-1, 2).sum(axis=1) if counts.size > 4096 else counts
    counts = counts.astype(np.float64)
    counts[0] = min(counts[0], counts[1])
    width = tensor.histogram.width * (2 if occupied[-1] >= 4096 else 1)

    def divergence(end: int) -> float:
        inside = counts[:end]
        reference = inside.copy()
        reference[np.flatnonzero(inside)[-1]] += counts[end:].sum()
        merged = np.zeros(end)
        for level in range(256):
            part = slice(level * end // 256, (level + 1) * end // 256)
            full = inside[part] > 0
            if full.any():
                merged[part][full] = inside[part].sum() / full.sum()
        p, q = reference / reference.sum(), merged / merged.sum()
        return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))

    chosen = divergence(min(round(found / width + 0.49), counts.size))
    assert chosen <= min(divergence(end) for end in range(256, counts.size + 1, 61)) + 1e-3


def lines_executed(function: Callable[[], object]) -> int:
    """How many lines of Python a call takes: the same on every machine, busy or not."""
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return lines


def test_a_range_takes_no_loop_over_bins() -> None:
    """0.2, 6 and 1 ms were measured; ONNX Runtime's search over bins in Python takes seconds."""
    bins = OUTLIERS.histogram.counts.size
    assert bins >= 4096
    for algorithm in (PERCENTILE, KL, MSE, LEAST_ERROR):
        assert lines_executed(lambda algorithm=algorithm: activation_range(OUTLIERS, algorithm, U8)) < bins / 2  # type: ignore[misc]


def sqnr_db(values: npt.NDArray[Any], algorithm: CalibrationAlgorithm, scheme: TensorScheme) -> float:
    values = values.astype(np.float32)
    params = affine_parameters(*activation_range(stats(values), algorithm, scheme), scheme)
    error = np.square(fake_quantize(values, params, scheme) - values.astype(np.float64)).mean()
    return float(10 * np.log10(np.square(values, dtype=np.float64).mean() / max(error, 1e-30)))


AWAY_FROM_ZERO = {
    "normal below zero": NORMAL - 5,
    "normal above zero": NORMAL + 5,
    "ratings": np.random.default_rng(1).integers(1, 6, 20_000),
    "pooled features": np.random.default_rng(2).uniform(0.27, 0.82, 20_000),
    "few pooled features": np.random.default_rng(3).uniform(0.27, 0.82, 60),
    "two groups": np.append(NORMAL[:5000] * 0.01 - 8, NORMAL[:5000] * 0.01 + 9),
    "log spectrum": np.log(np.square(NORMAL) + 1e-7),
}


@pytest.mark.parametrize("scheme", [U8, S8_SYMMETRIC], ids=str)
@pytest.mark.parametrize("name", AWAY_FROM_ZERO)
def test_kl_keeps_values_that_lie_far_from_zero(name: str, scheme: TensorScheme) -> None:
    """Where the bins around zero are empty, the range that leaves all values out has the least divergence."""
    values = AWAY_FROM_ZERO[name]
    best = max(sqnr_db(values, algorithm, scheme) for algorithm in (MINMAX, MSE, PERCENTILE))
    assert sqnr_db(values, KL, scheme) > min(best, 60.0) - 10.0


def shares(values: npt.NDArray[Any], scheme: TensorScheme) -> float:
    """Share of the values that KL cuts off."""
    low, high = activation_range(stats(values), KL, scheme)
    return float(np.mean((values < low * 1.001) | (values > high * 1.001)))


@pytest.mark.parametrize("scheme", [U8, S8_SYMMETRIC], ids=str)
def test_kl_cuts_off_one_percent_at_most(scheme: TensorScheme) -> None:
    """A spike of a twentieth of all values costs KL little divergence and much error."""
    for spike in (0.02, 0.05, 0.2):
        values = np.append(NORMAL[:20_000] * 0.02, np.full(int(20_000 * spike), 3.0))
        assert shares(values, scheme) <= 0.0101


def test_kl_gives_way_where_it_errs_ten_times_as_much() -> None:
    """Half a percent of the values may be cut off by their number, and may not by what they weigh."""
    values = np.append(np.abs(NORMAL) * 0.1, np.full(500, 20.0))
    assert activation_range(stats(values), KL, U8) == activation_range(stats(values), LEAST_ERROR, U8)


@pytest.mark.parametrize("scheme", [U8, S8, S8_SYMMETRIC], ids=str)
@pytest.mark.parametrize("name", [*AWAY_FROM_ZERO, "outliers", "lognormal", "relu"])
def test_least_error_is_no_worse_than_any_other(name: str, scheme: TensorScheme) -> None:
    others = {"outliers": np.append(NORMAL, [-35.0, 60.0]), "lognormal": np.exp(2 * NORMAL), "relu": NORMAL.clip(0)}
    values = {**AWAY_FROM_ZERO, **others}[name]
    best = max(sqnr_db(values, algorithm, scheme) for algorithm in (MINMAX, KL, MSE, PERCENTILE))
    # Estimates take values as uniform within a bin; what is exact anyway cannot be ranked.
    assert sqnr_db(values, LEAST_ERROR, scheme) > min(best, 60.0) - 0.3


@pytest.mark.parametrize(("low", "high"), [(-4.0, 4.0), (-1.0, 1.0), (-40.0, 40.0), (0.0, 4.0)])
def test_noise_to_signal_is_that_of_quantized_values(low: float, high: float) -> None:
    parameters = affine_parameters(low, high, U8)
    error = NORMAL - fake_quantize(NORMAL.astype(np.float32), parameters, U8)
    expected = float(np.square(error).mean() / NORMAL.var())
    assert noise_to_signal(stats(NORMAL), low, high) == pytest.approx(min(1.0, expected), rel=0.15)


def test_noise_to_signal_of_a_tensor_that_shares_the_range_of_a_much_larger_one_is_all_noise() -> None:
    scores = np.random.default_rng(0).uniform(0, 1, 10_000)
    assert noise_to_signal(stats(scores), 0.0, 1.0) < 1e-4
    assert noise_to_signal(stats(scores), 0.0, 640.0) > 0.9


def test_noise_to_signal_of_values_that_all_become_zero_is_no_more_than_their_own() -> None:
    assert noise_to_signal(stats(NORMAL), -1e6, 1e6) == pytest.approx(1.0, rel=0.01)
