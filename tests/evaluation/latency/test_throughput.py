from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from autotune.adapter import Execution, Feeds
from autotune.errors import ApplyError, InputError
from autotune.evaluation import ThroughputOptions, measure_throughput

# A worker cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

BATCH = {"x": np.zeros((4, 2), np.float32)}
SHORT: dict[str, Any] = {"batch_size": 4, "warmup": 1, "window_s": 0.2, "rounds": 3}


class Clock:
    """Time in a worker passes by what is waited for and computed, whatever else the machine does."""

    def __init__(self) -> None:
        self.now = 1e9

    def time(self) -> float:
        return self.now

    perf_counter = time

    def sleep(self, seconds: float) -> None:
        time.sleep(0.001)
        self.now += seconds


class ScriptedAdapter:
    """Models are the seconds that a call takes; what cores a process has is left in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def runner(self, model: float, execution: Execution) -> Any:
        if model < 0:
            raise ApplyError("no such kernel")
        (self._folder / str(os.getpid())).write_text(f"{execution.threads} {sorted(os.sched_getaffinity(0))}")

        worker: Any = importlib.import_module("autotune.evaluation.latency.throughput")
        if not hasattr(worker.time, "now"):
            worker.time = Clock()

        def run(feeds: Feeds) -> tuple[Any, ...]:
            worker.time.now += model
            return (feeds["x"],)

        return run


def measure(folder: Path, models: list[float], **options: Any) -> Any:
    return measure_throughput(ScriptedAdapter(folder), models, BATCH, ThroughputOptions(**SHORT, **options))  # type: ignore[arg-type,type-var]  # as much of an adapter as is used


def test_samples_per_second_are_those_of_all_instances(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    instances = min(2, cores)
    slow, fast = measure(tmp_path, [0.02, 0.01], instances=instances)
    assert slow.samples_per_s == pytest.approx(instances * 4 / 0.02)
    assert fast.samples_per_s == pytest.approx(instances * 4 / 0.01)
    assert slow.low <= slow.samples_per_s <= slow.high
    assert slow.pinned
    own = sorted(file.read_text() for file in tmp_path.iterdir())
    assert own == [f"1 [{core}]" for core in sorted(os.sched_getaffinity(0))[:instances]]


def test_a_model_that_the_framework_refuses_is_an_error_here(tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match="no such kernel"):
        measure(tmp_path, [-1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instances": 0}, "`instances >= 1`"),
        ({"window_s": 0.0}, "`window_s > 0`"),
        ({"instances": 4096}, "must not exceed the .* cores"),
    ],
)
def test_options_state_their_rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ThroughputOptions(**options)


def test_throughput_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one model"):
        measure(tmp_path, [])
