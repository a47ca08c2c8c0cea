"""Throughput: several instances of a model at once, each in a process with cores of its own.

Latency says how long one caller waits; a server runs as many instances as its cores carry. Models take turns in windows
of wall time that all processes share, so that what slows the machine slows all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cloudpickle
import numpy as np
from loky import ProcessPoolExecutor

from autotune.adapter import Adapter, Execution, Feeds, ModelT, Runner
from autotune.atomic import replacing
from autotune.bounds import require_least
from autotune.cores import usable_cores
from autotune.errors import InputError
from autotune.evaluation.lifeline import NO_RECYCLING, follow
from autotune.notes import counted
from autotune.owned_folder import OwnedFolder
from autotune.pickling import pickled

_POLL_S = 0.01
_HEADSTART_S = 0.1
"""Seconds between the moment when all are ready and the first window: more than a poll."""

_Windows: TypeAlias = list[list[float]]


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions:
    """How throughput is measured.

    Attributes:
        instances: Processes that run a model at the same time.
        cores_per_instance: Cores, and threads of one call, that each has.
        batch_size: Samples in one call.
        warmup: Calls of each model in each process before the first that counts.
        window_s: Seconds for which one model runs before the next one's turn.
        rounds: Turns of each model.
    """

    instances: int = 1
    cores_per_instance: int = 1
    batch_size: int = 1
    warmup: int = 10
    window_s: float = 0.5
    rounds: int = 5

    def __post_init__(self) -> None:
        require_least(1, InputError, instances=self.instances, cores_per_instance=self.cores_per_instance)
        require_least(1, InputError, batch_size=self.batch_size, rounds=self.rounds)
        require_least(0, InputError, warmup=self.warmup)
        if not self.window_s > 0:
            raise InputError(f"`window_s > 0` must hold, but got {self.window_s}")
        available = len(usable_cores())
        if self.instances * self.cores_per_instance > available:
            raise InputError(
                f"`instances * cores_per_instance` must not exceed the {counted(available, 'core')} "
                f"that this process may use, "
                f"but got {self.instances} x {self.cores_per_instance}: instances would wait for each other"
            )


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """The throughput of all instances of one model together.

    Attributes:
        samples_per_s: Samples per second of all instances, the median over rounds.
        low: The slowest round.
        high: The fastest round.
        pinned: Whether each instance had cores of its own; systems without ``sched_setaffinity`` cannot give them.
    """

    samples_per_s: float
    low: float
    high: float
    pinned: bool


def measure_throughput(
    adapter: Adapter[ModelT], models: Sequence[ModelT], feeds: Feeds, options: ThroughputOptions
) -> list[Throughput]:
    """Run ``instances`` processes, each with every model, and count what they get done.

    Args:
        adapter: Makes the models ready to run.
        models: Are run in turn.
        feeds: One batch of ``batch_size`` samples.
        options: Instances, cores, time.

    Returns:
        By model.

    Raises:
        ApplyError: The framework refuses a model.
    """
    if not models:
        raise InputError("Throughput needs at least one model, but got none")
    cores = usable_cores()
    pinned = hasattr(os, "sched_setaffinity")
    payload = pickled(
        (adapter, list(models), feeds, options),
        {"the adapter": adapter, "every model": list(models), "the batch": feeds},
        why="Each instance is a process of its own, which gets a copy",
        way_out="measure latency alone",
        error=InputError,
    )
    with OwnedFolder() as folder:
        executor = ProcessPoolExecutor(
            max_workers=options.instances, timeout=None, initializer=follow, initargs=(os.getpid(),), env=NO_RECYCLING
        )
        try:
            futures = [
                executor.submit(_instance, payload, folder, index, _share(cores, index, options) if pinned else [])
                for index in range(options.instances)
            ]
            # A task keeps its process until the end, so that each of them has one of its own.
            while not all((Path(folder) / f"ready-{index}").exists() for index in range(options.instances)):
                for future in futures:
                    if future.done():
                        future.result()
                time.sleep(_POLL_S)
            _publish(Path(folder) / "start", str(time.time() + _HEADSTART_S))
            rates = np.array([future.result() for future in futures])
        finally:
            executor.shutdown(wait=True, kill_workers=True)
    totals = rates.sum(axis=0)
    return [
        Throughput(
            samples_per_s=float(np.median(rounds)), low=float(rounds.min()), high=float(rounds.max()), pinned=pinned
        )
        for rounds in totals
    ]


def _share(cores: Sequence[int], index: int, options: ThroughputOptions) -> list[int]:
    first = index * options.cores_per_instance
    return list(cores[first : first + options.cores_per_instance])


def _publish(path: Path, text: str) -> None:
    with replacing(path, durable=False) as temporary:
        temporary.write_text(text)


def _instance(payload: bytes, folder: str, index: int, cores: Sequence[int]) -> _Windows:
    """Run one process, and return samples per second by model, by round."""
    if cores:
        os.sched_setaffinity(0, cores)  # before the framework counts its cores and starts threads
    adapter, models, feeds, options = cloudpickle.loads(payload)
    execution = Execution(threads=options.cores_per_instance)
    runners: list[Runner] = [adapter.runner(model, execution) for model in models]
    for runner in runners:
        for _ in range(max(1, options.warmup)):
            runner(feeds)
    _publish(Path(folder) / f"ready-{index}", "")
    start = Path(folder) / "start"
    while not start.exists():
        time.sleep(_POLL_S)
    return _run_windows(runners, feeds, options, float(start.read_text()))


def _run_windows(runners: Sequence[Runner], feeds: Any, options: ThroughputOptions, begin: float) -> _Windows:
    rates: _Windows = [[] for _ in runners]
    for turn in range(options.rounds * len(runners)):
        model = turn % len(runners)
        opens = begin + turn * options.window_s
        # Windows are told by the wall clock, which all processes share; what happens inside of one is timed steadily.
        time.sleep(max(0.0, opens - time.time()))
        started, calls = time.perf_counter(), 0
        while calls == 0 or time.time() < opens + options.window_s:
            runners[model](feeds)
            calls += 1
        rates[model].append(calls * options.batch_size / (time.perf_counter() - started))
    return rates
