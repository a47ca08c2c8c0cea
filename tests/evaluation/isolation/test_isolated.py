from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest

from autotune.adapter import Array
from autotune.criterion import Criterion, Verdict
from autotune.errors import DeadlineReached, InputError, OutputError, TrialError
from autotune.evaluation import Evaluator, LabelledData, LatencyOptions, UserFunction, create_metric
from autotune.evaluation.isolation.isolated import IsolatedEvaluator, IsolationOptions
from autotune.trial import Measurement

MIB = 2**20
ROOM = 256 * MIB
"""Memory that a trial may take beyond a worker at rest. How much that is depends on the packages of the interpreter."""
TIMEOUT_S = 3600.0
"""No machine is as busy: a trial that hangs turns the clock on."""
CRASH, HANG, FLOOD, QUIT = 10.0, 20.0, 30.0, 40.0
"""Candidates whose every output is this number bring about a fault in ``eval_fn``."""


def planted(inputs: Array, labels: Array, hanging: Path) -> Callable[[Callable[[object], Array]], float]:
    def eval_fn(model: Callable[[object], Array]) -> float:
        import ctypes  # noqa: PLC0415
        import time as clock  # noqa: PLC0415

        fault = float(model(np.ones((1, inputs.shape[1]), np.float32))[0, 0])
        if fault == CRASH:
            ctypes.string_at(0)
        if fault == HANG:
            hanging.touch()
            while True:
                clock.sleep(0.01)
        if fault == FLOOD:
            kept = []
            while True:
                kept.append(np.ones(MIB))
                clock.sleep(0.01)  # not faster than a busy machine can watch
        if fault == QUIT:
            raise SystemExit(3)
        return float((model(inputs).argmax(1) == labels).mean())

    return eval_fn


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that a trial makes before it hangs."""
    return tmp_path_factory.mktemp("isolation") / "hanging"


@pytest.fixture(scope="module", autouse=True)
def scripted_clock(hanging: Path) -> Iterator[None]:
    """The clock that watches trials sees an hour and more pass once a trial hangs, and no time out of a busy
    machine."""

    def monotonic() -> float:
        return time.monotonic() + (2 * TIMEOUT_S if hanging.exists() else 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autotune.evaluation.isolation.isolated.time", SimpleNamespace(monotonic=monotonic))
        yield


@pytest.fixture(scope="module")
def settings(problem: Any, hanging: Path) -> dict[str, Any]:
    return {
        "model": problem.model,
        "source": UserFunction(function=planted(problem.inputs, problem.labels, hanging)),
        "criterion": Criterion(relative=0.05),
        "latency": LatencyOptions(warmup=2, min_pairs=10, max_pairs=15),
        "feeds": {"x": problem.inputs[:1]},
        "seed": 0,
    }


@pytest.fixture(scope="module")
def isolated(settings: dict[str, Any], problem: Any) -> Iterator[IsolatedEvaluator[Any]]:
    from_here = sys.modules[type(problem).__module__]
    # The worker cannot import a conftest.
    cloudpickle.register_pickle_by_value(from_here)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    adapter = from_here.NumpyAdapter()
    with IsolatedEvaluator(isolation=IsolationOptions(), adapter=adapter, **settings) as unlimited:
        at_rest = unlimited.baseline().peak_memory_bytes
    assert at_rest is not None
    options = IsolationOptions(trial_timeout_s=TIMEOUT_S, trial_memory_bytes=at_rest + ROOM)
    with IsolatedEvaluator(isolation=options, adapter=adapter, **settings) as evaluator:
        evaluator.baseline()
        yield evaluator


def test_a_worker_finds_what_this_process_finds(
    isolated: IsolatedEvaluator[Any], settings: dict[str, Any], adapter: Any, problem: Any
) -> None:
    local: Evaluator[Any] = Evaluator(adapter=adapter, **settings)
    local.baseline()
    candidate = problem.disturbed(0.2)
    here, there = local.evaluate(candidate).measurement, isolated.evaluate(candidate).measurement
    assert (here.accuracy, here.loss, here.size_bytes) == (there.accuracy, there.loss, there.size_bytes)
    assert there.peak_memory_bytes is not None
    baseline = isolated.baseline().peak_memory_bytes
    assert baseline is not None
    assert MIB < there.peak_memory_bytes < baseline + ROOM


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (CRASH, "worker process died.*SIGSEGV"),
        (HANG, "longer than trial_timeout_s=3600"),
        (FLOOD, r"used [\d,]+ MiB of memory, more than the [\d,]+ MiB of trial_memory_bytes"),
        (QUIT, r"SystemExit\(3\)"),
    ],
)
def test_a_fault_fails_the_trial(isolated: IsolatedEvaluator[Any], problem: Any, fault: float, reason: str) -> None:
    with pytest.raises(TrialError, match=reason):
        isolated.evaluate(problem.constant(fault))


def test_the_worker_was_replaced(isolated: IsolatedEvaluator[Any], problem: Any) -> None:
    assert isolated.evaluate(problem.model).measurement.verdict is Verdict.MET


def test_errors_keep_their_kind_and_their_message(isolated: IsolatedEvaluator[Any], problem: Any) -> None:
    with pytest.raises(OutputError, match="'logits' must be finite") as caught:
        isolated.evaluate(problem.disturbed(float("nan")))
    assert caught.value.__cause__ is None


def test_a_resumed_run_needs_no_baseline(isolated: IsolatedEvaluator[Any], problem: Any) -> None:
    baseline = isolated.baseline()
    isolated.resume(baseline)
    assert isolated.evaluate(problem.model).measurement.loss == 0.0


def test_a_deadline_ends_a_hanging_trial(isolated: IsolatedEvaluator[Any], problem: Any) -> None:
    with pytest.raises(DeadlineReached):
        isolated.evaluate(problem.model, deadline=time.monotonic() - 1)
    assert isolated.evaluate(problem.model).measurement.verdict is Verdict.MET


def test_labelled_data_holdout_and_progress_reach_the_worker(
    settings: dict[str, Any], adapter: Any, problem: Any
) -> None:
    told: list[tuple[int, int | None]] = []
    source = LabelledData(loader=problem.batches(10), metrics=(create_metric("topk"),), holdout=0.5)
    options = {**settings, "source": source}
    with IsolatedEvaluator(
        isolation=IsolationOptions(), adapter=adapter, on_progress=lambda *done: told.append(done), **options
    ) as evaluator:
        baseline = evaluator.baseline()
        assert baseline.peak_memory_bytes is not None
        assert told[-1] == (300, 300)
        final, third = evaluator.holdout(problem.model), evaluator.holdout(problem.model, rank=3)
        assert final is not None
        assert final.samples == 300
        assert final.loss_interval is not None
        assert third is not None
        assert third.loss_interval is not None
        assert third.loss_interval.confidence > final.loss_interval.confidence
        measured = evaluator.evaluate(problem.model, rank=4).measurement
        assert measured.rank == 4
        whole = evaluator.complete(problem.model, measured)
        assert (whole.samples, whole.rank) == (300, 4)
        assert evaluator.race([problem.model]).order == (0,)


class Bound:
    """A part that belongs to this process alone."""

    def __init__(self, part: Any) -> None:
        self._part, self._lock = part, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


@pytest.mark.parametrize(
    ("part", "named"), [("adapter", "the adapter"), ("model", "the model as the adapter holds it")]
)
def test_what_no_worker_can_have_is_named_before_anything_is_measured(
    settings: dict[str, Any], adapter: Any, part: str, named: str
) -> None:
    given = {**settings, "adapter": adapter}
    given[part] = Bound(given[part])
    with IsolatedEvaluator(isolation=IsolationOptions(), **given) as evaluator:
        for start in (evaluator.baseline, lambda: evaluator.resume(Measurement())):
            with pytest.raises(InputError) as caught:
                start()
            for piece in (f"so that {named} (a Bound) must be picklable", "lock", 'isolation="none"'):
                assert piece in str(caught.value)


def test_a_candidate_that_no_worker_can_have_fails_its_trial(isolated: IsolatedEvaluator[Any], problem: Any) -> None:
    with pytest.raises(TrialError, match=r"the Bound of a trial .* must be picklable"):
        isolated.evaluate(Bound(problem.disturbed(0.1)))


def test_limits_state_their_rules() -> None:
    with pytest.raises(InputError, match="trial_timeout_s > 0"):
        IsolationOptions(trial_timeout_s=0)
    with pytest.raises(InputError, match="trial_memory_bytes > 0"):
        IsolationOptions(trial_memory_bytes=-1)


@pytest.mark.usefixtures("isolated")  # which lets a worker have what a conftest defines
def test_what_a_worker_keeps_between_trials_is_no_leak(settings: dict[str, Any], problem: Any, tmp_path: Path) -> None:
    seen = tmp_path / "processes"

    def eval_fn(model: Callable[[object], Array]) -> float:
        import builtins  # noqa: PLC0415
        import os  # noqa: PLC0415
        import time as clock  # noqa: PLC0415

        builtins.kept = np.ones(400 * MIB // 8)  # type: ignore[attr-defined]  # as a framework's caches are
        with seen.open("a") as file:
            file.write(f"{os.getpid()}\n")
        clock.sleep(1.1)  # loky looks at a worker's memory once a second
        return float((model(problem.inputs).argmax(1) == problem.labels).mean())

    source = UserFunction(function=eval_fn)
    limits = IsolationOptions(trial_memory_bytes=4096 * MIB)
    options = {**settings, "source": source, "adapter": sys.modules[type(problem).__module__].NumpyAdapter()}
    with IsolatedEvaluator(isolation=limits, **options) as evaluator:
        evaluator.baseline()
        for noise in (0.1, 0.2, 0.3):
            evaluator.evaluate(problem.disturbed(noise), needs_accuracy=True)
    _, *workers = seen.read_text().split()
    assert len(workers) == 3
    assert len(set(workers)) == 1
