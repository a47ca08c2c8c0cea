"""``tune`` on OpenVINO against NNCF, OpenVINO's own quantizer, in one run.

Run from the root of the repository: ``python benchmarks/runtimes.py --nncf FOLDER/bin/python --json result.json``. The
option names the interpreter of an environment with ``nncf``; without it one is made in a temporary folder, which takes
a minute. Prints for each model its loss over all evaluation images with the paired 95 % interval, its speed over fp32
from one race of all of them through one adapter, and the seconds that each way took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from shared import SUBJECTS, Batches, Subject, argument_parser, print_table, write_result
from tuning import loss_interval

import autotune
from autotune.adapter import Execution, given_model
from autotune.adapters import get_adapter
from autotune.evaluation import LatencyOptions, race_latency

PEER = Path(__file__).with_name("nncf_peer.py")
TARGET = 0.01
FP32, OURS = "fp32", "autotune"


def environment(folder: Path) -> Path:
    """The interpreter of a new environment with NNCF and this environment's version of OpenVINO."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "nncf==3.4.0", f"openvino=={version('openvino')}"]
    subprocess.run(command, check=True)
    return python


def nncf(python: Path, subject: Subject, calibration: Batches, evaluation: Batches, folder: Path) -> dict[str, Any]:
    """Seconds of both ways to quantize with NNCF, whose models are in the folder afterwards."""
    data = folder / "data.npz"
    np.savez(
        data,
        calibration=np.concatenate([images for images, _ in calibration]),
        images=np.concatenate([images for images, _ in evaluation]),
        labels=np.concatenate([labels for _, labels in evaluation]),
    )
    command = [str(python), str(PEER), str(subject.path), str(data), str(folder), str(TARGET)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    report: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return report


def tune(
    subject: Subject, calibration: Batches, evaluation: Batches, options: argparse.Namespace
) -> tuple[autotune.TuningResult, dict[str, float]]:
    """The result, and its seconds."""
    tuner = autotune.Tuner(
        framework="openvino",
        criterion=autotune.Criterion(relative=TARGET),
        seed=options.seed,
        sampling_size=options.calibration,
    )
    wall, processor = time.perf_counter(), time.process_time()
    result = tuner.tune(subject.path, calibration, metric="topk", eval_dataloader=evaluation)
    return result, {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - processor}


def compare(subject: Subject, options: argparse.Namespace, python: Path) -> dict[str, Any]:
    """Quantize one model in all three ways, and race the results."""
    calibration = subject.batches("calibration", options.calibration, batch=10)
    evaluation = subject.batches("evaluation", options.images)
    adapter = get_adapter("openvino")
    with tempfile.TemporaryDirectory(prefix="autotune-") as name:
        folder = Path(name)
        result, ours = tune(subject, calibration, evaluation, options)
        result.save(folder / "tuned.xml")
        seconds = {OURS: ours, **nncf(python, subject, calibration, evaluation, folder)}
        files = {
            FP32: subject.path,
            OURS: folder / "tuned.xml",
            "quantize": folder / "quantize.xml",
            "accuracy_control": folder / "accuracy_control.xml",
        }
        models = {each: given_model(adapter, adapter.load(path)) for each, path in files.items()}
        runners = [adapter.runner(model, Execution(threads=1)) for model in models.values()]
        feeds = {"data": evaluation[0][0][:1]}
        latency = LatencyOptions(interval_width=0.01, max_pairs=3000, min_pairs=200, max_seconds=60)
        calls = [lambda run=run: run(feeds) for run in runners]
        race = race_latency(calls[0], calls[1:], latency, seed=options.seed)
        speeds = dict(zip(list(files)[1:], race.speedups, strict=True))
        answers = {
            each: np.concatenate([run({"data": images})[0].argmax(1) == labels for images, labels in evaluation])
            for each, run in zip(files, runners, strict=True)
        }
    return report(subject, answers, speeds, seconds, result)


def report(
    subject: Subject,
    answers: dict[str, Any],
    speeds: dict[str, float],
    seconds: dict[str, dict[str, float]],
    result: autotune.TuningResult,
) -> dict[str, Any]:
    """Print a table, and give its figures."""
    rows, found = [], {}
    for name, answer in answers.items():
        loss, half, accuracy = loss_interval(answers[FP32], answer)
        speed, took = speeds.get(name, 1.0), seconds.get(name, {"wall_s": 0.0, "processor_s": 0.0})
        times = f"{took['wall_s']:.1f}", f"{took['processor_s']:.1f}"
        rows.append([name, f"{accuracy:.2%}", f"{loss:+.2%} ± {half:.2%}", f"{speed:.2f}x", *times])
        found[name] = {"accuracy": accuracy, "relative_loss": loss, "speedup": speed, **took}
    print(f"\n{subject.name}: {len(answers[FP32])} evaluation images")
    print_table(["", "top-1", "relative loss", "speed over fp32", "wall s", "processor s"], rows)
    print(f"verdict {result.verdict}; {len(result.history) - 1} trials; {result.end_reason}")
    return {"models": found, "verdict": str(result.verdict), "trials": len(result.history) - 1}


def main() -> None:
    """Parse the command line and run."""
    parser = argument_parser(__doc__)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS), help=f"of {list(SUBJECTS)}")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--calibration", type=int, default=200)
    parser.add_argument("--nncf", type=Path, help="interpreter of an environment with nncf")
    options = parser.parse_args()
    if any(name not in SUBJECTS for name in options.subjects):
        sys.exit(f"A subject must be one of {', '.join(SUBJECTS)}, but got {' '.join(options.subjects)}")
    with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
        python = options.nncf or environment(Path(folder))
        results = {name: compare(SUBJECTS[name], options, python) for name in options.subjects}
    write_result(options.json, "runtimes", options.seed, results)


if __name__ == "__main__":
    main()
