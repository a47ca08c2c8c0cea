"""Second-order sensitivity: of a toy adapter whose Hessians are known, and of one that tunes a real model by it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.adapter import Array, Differentiable, Feeds
from autotune.config import FP32
from autotune.tuning.hessian import HessianSensitivity
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel

WEIGHTS = {"first": np.array([1.0, 2.0, 3.0]), "second": np.array([[4.0]]), "bare": np.empty(0)}
ROUNDED = {"first": np.array([1.0, 2.5, 2.0]), "second": np.array([[4.5]]), "bare": np.empty(0)}


class Quadratic:
    """A loss with the same Hessian everywhere; a model is its weights by op."""

    def __init__(self, hessians: Mapping[str, Sequence[Sequence[float]]]) -> None:
        self.hessians = {op: np.array(each, np.float64) for op, each in hessians.items()}
        self.probes: list[tuple[int, Feeds]] = []

    def weights(self, model: Any) -> Mapping[str, Array]:
        return dict(model)

    def hessian_probe(self, model: Any, feeds: Feeds, *, seed: int) -> Mapping[str, float]:  # noqa: ARG002
        self.probes.append((seed, feeds))
        rng = np.random.default_rng(seed)
        signs = {op: rng.choice([-1.0, 1.0], len(each)) for op, each in self.hessians.items()}
        return {op: float(signs[op] @ each @ signs[op]) for op, each in self.hessians.items()}


DIAGONAL = {"first": np.diag([1.0, 2.0, 6.0]).tolist(), "second": [[10.0]]}
FEEDS: list[Feeds] = [{"x": np.full(1, float(index))} for index in range(3)]


def sensitivity(adapter: Differentiable, *, probes: int = 1000, seed: int = 0) -> dict[str, float]:
    left = iter(range(probes))
    estimate: HessianSensitivity[Any] = HessianSensitivity(
        adapter, WEIGHTS, FEEDS, lambda: next(left, None) is not None, seed
    )
    return estimate(ROUNDED)


def test_it_is_the_mean_of_the_diagonal_times_the_squared_error_of_the_weights() -> None:
    found = sensitivity(Quadratic(DIAGONAL))
    assert found == pytest.approx({"first": 9.0 / 3 * 1.25, "second": 10.0 * 0.25, "bare": 0.0})


def test_probes_end_where_they_agree_and_take_the_batches_in_turn() -> None:
    adapter = Quadratic(DIAGONAL)
    sensitivity(adapter, seed=5)
    assert [seed for seed, _ in adapter.probes] == [5, 6, 7, 8]
    assert [int(feeds["x"][0]) for _, feeds in adapter.probes] == [0, 1, 2, 0]


def test_what_lies_beside_the_diagonal_averages_out() -> None:
    coupled = {"first": [[1.0, 4.0, 0.0], [4.0, 2.0, -5.0], [0.0, -5.0, 6.0]], "second": [[10.0]]}
    adapter = Quadratic(coupled)
    assert sensitivity(adapter)["first"] == pytest.approx(9.0 / 3 * 1.25, rel=0.6)
    assert 4 < len(adapter.probes) <= 64
    many = [sensitivity(Quadratic(coupled), seed=100 * index)["first"] for index in range(30)]
    assert np.mean(many) == pytest.approx(9.0 / 3 * 1.25, rel=0.1)


@pytest.mark.parametrize(("affordable", "made"), [(0, 4), (1, 5), (7, 11)])
def test_no_more_probes_than_there_is_time_for(affordable: int, made: int) -> None:
    adapter = Quadratic({"first": [[0.0, 9.0, 0.0], [9.0, 0.0, 9.0], [0.0, 9.0, 1.0]], "second": [[0.0]]})
    sensitivity(adapter, probes=affordable)
    assert len(adapter.probes) == made


def test_a_negative_estimate_says_that_nothing_was_found() -> None:
    assert sensitivity(Quadratic({"first": np.diag([-1.0, -1.0, -1.0]).tolist()}))["first"] == 0.0


def test_hawq_ranks_by_what_an_adapter_differentiates(
    network: NumpyModel, images: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(NumpyAdapter(), Differentiable)
    asked: list[int] = []
    probe = NumpyAdapter.hessian_probe

    def noted(self: NumpyAdapter, model: NumpyModel, feeds: Feeds, *, seed: int) -> Mapping[str, float]:
        asked.append(seed)
        return probe(self, model, feeds, seed=seed)

    monkeypatch.setattr(NumpyAdapter, "hessian_probe", noted)
    calls: list[int] = []

    def score(model: Any) -> float:
        """Every config but fp32 misses, so that the whole order is walked."""
        model(images[0])
        calls.append(1)
        return 1.0 if len(calls) == 1 else 0.0

    tuner = autotune.Tuner(strategy="hawq", framework="numpy", objective="size", max_trials=12)
    result = tuner.tune(network, images, score)
    assert "fewest ops in fp32" in result.end_reason
    assert len(asked) >= 4
    kept = [{op for op in result.op_types if trial.config[op] == FP32} for trial in result.history[1:]]
    assert all(before <= after for before, after in itertools.pairwise(kept[1:])), "one order of all ops"
