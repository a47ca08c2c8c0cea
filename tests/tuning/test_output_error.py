"""The distance of a candidate's outputs from fp32's, as the strategies read it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from autotune.adapter import TensorSpec
from autotune.tuning.output_error import output_error

Floats = npt.NDArray[np.float32]


def spec(*shape: int | str | None) -> TensorSpec:
    return TensorSpec(name="y", dtype=np.dtype(np.float32), shape=shape)


def error(expected: Floats, actual: Floats, shape: TensorSpec) -> float:
    return output_error([(each[None],) for each in expected], [(each[None],) for each in actual], [shape])


def detections(anchors: int = 500) -> Floats:
    """Four samples of boxes in pixels over scores between 0 and 1, as YOLO hands them out."""
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 320, (4, 4, anchors))
    scores = rng.uniform(0, 1, (4, 18, anchors)) ** 8
    return np.concatenate([boxes, scores], axis=1).astype(np.float32)


def test_scores_that_vanish_under_the_scale_of_boxes_are_half_of_the_error() -> None:
    expected = detections()
    actual = expected.copy()
    actual[:, 4:] = 0.0
    # By total energy it would be a hundred-thousandth.
    assert error(expected, actual, spec("batch", 22, "anchors")) >= 0.5
    # Where nothing says which axis are the channels, all values count alike.
    assert error(expected, actual, spec("batch", "channels", "anchors")) < 1e-3


def test_of_scores_many_small_errors_near_a_threshold_outweigh_a_single_large_one() -> None:
    rng = np.random.default_rng(3)
    expected = rng.uniform(0, 1, (4, 500)).astype(np.float32)
    # One decision each changes: at most one of 2000, and about one in 25 for a threshold at 0.5.
    one, many = expected.copy(), np.clip(expected + rng.choice([-0.02, 0.02], (4, 500)), 0, 1).astype(np.float32)
    one[0, int(np.argmax(expected[0]))] = 0.0
    assert error(expected, many, spec("batch", 500)) > 100 * error(expected, one, spec("batch", 500))
    # Values beyond what is expected of scores are cut: they are one decision as well.
    wild = expected.copy()
    wild[0, 0] = 1e6
    assert error(expected, wild, spec("batch", 500)) < 1e-5


def test_scores_that_are_next_to_nothing_take_no_part() -> None:
    rng = np.random.default_rng(4)
    scores = np.where(np.arange(1000) < 10, 0.6, 1e-3) * np.ones((4, 1))
    noisy = scores + (scores < 0.05) * rng.uniform(-1e-3, 1e-2, scores.shape)
    expected, actual = scores.astype(np.float32), noisy.astype(np.float32)
    assert error(expected, actual, spec("batch", 1000)) == 0.0
    risen = expected.copy()
    risen[:, 20:30] = 0.6
    assert error(expected, risen, spec("batch", 1000)) == pytest.approx(1.0)


def test_errors_of_scores_add_up_as_energies_do() -> None:
    rng = np.random.default_rng(5)
    expected = rng.uniform(0.3, 0.7, (4, 5000)).astype(np.float32)
    first, second = rng.normal(0, 0.01, (2, 4, 5000)).astype(np.float32)
    each = [error(expected, expected + noise, spec("batch", 5000)) for noise in (first, second, first + second)]
    assert each[2] == pytest.approx(each[0] + each[1], rel=0.05)


def test_an_offset_is_no_signal() -> None:
    rng = np.random.default_rng(1)
    expected = (1000 + rng.normal(size=(4, 50))).astype(np.float32)
    assert error(expected, expected + rng.normal(size=(4, 50)).astype(np.float32), spec(1, "n")) == pytest.approx(
        1.0, rel=0.3
    )
    constant: Floats = np.full((4, 50), 3.0, np.float32)
    assert math.isfinite(error(constant, constant + np.float32(0.1), spec(1, "n")))
    assert error(constant, constant, spec(1, "n")) == 0.0


def test_classes_that_no_sample_shows_are_no_part_of_their_own() -> None:
    rng = np.random.default_rng(2)
    logits = np.where(np.arange(100) < 10, rng.normal(size=(8, 100)), -30.0)
    expected = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    assert error(expected, expected + np.float32(1e-6), spec("batch", 100)) < 1e-4


def test_outputs_that_are_not_finite_are_an_infinite_error_unless_they_are_expected() -> None:
    expected: Floats = (np.ones((2, 8)) * np.arange(8)).astype(np.float32)
    broken: Floats = expected.copy()
    broken[0, 3] = np.nan
    assert error(expected, broken, spec("batch", 8)) == math.inf
    assert error(broken, broken, spec("batch", 8)) == 0.0


def test_every_output_counts_alike_and_integers_do_not_count() -> None:
    first, second = np.arange(8, dtype=np.float32), np.arange(8)
    outputs = [spec(8), TensorSpec(name="i", dtype=np.dtype(np.int64), shape=(8,)), spec(8)]
    expected, actual = [(first, second, first)], [(first, second + 1, first * 2)]
    assert output_error(expected, actual, outputs) == pytest.approx(
        0.5 * float(np.sum(first**2)) / float(np.var(first) * 8)
    )


def test_batches_of_different_lengths_are_one_output() -> None:
    expected = [(np.ones((1, n, 3), np.float32) * np.arange(3, dtype=np.float32),) for n in (2, 5)]
    assert output_error(expected, expected, [spec(1, "n", 3)]) == 0.0
