"""Tasks that run in the worker process of :mod:`autotune.evaluation.isolation.isolated`."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

from autotune.errors import AutotuneError, TrialError
from autotune.evaluation.compiling import evaluator_of
from autotune.evaluation.evaluator import Evaluator
from autotune.evaluation.lifeline import follow
from autotune.evaluation.measured import Evaluation
from autotune.trial import Measurement

_PROGRESS = struct.Struct("<qq")
PROGRESS_BYTES = _PROGRESS.size

_evaluators: dict[str, Evaluator[Any]] = {}
"""The evaluator of this process by the file it was made from: models and data are loaded once, not once per trial."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A task that failed. It is returned rather than raised, since causes and foreign types do not survive the way."""

    error: AutotuneError


def start(main_pid: int) -> None:
    """Prepare the process: Ctrl-C is for the main process, which ends this one or is followed by it when killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow(main_pid)


def pid() -> int:
    """The process id of the worker."""
    return os.getpid()


def prepare(setup: str, progress: str, payload: bytes, baseline: Measurement, left: float | None) -> object:  # noqa: ARG001
    """Load the fp32 model and the data, so that no trial pays for it; the payload is empty."""
    return _guarded(lambda _evaluator, _deadline: None, setup, progress, baseline, left)


def evaluate(setup: str, progress: str, payload: bytes, baseline: Measurement, left: float | None) -> object:
    """Measure a candidate; the payload is candidate and what :meth:`Evaluator.evaluate` is asked, in its order."""

    def task(evaluator: Evaluator[Any], deadline: float | None) -> Evaluation:
        candidate, incumbent, needs_accuracy, rank, worth_from = cloudpickle.loads(payload)
        peak = _peak(evaluator, candidate)
        found = evaluator.evaluate(
            candidate,
            incumbent=incumbent,
            needs_accuracy=needs_accuracy,
            rank=rank,
            worth_from=worth_from,
            deadline=deadline,
        )
        if found.compiled_s is not None:
            peak = _peak(evaluator, candidate)  # what ran before was no compiled model
        return dataclasses.replace(found, measurement=with_peak(found.measurement, peak))

    return _guarded(task, setup, progress, baseline, left)


def speed_of(setup: str, progress: str, payload: bytes, baseline: Measurement, left: float | None) -> object:
    """Time a candidate; the payload is the candidate."""

    def task(evaluator: Evaluator[Any], deadline: float | None) -> Measurement:
        (candidate,) = cloudpickle.loads(payload)
        return evaluator.speed_of(candidate, deadline=deadline)

    return _guarded(task, setup, progress, baseline, left)


def complete(setup: str, progress: str, payload: bytes, baseline: Measurement, left: float | None) -> object:
    """See the samples that an early accepted candidate was spared; the payload is candidate and measurement."""

    def task(evaluator: Evaluator[Any], deadline: float | None) -> Measurement:
        candidate, measured = cloudpickle.loads(payload)
        return evaluator.complete(candidate, measured, deadline=deadline)

    return _guarded(task, setup, progress, baseline, left)


def holdout(setup: str, progress: str, payload: bytes, baseline: Measurement, left: float | None) -> object:
    """Measure a candidate on what was held out; the payload is the candidate and its rank there."""

    def task(evaluator: Evaluator[Any], deadline: float | None) -> Measurement | None:
        candidate, rank = cloudpickle.loads(payload)
        return evaluator.holdout(candidate, rank=rank, deadline=deadline)

    return _guarded(task, setup, progress, baseline, left)


def peak_memory(setup: str, progress: str, payload: bytes, baseline: Measurement, left: float | None) -> object:
    """Peak memory of this process while a model is loaded and run; the payload is the model."""

    def task(evaluator: Evaluator[Any], deadline: float | None) -> int:  # noqa: ARG001
        (model,) = cloudpickle.loads(payload)
        return _peak(evaluator, model)

    return _guarded(task, setup, progress, baseline, left)


def with_peak(measured: Measurement, peak: int) -> Measurement:
    """The measurement with the peak memory in it."""
    return dataclasses.replace(measured, peak_memory_bytes=peak)


def read_progress(path: Path) -> tuple[int, int]:
    """Samples done, and of how many or 0."""
    done, total = _PROGRESS.unpack(path.read_bytes())
    return done, total


def write_progress(path: Path, done: int, total: int) -> None:
    """Say how many samples are done, and of how many or 0."""
    # In place and in one write: a reader sees these figures or those before, and never an empty file.
    with path.open("r+b", buffering=0) as file:
        file.write(_PROGRESS.pack(done, total))


def _guarded(
    task: Callable[[Evaluator[Any], float | None], object],
    setup: str,
    progress: str,
    baseline: Measurement,
    left: float | None,
) -> object:
    deadline = None if left is None else time.monotonic() + left
    try:
        return task(_evaluator(setup, progress, baseline, deadline), deadline)
    except AutotuneError as error:
        failure = type(error)(str(error))
        if isinstance(error, TrialError) and isinstance(failure, TrialError):
            failure.compiled_s = error.compiled_s
        return Failure(error=failure)
    except BaseException as error:
        # SystemExit from a user's function included: it would take the worker with it and leave no reason.
        return Failure(error=TrialError(f"{type(error).__name__}: {error}"))


def _evaluator(setup: str, progress: str, baseline: Measurement, deadline: float | None) -> Evaluator[Any]:
    if setup not in _evaluators:
        arguments = cloudpickle.loads(Path(setup).read_bytes())
        target = Path(progress)

        evaluator = evaluator_of(**arguments, on_progress=lambda done, total: write_progress(target, done, total or 0))
        evaluator.resume(baseline, deadline=deadline)
        _evaluators[setup] = evaluator
    write_progress(Path(progress), 0, 0)
    return _evaluators[setup]


def _peak(evaluator: Evaluator[Any], model: Any) -> int:
    """Peak resident memory in bytes while a model is loaded and runs the latency batch; equal work for every model.

    Memory of earlier trials is first handed back to the system, and the kernel's high-water mark reset.
    """
    evaluator.open_baseline()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    evaluator.run_once(model)
    return _high_water_mark()


def _high_water_mark() -> int:
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # Windows keeps a peak of the whole life of the process, others nothing but the present.
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))
