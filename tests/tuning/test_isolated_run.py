"""Runs whose candidates are evaluated in a worker process."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

import autotune
from autotune.criterion import Criterion
from autotune.evaluation.accuracy.metrics import SampleFunction
from autotune.evaluation.isolation import isolated as isolation
from autotune.trial import TrialState
from tests.numpy_framework import NumpyModel
from tests.tuning.cheap import CHEAP, TOLERANT

MIB = 2**20


def planted(
    images: Sequence[npt.NDArray[np.float32]], folder: Path, faults: dict[int, str]
) -> Callable[[Callable[[object], Any]], float]:
    """An eval_fn that scores the mean output, and at the n-th call of all processes does what ``faults`` says."""

    def eval_fn(model: Callable[[object], Any]) -> float:
        import ctypes  # noqa: PLC0415  a worker has no globals of this module
        import time  # noqa: PLC0415

        call = len([file for file in folder.iterdir() if file.name.isdigit()])
        (folder / str(call)).touch()
        fault = faults.get(call)
        if fault == "hang":
            (folder / "hanging").touch()
        if fault == "crash":
            ctypes.string_at(0)
        while fault == "hang":
            time.sleep(0.01)
        kept = []
        while fault == "flood":
            kept.append(np.ones(MIB))
            time.sleep(0.01)  # not faster than a busy machine can watch
        return 10.0 + float(np.mean([np.abs(model(batch)).mean() for batch in images]))

    return eval_fn


def test_a_crash_a_hang_and_a_flood_of_memory_fail_their_trials_and_not_the_search(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tune(name: str, faults: dict[int, str], **options: Any) -> autotune.TuningResult:
        (tmp_path / name).mkdir()
        tuner = autotune.Tuner(
            objective="size",
            strategy="random",
            max_trials=5,
            criterion=Criterion(relative=0.05),
            isolation="process",
            **CHEAP,
            **options,
        )
        return tuner.tune(network, images, planted(images, tmp_path / name, faults))

    # The clock of those who watch: a hang takes two hours, the start of a worker one, and a busy machine no time.
    hour, started = 3600.0, [0]
    hanging = tmp_path / "planted" / "hanging"
    monkeypatch.setattr(
        "autotune.evaluation.isolation.isolated.time",
        SimpleNamespace(monotonic=lambda: time.monotonic() + (2 * hour if hanging.exists() else 0.0)),
    )
    monkeypatch.setattr(
        "autotune.tuning.trying.time", SimpleNamespace(monotonic=lambda: time.monotonic() + started[0] * hour)
    )
    start = isolation._Pool.__init__

    def start_slowly(*arguments: Any) -> None:
        started[0] += 1
        start(*arguments)

    monkeypatch.setattr(isolation._Pool, "__init__", start_slowly)
    sound = tune("sound", {})
    peaks = [trial.measurement.peak_memory_bytes or 0 for trial in sound.history if trial.measurement is not None]
    limit = max(peaks) + 256 * MIB
    result = tune("planted", {1: "crash", 2: "hang", 4: "flood"}, trial_timeout_s=1.5 * hour, trial_memory_bytes=limit)
    assert [trial.config for trial in result.history] == [trial.config for trial in sound.history]
    reasons = {trial.number: trial.reason or "" for trial in result.history if trial.state is TrialState.FAILED}
    assert set(reasons) == {1, 2, 4}
    assert "worker process died: SIGSEGV" in reasons[1]
    assert "longer than trial_timeout_s=5400" in reasons[2]
    assert f"more than the {limit // MIB:,} MiB of trial_memory_bytes" in reasons[4]
    left = [trial for trial in sound.history if trial.number in (3, 5)]
    best = min(left, key=lambda trial: trial.measurement.size_bytes)  # type: ignore[union-attr,arg-type,return-value]  # measured
    assert result.best.config == best.config
    assert result.best.measurement is not None
    assert result.best.measurement.peak_memory_bytes is not None
    # The start of a new worker counts in no trial.
    assert started[0] >= 5
    assert all(trial.duration_s < hour for trial in result.history if trial.number and trial.duration_s is not None)
    assert not [
        child for child in psutil.Process().children(recursive=True) if "popen_loky" in " ".join(child.cmdline())
    ]
    assert not multiprocessing.active_children()


def test_ctrl_c_ends_the_worker_too(network: NumpyModel, images: Sequence[Any]) -> None:
    class Impatient(autotune.Observer):
        def progress(self, done: int, total: int | None) -> None:  # noqa: ARG002
            if started:
                raise KeyboardInterrupt

        def trial_started(self, number: int, config: Any, note: str) -> None:  # noqa: ARG002
            started.extend([number] if number else [])

    started: list[int] = []
    labelled = [(batch, np.zeros(len(batch), np.int64)) for batch in images]
    tuner = autotune.Tuner(
        objective="size",
        strategy="random",
        isolation="process",
        observer=Impatient(),
        early_stopping=False,
        criterion=TOLERANT,
        **CHEAP,
    )
    result = tuner.tune(network, images, metric=_slow_metric(), eval_dataloader=labelled)
    assert result.interrupted
    assert not [
        child for child in psutil.Process().children(recursive=True) if "popen_loky" in " ".join(child.cmdline())
    ]


def _slow_metric() -> SampleFunction:
    def score(outputs: Any, labels: Any) -> Any:  # noqa: ARG001
        import time  # noqa: PLC0415

        time.sleep(0.3)
        return outputs.mean(axis=1) * 0 + 1.0

    return SampleFunction(score)


def test_memory_as_the_objective(network: NumpyModel, images: Sequence[Any], score: Any) -> None:
    def constant(model: Callable[[object], Any]) -> float:  # noqa: ARG001
        return 1.0

    result = autotune.Tuner(objective="memory", isolation="process", strategy="random", max_trials=1, **CHEAP).tune(
        network, images, constant
    )
    peaks = [trial.measurement.peak_memory_bytes for trial in result.history if trial.measurement is not None]
    assert all(peak is not None and peak > 20 * MIB for peak in peaks)
    assert score.calls == 0
