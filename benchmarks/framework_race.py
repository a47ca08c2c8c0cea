"""The comparison of ``tune`` with a framework's own post-training tool; a part of ``frameworks_NAME.py``."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from shared import SUBJECTS, Batches, Subject, argument_parser, print_table
from tuning import loss_interval

import autotune
from autotune.adapter import Execution, given_model
from autotune.adapters import get_adapter
from autotune.evaluation import LatencyOptions, race_latency

TARGET = 0.01
SESSIONS = 5
"""Races of which the speed is the median."""

FP32, OURS, PEER = "fp32", "autotune", "peer"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of a framework, and what its own tool made of it.

    Attributes:
        fp32: The model's file.
        peer: The file that the tool wrote.
        seconds: Wall seconds that the tool took.
        calibration: Batches that both calibrate on.
        evaluation: Batches with labels that accuracy is measured on.
    """

    fp32: Path
    peer: Path
    seconds: float
    calibration: Batches
    evaluation: Batches


Enter = Callable[[Subject, argparse.Namespace, Path], Entry]
"""Makes the files of a model in a folder."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that the scripts of all frameworks share."""
    found = argument_parser(description)
    found.add_argument("subjects", nargs="*", default=list(SUBJECTS), help=f"of {list(SUBJECTS)}")
    found.add_argument("--images", type=int, default=5000)
    found.add_argument("--calibration", type=int, default=200)
    found.add_argument("--trials", type=int, default=8)
    found.add_argument("--batches", type=int, nargs="*", default=[1, 16])
    found.add_argument("--seconds", type=float, default=30.0, help="of all races of a model, at most")
    return found


def compare(framework: str, enter: Enter, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of all models and batch sizes, as ``frameworks.py`` describes them; each is printed as it is made."""
    rows = []
    for name in options.subjects:
        with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
            rows += _of_model(framework, SUBJECTS[name], enter(SUBJECTS[name], options, Path(folder)), options)
    return rows


def _of_model(framework: str, subject: Subject, entry: Entry, options: argparse.Namespace) -> list[dict[str, Any]]:
    adapter = get_adapter(framework)
    right: dict[str, npt.NDArray[np.bool_]] = {}
    evaluated: dict[str, float] = {}
    rows = []
    for batch in options.batches:
        result, seconds = _tuned(framework, entry, batch, options)
        answer = result.save(entry.fp32.with_name(f"{OURS}-{batch}{adapter.suffix}"))
        make = {way: partial(_runner, adapter, path) for way, path in _files(entry, answer).items()}
        feed = adapter.load(entry.fp32).inputs[0].name
        right = {way: found for way, found in right.items() if way != OURS}
        for way in [way for way in make if way not in right]:
            began = time.perf_counter()
            right[way] = _correct(make[way](), feed, entry.evaluation)
            evaluated[way] = time.perf_counter() - began
        took = {FP32: 0.0, OURS: seconds, PEER: entry.seconds}
        least = {OURS: evaluated[FP32] + evaluated[OURS]}
        found = _race(batch, make, {feed: _first(entry.evaluation, batch)}, right, options)
        for row in found:
            row.update(model=subject.name, depthwise=subject.name != "resnet20", seconds=took[row["way"]])
            row["evaluation_seconds"] = least.get(row["way"], 0.0)
            row.update(_answer(result) if row["way"] == OURS else {"verdict": None, "ops": "", "note": ""})
        show(found)
        rows += found
    return rows


def _files(entry: Entry, answer: Path) -> dict[str, Path]:
    """By way: the file that is timed and scored."""
    return {FP32: entry.fp32, OURS: answer, PEER: entry.peer}


def _runner(adapter: Any, path: Path) -> Any:
    """The model as the file has it, on one thread."""
    return adapter.runner(given_model(adapter, adapter.load(path)), Execution(threads=1))


def _tuned(
    framework: str, entry: Entry, batch: int, options: argparse.Namespace
) -> tuple[autotune.TuningResult, float]:
    """The result, and its wall seconds."""
    tuner = autotune.Tuner(
        framework=framework,
        criterion=autotune.Criterion(relative=TARGET),
        seed=options.seed,
        threads=1,
        batch_size=batch,
        sampling_size=options.calibration,
        max_trials=options.trials,
    )
    began = time.perf_counter()
    result = tuner.tune(entry.fp32, entry.calibration, metric="topk", eval_dataloader=entry.evaluation)
    return result, time.perf_counter() - began


def _correct(run: Any, feed: str, evaluation: Batches) -> npt.NDArray[np.bool_]:
    """By image: whether a model is right."""
    return np.concatenate([run({feed: images})[0].argmax(1) == labels for images, labels in evaluation])


def _first(evaluation: Batches, batch: int) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(evaluation[0][0][:batch])


def _race(
    batch: int,
    make: Mapping[str, Callable[[], Any]],
    feeds: Mapping[str, Any],
    right: Mapping[str, npt.NDArray[np.bool_]],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Accuracy, loss and speed of each way.

    The speeds are medians of interleaved races in this process, each with the models made anew: where a framework
    places a model's memory is luck, which was seen to be worth 10 %.
    """
    speeds: dict[str, list[float]] = {way: [] for way in make}
    milliseconds: dict[str, list[float]] = {way: [] for way in make}
    for session in range(SESSIONS):
        calls = {way: call(runner(), feeds) for way, runner in make.items()}
        for way, speed in race(calls, options.seconds / SESSIONS, options.seed + session).items():
            speeds[way].append(speed)
            milliseconds[way].append(_median_ms(calls[way]))
    rows = []
    for way in make:
        loss, half, accuracy = loss_interval(right[FP32], right[way])
        rows.append(
            {
                "batch": batch,
                "threads": 1,
                "way": way,
                "images": len(right[way]),
                "accuracy": accuracy,
                "relative_loss": float(loss),
                "loss_half_width": float(half),
                "latency_ms": float(np.median(milliseconds[way])),
                "speedup": float(np.median(speeds[way])),
            }
        )
    return rows


def race(calls: Mapping[str, Callable[[], object]], seconds: float, seed: int) -> dict[str, float]:
    """By name: the speed over the first one, from one interleaved race."""
    first, *others = calls.values()
    latency = LatencyOptions(interval_width=0.01, max_pairs=3000, min_pairs=100, max_seconds=seconds)
    found = race_latency(first, others, latency, seed=seed)
    return dict(zip(calls, (1.0, *map(float, found.speedups)), strict=True))


def call(runner: Any, feeds: Mapping[str, Any]) -> Callable[[], object]:
    """One inference, to be timed."""
    return lambda: runner(feeds)


def _median_ms(call: Callable[[], object], calls: int = 50) -> float:
    """The median of single calls, in milliseconds; speeds are of the race."""
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1e3 * float(np.median(seconds))


def _answer(result: autotune.TuningResult) -> dict[str, Any]:
    """Columns of a row about a run's answer."""
    ops = Counter(str(choice.precision) for choice in result.best.config.ops.values())
    said = ", ".join(f"{count} {precision}" for precision, count in ops.items())
    return {
        "verdict": str(result.verdict),
        "ops": said if set(ops) - {FP32} else FP32,
        "note": f"{len(result.history) - 1} trials; {result.end_reason}",
    }


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows."""
    cells = [
        [
            row["model"],
            row["batch"],
            row["way"],
            f"{row['accuracy']:.2%}",
            f"{row['relative_loss']:+.2%} ± {row['loss_half_width']:.2%}",
            f"{row['speedup']:.2f}x",
            f"{row['seconds']:.1f}",
            f"{row['evaluation_seconds']:.1f}" if row["evaluation_seconds"] else "",
            row["ops"],
            row["note"],
        ]
        for row in rows
    ]
    print()
    print_table(["model", "batch", "way", "top-1", "relative loss", "over fp32", "s", "evaluations", "ops", ""], cells)
