"""``tune`` over ONNX Runtime and OpenVINO at once, beside ``tune`` on each alone, in one run.

Run from the root of the repository: ``python benchmarks/across.py --json result.json``, and with
``--minilm FOLDER`` also on the sentence classifier that ``minilm.py`` made there. Prints for each model the loss over
all evaluation samples, the speed over fp32 from one race of all answers in one process, the seconds that each run took,
and the speed of the run over both relative to the better of the others, which must not be below 0.97. Every answer is
loaded from its file for the race.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from shared import SUBJECTS, Subject, argument_parser, existing, print_table, write_result

import autotune
from autotune.adapters import get_adapter
from autotune.evaluation import LatencyOptions, race_latency
from autotune.runtimes import RuntimeModel, RuntimesAdapter
from autotune.trial import Trial

TARGET = 0.01
NAMES = ("onnxruntime", "openvino")
BOTH = "both"
LEAST = 0.97
"""Speed of the run over both, relative to the better of the others."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and its data.

    Attributes:
        name: Name on the command line.
        path: Its file.
        calibration: Batches without labels or with them.
        evaluation: Batches of inputs by name, and labels.
    """

    name: str
    path: Path
    calibration: list[Any]
    evaluation: list[tuple[dict[str, np.ndarray], np.ndarray]]


def pictures(subject: Subject, options: argparse.Namespace) -> Case:
    """A classifier of images."""
    evaluation = subject.batches("evaluation", options.images)
    return Case(
        name=subject.name,
        path=subject.path,
        calibration=subject.batches("calibration", options.calibration, batch=10),
        evaluation=[({"data": images}, labels) for images, labels in evaluation],
    )


def texts(folder: Path, options: argparse.Namespace) -> Case:
    """The sentence classifier of ``minilm.py``."""
    from transformer import read  # noqa: PLC0415  imports ONNX Runtime's own quantizers, which are not needed here

    return Case(
        name="minilm",
        path=existing(folder / "minilm.onnx"),
        calibration=read(folder, "calibration", options.calibration),
        evaluation=read(folder, "evaluation", options.images),
    )


def tune(case: Case, options: argparse.Namespace, **runtimes: Any) -> tuple[autotune.TuningResult, float]:
    """The result, and its seconds."""
    tuner = autotune.Tuner(
        criterion=autotune.Criterion(relative=TARGET),
        seed=options.seed,
        sampling_size=options.calibration,
        timeout_s=options.timeout_s,
        max_trials=options.max_trials * len(runtimes.get("runtimes", "1")),
        **runtimes,
    )
    began = time.perf_counter()
    result = tuner.tune(case.path, case.calibration, metric="topk", eval_dataloader=case.evaluation)
    return result, time.perf_counter() - began


def compare(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Tune one model in all three ways, and race the answers with fp32 on both runtimes."""
    adapter = RuntimesAdapter({name: get_adapter(name) for name in NAMES}, {})
    ways: dict[str, dict[str, Any]] = {name: {"framework": name} for name in NAMES} | {BOTH: {"runtimes": NAMES}}
    results: dict[str, autotune.TuningResult] = {}
    seconds: dict[str, float] = {}
    models: dict[str, RuntimeModel] = {f"fp32, {name}": _model(adapter, name, case.path) for name in NAMES}
    with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
        for way, runtimes in ways.items():
            results[way], seconds[way] = tune(case, options, **runtimes)
            print(f"{case.name}, {way}: {seconds[way]:.1f} s, {results[way].end_reason}", flush=True)
            runtime = results[way].runtime or way
            saved = results[way].save(Path(folder) / f"{way}{adapter.adapters[runtime].suffix}")
            models[way] = _model(adapter, runtime, saved)
    speeds = race(adapter, models, case, options)
    better = max(speeds[name] for name in NAMES)
    relative = speeds[BOTH] / better
    show(case, results, seconds, speeds, models, losses(adapter, models, case))
    verdict = "kept" if relative >= LEAST else "NOT KEPT"
    print(f"both over the better one: {relative:.3f} (at least {LEAST} {verdict}); answer on {results[BOTH].runtime}")
    for note in results[BOTH].notes:
        print(f"  {note}")
    return {
        "relative": relative,
        "speeds": speeds,
        "seconds": seconds,
        "trials": {way: _trials(result.history) for way, result in results.items()},
        "runtime": results[BOTH].runtime,
        "notes": list(results[BOTH].notes),
    }


def _model(adapter: RuntimesAdapter, runtime: str, path: Path) -> RuntimeModel:
    return adapter.as_given(RuntimeModel(runtime=runtime, model=adapter.adapters[runtime].load(path)))


def race(
    adapter: RuntimesAdapter, models: Mapping[str, RuntimeModel], case: Case, options: argparse.Namespace
) -> dict[str, float]:
    """By name, the speed over fp32 on the first runtime, from three sessions of each."""
    feeds = {name: array[:1] for name, array in case.evaluation[0][0].items()}
    latency = LatencyOptions(interval_width=0.01, max_pairs=3000, min_pairs=300, max_seconds=options.race_s)
    sessions = []
    for model in models.values():
        runners = [adapter.runner(model, latency.execution) for _ in range(latency.sessions)]
        sessions.append([lambda run=run: run(feeds) for run in runners])
    outcome = race_latency(sessions[0], sessions[1:], latency, seed=options.seed)
    return {name: 1.0 if index == 0 else outcome.speedups[index - 1] for index, name in enumerate(models)}


def losses(adapter: RuntimesAdapter, models: Mapping[str, RuntimeModel], case: Case) -> dict[str, float]:
    """By name, the relative loss of accuracy over all evaluation samples, against fp32 on the first runtime."""
    accuracies = {}
    for name, model in models.items():
        run = adapter.runner(model, LatencyOptions().execution)
        right = [run(feeds)[0].argmax(1) == labels for feeds, labels in case.evaluation]
        accuracies[name] = float(np.concatenate(right).mean())
    first = next(iter(accuracies.values()))
    return {name: 1 - accuracy / first for name, accuracy in accuracies.items()}


def show(
    case: Case,
    results: Mapping[str, autotune.TuningResult],
    seconds: Mapping[str, float],
    speeds: Mapping[str, float],
    models: Mapping[str, RuntimeModel],
    lost: Mapping[str, float],
) -> None:
    """Print a row for each answer."""
    rows = []
    for name, speed in speeds.items():
        result = results.get(name)
        count = "" if result is None else len(result.history) - 1
        took = f"{seconds[name]:.1f}" if name in seconds else ""
        rows.append([name, models[name].runtime, f"{speed:.3f}x", f"{lost[name]:+.2%}", count, took])
    print(f"\n{case.name}: {sum(len(labels) for _, labels in case.evaluation)} evaluation samples")
    print_table(["", "runtime", "speed over the first", "relative loss", "trials", "wall s"], rows)


def _trials(history: Any) -> list[dict[str, Any]]:
    """A line for each trial, for the margin that gives a runtime up."""

    def row(trial: Trial) -> dict[str, Any]:
        return {"runtime": trial.config.runtime, "note": trial.note, "speedup": trial.speedup, "met": trial.met}

    return [row(trial) for trial in history]


def main() -> None:
    """Parse the command line and run."""
    parser = argument_parser(__doc__)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS), help=f"of {list(SUBJECTS)}, minilm")
    parser.add_argument("--images", type=int, default=5000, help="images or texts that accuracy is measured on")
    parser.add_argument("--calibration", type=int, default=200)
    parser.add_argument("--minilm", type=Path, metavar="FOLDER", help="what minilm.py wrote")
    parser.add_argument("--timeout-s", type=float, help="seconds given to each run; no limit by default")
    parser.add_argument("--max-trials", type=int, default=50, help="candidates of each runtime")
    parser.add_argument("--race-s", type=float, default=20.0, help="seconds of the final race for each answer")
    options = parser.parse_args()
    known = [*SUBJECTS, *(["minilm"] if options.minilm is not None else [])]
    if any(name not in known for name in options.subjects):
        sys.exit(f"A subject must be one of {', '.join(known)}, but got {' '.join(options.subjects)}")
    names = [*options.subjects, *(["minilm"] if options.minilm and "minilm" not in options.subjects else [])]
    cases = (
        texts(options.minilm, options) if name == "minilm" else pictures(SUBJECTS[name], options) for name in names
    )
    results = {case.name: compare(case, options) for case in cases}
    write_result(options.json, "across", options.seed, results)


if __name__ == "__main__":
    main()
