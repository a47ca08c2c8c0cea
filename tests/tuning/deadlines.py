"""Scripted time, and what whole runs whose time is up have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.criterion import Criterion, Verdict
from autotune.restriction import SpaceRestriction
from tests.numpy_adapter import NumpyAdapter

PLAIN = SpaceRestriction(
    recipe={"equalization": (False,), "bias_correction": ("none",), "weight_rounding": ("nearest",)}
)
CHEAP: dict[str, Any] = {
    "framework": "numpy",
    "warmup": 1,
    "latency_max_s": 0.05,
    "restriction": PLAIN,
    "strategy": "random",
}
TOLERANT = Criterion(absolute=0.9)


class Clock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        self.now += 1e-4
        return self.now


class SlowLoader:
    """A data loader that takes a while for each batch."""

    def __init__(self, batches: Sequence[Any], clock: Clock, seconds: float) -> None:
        self.batches, self.clock, self.seconds, self.read = batches, clock, seconds, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.clock.now += self.seconds
            self.read += 1
            yield batch


def slow(monkeypatch: pytest.MonkeyPatch, clock: Clock, name: str, seconds: float) -> None:
    """Let a method of the adapter take a while."""
    original = getattr(NumpyAdapter, name)

    def slowed(self: Any, *args: Any, **options: Any) -> Any:
        clock.now += seconds
        return original(self, *args, **options)

    monkeypatch.setattr(NumpyAdapter, name, slowed)


def evaluation(images: Sequence[Any], clock: Clock, seconds: float) -> Callable[[Any], float]:
    """An eval_fn whose calls of the model take a while each."""

    def eval_fn(model: Any) -> float:
        total = 0.0
        for batch in images:
            clock.now += seconds
            total += float(np.abs(model(batch)).mean())
        return 10.0 + total

    return eval_fn


def check(result: autotune.TuningResult, images: Sequence[Any], stage: str) -> None:
    """The answer is fp32, it runs, nothing is claimed of it, and the reason says where the time went."""
    assert result.verdict is Verdict.UNDECIDED
    assert result.best.config.is_fp32
    assert result.model(images[0]).shape == (8, 10)  # type: ignore[union-attr]  # one output
    assert re.match(rf"timeout: the [\d.]+ s given to the run were up before {stage}", result.end_reason)
    assert re.search(r"Give it [\d,]+ s or more \(`timeout_s`, or `--timeout`\)", result.end_reason)


def slow_calls(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float) -> None:
    """Let every sample that a model runs take a while."""
    original = NumpyAdapter.runner

    def slow_runner(self: Any, model: Any, execution: Any) -> Any:
        run = original(self, model, execution)

        def slowed(feeds: Any) -> Any:
            clock.now += seconds * len(feeds["data"])
            return run(feeds)

        return slowed

    monkeypatch.setattr(NumpyAdapter, "runner", slow_runner)
