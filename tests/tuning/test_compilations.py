"""Tests that compilations are limited, and that a run ends early where compiling gains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import autotune
from autotune.criterion import Interval, Verdict
from autotune.errors import ApplyError, InputError
from autotune.evaluation.compiling import CompilingEvaluator
from autotune.trial import Measurement, TrialState
from autotune.tuning.compilations import Compilations
from tests.compiling_adapter import Compiler, compiling
from tests.numpy_framework import NumpyModel


def test_both_limits_count() -> None:
    counted = Compilations(2, 100.0)
    assert counted.spent() is None
    counted.add(None)
    counted.add(30.0)
    assert counted.spent() is None
    assert counted.shortest_s == 30.0
    counted.add(10.0)
    assert counted.shortest_s == 10.0
    assert counted.spent() == "max_compilations: 2 candidates compiled"
    timed = Compilations(None, 100.0)
    timed.add(120.0)
    assert timed.spent() == "compilation_max_s: compiling took 120 of the 100 s given to it"
    assert Compilations().spent() is None


@pytest.mark.parametrize("name", ["max_compilations", "compilation_max_s"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(InputError, match=name):
        autotune.Tuner(**{name: 0})  # type: ignore[arg-type]  # any of the fields


def _script_probe(monkeypatch: pytest.MonkeyPatch, speedup: float) -> list[Any]:
    """Let what is compiled first be as fast as that, within 1 %; returns what was timed so."""
    timed: list[Any] = []

    interval = Interval(low=0.99 * speedup, high=1.01 * speedup, confidence=0.95)

    def speed_of(_evaluator: Any, candidate: Any, **_options: Any) -> Measurement:
        timed.append(candidate)
        return Measurement(speedup=speedup, speedup_interval=interval, latency_ms=1.0, latency_decided=True)

    monkeypatch.setattr(CompilingEvaluator, "speed_of", speed_of)
    return timed


def _tune(
    monkeypatch: pytest.MonkeyPatch,
    compiler: Compiler,
    network: NumpyModel,
    images: Sequence[Any],
    score: Any,
    **more: Any,
) -> Any:
    monkeypatch.setattr("autotune.tuning.tuner.get_adapter", lambda _name: compiling(compiler))
    options: dict[str, Any] = {"max_trials": 4, "strategy": "random", **more}
    tuner = autotune.Tuner(
        framework="numpy",
        criterion=autotune.Criterion(relative=0.9),
        latency_max_s=0.1,
        warmup=1,
        **options,
    )
    return tuner.tune(network, images, score)


def test_the_search_ends_before_it_begins_where_int8_gains_nothing(
    network: NumpyModel, images: Any, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = _script_probe(monkeypatch, 0.83)
    result = _tune(monkeypatch, Compiler(), network, images, score)
    assert len(timed) == 1
    (_, probe) = result.history
    assert probe.state is TrialState.PRUNED
    assert probe.speedup == 0.83
    assert result.best.config.is_fp32
    assert result.verdict is Verdict.MET
    assert result.speed is Verdict.MISSED
    assert "given up early" in result.end_reason
    assert "0.83x" in result.end_reason


def test_where_it_may_gain_the_search_goes_on_and_ends_with_the_compilations(
    network: NumpyModel, images: Any, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script_probe(monkeypatch, 1.005)
    compiler = Compiler()
    result = _tune(monkeypatch, compiler, network, images, score, max_compilations=2)
    assert len(compiler.compiled) == 3, "fp32 and two candidates"
    assert [trial.state for trial in result.history].count(TrialState.COMPLETED) >= 1
    assert result.verdict is Verdict.MET
    assert "max_compilations: 2" in result.end_reason


def test_failed_compilations_count(
    network: NumpyModel, images: Any, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script_probe(monkeypatch, 1.5)
    compiler = Compiler()

    def refuse() -> None:
        if len(compiler.compiled) > 1:  # fp32 it takes
            raise ApplyError("the compiler refuses it")

    compiler.spend = refuse
    result = _tune(monkeypatch, compiler, network, images, score, max_compilations=2)
    assert len(compiler.compiled) == 3, "fp32 and two candidates"
    assert "max_compilations: 2" in result.end_reason


def test_size_is_searched_for_whatever_the_speed(
    network: NumpyModel, images: Any, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = _script_probe(monkeypatch, 0.5)
    result = _tune(monkeypatch, Compiler(), network, images, score, objective="size", max_trials=1)
    assert not timed
    assert len(result.history) == 2


def test_insights_compile_nothing(
    network: NumpyModel, images: Any, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script_probe(monkeypatch, 2.0)
    compiler = Compiler()
    result = _tune(monkeypatch, compiler, network, images, score, strategy="mse", max_trials=1)
    assert len(compiler.compiled) <= 1 + len(result.history[1:])


def test_the_probe_is_not_repeated_by_a_run_that_continues(
    network: NumpyModel, images: Any, score: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    timed = _script_probe(monkeypatch, 0.9)
    for _ in range(2):
        result = _tune(monkeypatch, Compiler(), network, images, score, workspace=tmp_path / "run")
        assert "given up early" in result.end_reason
    assert len(timed) == 1
