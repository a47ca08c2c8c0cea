"""Toy runtimes: the NumPy adapter under several names, with scripted speeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array, Example, Execution, Feeds, Runner
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.errors import ModelError
from autotune.runtimes import RuntimeModel, RuntimesAdapter
from autotune.runtimes.fp32 import Fp32Speeds
from autotune.space import TuningSpace
from autotune.strategy import Draw, Exhausted, Problem, Proposal, Strategy
from autotune.trial import Trial
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel
from tests.tuning.scripted import script_speeds

DYNAMIC = OpConfig(precision=Precision.INT8_DYNAMIC)


class Hare(NumpyAdapter):
    """One runtime."""

    name = "hare"
    suffix = ".hare"


class Tortoise(NumpyAdapter):
    """Another one, which knows two of the layers by other names, and has no dynamic precision."""

    name = "tortoise"
    suffix = ".tortoise"

    def space(self, model: NumpyModel) -> TuningSpace:
        space = super().space(model)
        ops = tuple(op.without({Precision.INT8_DYNAMIC}) for op in space.ops if op.name != "dense_0")
        return dataclasses.replace(space, ops=ops)


class Unloadable(NumpyAdapter):
    """Reads no model."""

    name = "unloadable"

    def load(self, source: object, example: Example | None = None) -> NumpyModel:  # noqa: ARG002
        raise ModelError("there is no model that this one reads")


class Refusing(NumpyAdapter):
    """Reads every model and runs none."""

    name = "refusing"

    def runner(self, model: NumpyModel, execution: Execution) -> Runner:  # noqa: ARG002
        raise RuntimeError("unknown op")


class Wrong(NumpyAdapter):
    """Computes something else."""

    name = "wrong"

    def runner(self, model: NumpyModel, execution: Execution) -> Runner:
        run = super().runner(model, execution)

        def off(feeds: Feeds) -> tuple[Array, ...]:
            return tuple(output + np.float32(0.5) for output in run(feeds))

        return off


TOYS = {toy.name: toy for toy in (Hare, Tortoise, Unloadable, Refusing, Wrong)}


def adapter_of(*names: str) -> RuntimesAdapter:
    return RuntimesAdapter({name: TOYS[name]() for name in names}, {})


def script(
    monkeypatch: pytest.MonkeyPatch,
    speed_of: Callable[[str, int], float],
    fp32: Mapping[str, float],
    baseline: str = "hare",
) -> None:
    """Let fp32 and all candidates be as fast as is said, relative to the baseline.

    Args:
        monkeypatch: Undoes it.
        speed_of: Speed of a candidate, by its runtime and the number of its quantized layers.
        fp32: Speed of fp32, by runtime.
        baseline: The fastest.
    """

    def speedup(candidate: RuntimeModel) -> float:
        layers = candidate.model.dense.values()
        return speed_of(candidate.runtime, sum(layer.weight_scheme is not None for layer in layers))

    def compared(_adapter: Any, models: Mapping[str, Any], *_arguments: Any, **_options: Any) -> Fp32Speeds:
        return Fp32Speeds(baseline=baseline, speeds={name: fp32[name] for name in models})

    script_speeds(monkeypatch, speedup)
    monkeypatch.setattr("autotune.tuning.preparing.compare_fp32", compared)


class OneByOne(Strategy):
    """First all ops of a space as preferred, then one less each time; remembers what it saw."""

    def __init__(self, limit: int = 3, *, needs_accuracy: bool = False) -> None:
        self.limit = limit
        self.needs_accuracy = needs_accuracy
        self.seen: list[tuple[str, Sequence[Trial]]] = []

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:  # noqa: ARG002
        """The next one."""
        runtime = "hare" if "dense_0" in problem.space.by_name else "tortoise"
        self.seen.append((runtime, trials))
        tried = len(trials) - 1
        if tried >= self.limit:
            return Exhausted(reason="exhausted: that was all")
        ops = problem.space.ops[tried:]
        config = QuantizationConfig(ops={op.name: op.preferred for op in ops})
        return Proposal(config=config, note=f"{len(ops)} ops", needs_accuracy=self.needs_accuracy)


def files(folder: Path, stem: str) -> list[str]:
    return sorted(file.name for file in folder.glob(f"{stem}*"))
