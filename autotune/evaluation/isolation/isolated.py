"""Trials in a worker process: a crash, a hang or a flood of memory ends the trial and not the search."""

from __future__ import annotations

import os
import re
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Self, TypeAlias

import psutil
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool

from autotune.adapter import Adapter, Feeds, ModelT
from autotune.arguments import check_fields
from autotune.criterion import Criterion
from autotune.errors import DeadlineReached, InputError, TrialError
from autotune.evaluation.accuracy.score import Progress
from autotune.evaluation.accuracy.sources import LabelledData, UserFunction
from autotune.evaluation.compiling import evaluator_of
from autotune.evaluation.evaluator import Evaluator
from autotune.evaluation.isolation import worker
from autotune.evaluation.latency import LatencyOptions, RaceResult
from autotune.evaluation.lifeline import NO_RECYCLING
from autotune.evaluation.measured import Evaluation
from autotune.owned_folder import OwnedFolder
from autotune.pickling import pickled
from autotune.trial import Measurement

_SENT = {
    "source": "`eval_fn`, or what the metrics and the evaluation data are,",
    "adapter": "the adapter",
    "model": "the model as the adapter holds it",
    "feeds": "the batch that latency is measured on",
}
"""Objects that a worker gets a copy of once, by what users call them. A candidate is sent with each trial."""
_WHY = 'With isolation="process" a worker process gets a copy of it'
_WAY_OUT = 'go without workers (isolation="none")'

_POLL_S = 0.05
_GRACE_S = 5.0
"""Seconds after the run's deadline that a worker has to notice it by itself."""
_FREE_SHARE = 0.9
_MIB = 2**20


class Isolation(StrEnum):
    """The process in which candidates run."""

    NONE = "none"
    """Candidates run in this process: nothing to start, and a crash in native code ends the run."""
    PROCESS = "process"
    """Candidates run in a worker process: a crash, a hang or a flood of memory ends the trial, not the run."""


@dataclass(frozen=True, kw_only=True)
class IsolationOptions:
    """Limits of a trial.

    Attributes:
        trial_timeout_s: Seconds after which a trial fails; None sets no limit.
        trial_memory_bytes: Resident memory of the worker at which a trial fails, native allocations included; None:
            nine tenths of what was free when the worker started.
    """

    trial_timeout_s: float | None = None
    trial_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, InputError)
        for name in ("trial_timeout_s", "trial_memory_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"`{name} > 0` must hold, but got {value}; None sets no limit")


class IsolatedEvaluator(Generic[ModelT]):
    """An :class:`Evaluator` whose candidates run in a worker process of their own.

    The fp32 baseline and the race of finalists run in this process: a bug in ``eval_fn`` surfaces with the user's own
    traceback, and finalists have proven harmless. The worker lives from trial to trial and is replaced when it dies.
    Models, the evaluation source and its data travel by cloudpickle, so that closures and notebook functions work.
    Latency in the worker is as in this process (``benchmarks/isolation.py``).

    Args:
        isolation: Limits of a trial.
        adapter: See :class:`Evaluator`, as for all that follow.
        model: The fp32 model.
        source: Source of the accuracy: a user's function, or metrics over data.
        criterion: The accuracy target.
        latency: How latency is measured.
        feeds: One batch for latency, or several of different shapes.
        seed: Seed of every random choice.
        cache: Folder for the fp32 model's records; None: a temporary one, which the worker shares.
        on_progress: Called with the number of samples that an accuracy evaluation has seen.
    """

    def __init__(
        self,
        *,
        isolation: IsolationOptions,
        adapter: Adapter[ModelT],
        model: ModelT,
        source: UserFunction | LabelledData,
        criterion: Criterion,
        latency: LatencyOptions,
        feeds: Feeds | Sequence[Feeds],
        seed: int,
        cache: Path | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self._isolation = isolation
        self._folder = OwnedFolder()
        self._setup_path = Path(self._folder.name) / "setup.pickle"
        self._progress: Progress = on_progress or (lambda _done, _total: None)
        self._setup: dict[str, Any] = {
            "adapter": adapter,
            "model": model,
            "source": source,
            "criterion": criterion,
            "latency": latency,
            "feeds": feeds,
            "seed": seed,
            "cache": cache or Path(self._folder.name),
        }
        self._model = model
        self._local: Evaluator[ModelT] = evaluator_of(**self._setup, on_progress=on_progress)
        self._baseline: Measurement | None = None
        self._pool: _Pool | None = None

    def baseline(self, *, deadline: float | None = None) -> Measurement:
        """Measure the fp32 model in this process, and its memory in the worker; see :meth:`Evaluator.baseline`."""
        self._check()
        self._baseline = self._local.baseline(deadline=deadline)
        try:
            return self.complete_baseline(self._baseline, deadline=deadline)
        except DeadlineReached:
            return self._baseline  # what its accuracy took must not be spent again

    def complete_baseline(self, measured: Measurement, *, deadline: float | None = None) -> Measurement:
        """Measure what the deadline of an earlier run cut off; see :meth:`Evaluator.complete_baseline`."""
        self._baseline = self._local.complete_baseline(measured, deadline=deadline)
        if self._baseline.peak_memory_bytes is None:
            peak: int = self._run(worker.peak_memory, self._model, deadline=deadline)
            self._baseline = worker.with_peak(self._baseline, peak)
        return self._baseline

    def resume(self, baseline: Measurement, *, deadline: float | None = None) -> None:
        """Take the fp32 model's figures from an earlier run; see :meth:`Evaluator.resume`."""
        self._check()
        self._local.resume(baseline, deadline=deadline)
        self._baseline = baseline

    def _check(self) -> None:
        """Write down what the worker starts with, before anything is measured that would be lost.

        Raises:
            InputError: A part of it cannot be sent to another process.
        """
        if not self._setup_path.exists():
            parts = {what: self._setup[name] for name, what in _SENT.items()}
            payload = pickled(self._setup, parts, why=_WHY, way_out=_WAY_OUT, error=InputError)
            self._setup_path.write_bytes(payload)

    def prepare(self, *, deadline: float | None = None) -> None:
        """Start the worker where there is none, so that no trial is charged for it; called before each trial.

        Raises:
            InputError: A worker cannot load the fp32 model and the data within what a trial may take.
            DeadlineReached: The deadline passed.
        """
        self._require_baseline()
        if self._pool is not None:
            return
        try:
            with self._watched():
                self._pool = _Pool(Path(self._folder.name), self._setup_path, self._isolation)
                self._result(worker.prepare, b"", deadline, None)
        except DeadlineReached:
            raise
        except TrialError as error:
            self._drop()
            raise InputError(
                "A worker process must be able to load the fp32 model and the evaluation data before any trial, but: "
                f'{error}. Give it more (`trial_memory_bytes`), or go without workers (`isolation="none"`)'
            ) from error

    def evaluate(
        self,
        candidate: ModelT,
        *,
        incumbent: Measurement | None = None,
        needs_accuracy: bool = False,
        rank: int = 1,
        worth_from: float | None = None,
        deadline: float | None = None,
    ) -> Evaluation:
        """Measure a candidate in the worker; see :meth:`Evaluator.evaluate`.

        Raises:
            TrialError: As in the other evaluator, and where the worker died or exceeded the time or memory of a trial.
            DeadlineReached: The deadline passed.
        """
        asked = (incumbent, needs_accuracy, rank, worth_from)
        result: Evaluation = self._run(worker.evaluate, candidate, *asked, deadline=deadline)
        return result

    def speed_of(self, candidate: ModelT, *, deadline: float | None = None) -> Measurement:
        """Time a candidate in the worker; see :meth:`Evaluator.speed_of`."""
        result: Measurement = self._run(worker.speed_of, candidate, deadline=deadline)
        return result

    def complete(self, candidate: ModelT, measured: Measurement, *, deadline: float | None = None) -> Measurement:
        """See the samples that an early accepted candidate was spared; see :meth:`Evaluator.complete`."""
        result: Measurement = self._run(worker.complete, candidate, measured, deadline=deadline)
        return result

    def holdout(self, candidate: ModelT, *, rank: int = 1, deadline: float | None = None) -> Measurement | None:
        """Measure a candidate on data that the search never saw; see :meth:`Evaluator.holdout`."""
        if not self._local.holds_out:
            return None
        result: Measurement | None = self._run(worker.holdout, candidate, rank, deadline=deadline)
        return result

    def race(self, finalists: Sequence[ModelT], *, deadline: float | None = None) -> RaceResult:
        """Run finalists against each other in this process; see :meth:`Evaluator.race`."""
        return self._local.race(finalists, deadline=deadline)

    @property
    def data_fingerprint(self) -> str | None:
        """A hash of the evaluation data; see :attr:`Evaluator.data_fingerprint`."""
        return self._local.data_fingerprint

    def close(self) -> None:
        """End the worker and drop what was kept for it."""
        self._drop()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, task: Callable[..., Any], *arguments: object, deadline: float | None) -> Any:
        """Run one task of :mod:`autotune.evaluation.isolation.worker` and watch over it."""
        self.prepare(deadline=deadline)
        with self._watched():
            parts = {f"the {type(each).__name__} of a trial": each for each in arguments}
            payload = pickled(arguments, parts, why=_WHY, way_out=_WAY_OUT, error=TrialError)
            return self._result(task, payload, deadline, self._isolation.trial_timeout_s)

    def _require_baseline(self) -> None:
        if self._baseline is None:
            raise RuntimeError("baseline() or resume() must be called before a candidate is measured")

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Discard a worker that was ended, or whose task was interrupted by an exception in this process."""
        try:
            yield
        except TrialError:
            if self._pool is not None and self._pool.killed:
                self._drop()
            raise
        except BaseException:
            # Any exception in this process, Ctrl-C included: the worker may still be running a task.
            self._drop()
            raise

    def _result(self, task: Callable[..., Any], payload: bytes, deadline: float | None, limit: float | None) -> Any:
        assert self._pool is not None
        left = None if deadline is None else deadline - time.monotonic()
        future = self._pool.submit(task, payload, self._baseline, left)
        outcome = self._pool.watch(future, deadline, limit, self._progress)
        if isinstance(outcome, worker.Failure):
            raise outcome.error
        return outcome

    def _drop(self) -> None:
        if self._pool is not None:
            self._pool.kill()
            self._pool = None


AnyEvaluator: TypeAlias = Evaluator[ModelT] | IsolatedEvaluator[ModelT]
"""The evaluators that a run can measure its candidates with."""


class _Pool:
    """One loky worker, its process watched."""

    def __init__(self, folder: Path, setup: Path, options: IsolationOptions) -> None:
        self._limit = options.trial_memory_bytes or int(psutil.virtual_memory().available * _FREE_SHARE)
        self._setup_path = setup
        self._progress_path = folder / "progress"
        self._progress_path.write_bytes(bytes(worker.PROGRESS_BYTES))
        # A worker that sits idle between trials must not retire: its sessions and data are what makes trials cheap.
        # Nor is it replaced for the memory that it keeps, as loky would from 300 MB on: memory is watched here.
        self._executor = ProcessPoolExecutor(
            max_workers=1, timeout=None, initializer=worker.start, initargs=(os.getpid(),), env=NO_RECYCLING
        )
        self._process = psutil.Process(self._executor.submit(worker.pid).result())
        self.killed = False
        self._finalizer = weakref.finalize(self, _kill_tree, self._process)

    def submit(
        self, task: Callable[..., Any], payload: bytes, baseline: Measurement | None, left: float | None
    ) -> Future[Any]:
        """Hand a task to the worker."""
        future: Future[Any] = self._executor.submit(
            task, str(self._setup_path), str(self._progress_path), payload, baseline, left
        )
        return future

    def watch(self, future: Future[Any], deadline: float | None, limit: float | None, progress: Progress) -> Any:
        """Wait for a task, within its time and memory.

        Raises:
            TrialError: The worker died, or took more than a trial may.
            DeadlineReached: The run's time is over and the worker did not notice.
        """
        started, told = time.monotonic(), (0, 0)
        while True:
            try:
                return future.result(timeout=_POLL_S)
            except TimeoutError:
                pass
            except BrokenProcessPool as error:
                self.killed = True
                raise TrialError(f"The worker process died{_cause(error)}") from None
            told = self._report(progress, told)
            self._check_memory()
            now = time.monotonic()
            if limit is not None and now - started > limit:
                self.kill()
                raise TrialError(f"The trial took longer than trial_timeout_s={limit:g} and was ended")
            if deadline is not None and now > deadline + _GRACE_S:
                self.kill()
                raise DeadlineReached("The time given to the run ended inside this trial, which had to be ended")

    def _check_memory(self) -> None:
        try:
            used = self._process.memory_info().rss
        except psutil.NoSuchProcess:
            return
        if used > self._limit:
            self.kill()
            raise TrialError(
                f"The trial used {used // _MIB:,} MiB of memory, more than the {self._limit // _MIB:,} MiB of "
                "trial_memory_bytes, and was ended"
            )

    def _report(self, progress: Progress, told: tuple[int, int]) -> tuple[int, int]:
        current = worker.read_progress(self._progress_path)
        if current != told and current[0] > 0:
            progress(current[0], current[1] or None)
        return current

    def kill(self) -> None:
        """End the worker at once, with what it may have started."""
        self.killed = True
        self._finalizer()
        self._executor.shutdown(wait=True, kill_workers=True)


def _kill_tree(process: psutil.Process) -> None:
    try:
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def _cause(error: BaseException) -> str:
    """The signal or exit code that loky names at the end of its message."""
    found = re.search(r"\{([^{}]+)\}", str(error))
    return f": {found.group(1)}" if found else ""
