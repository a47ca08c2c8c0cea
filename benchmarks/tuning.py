"""``tune`` against ONNX Runtime's own ``quantize_static``, side by side in one run.

Run from the root of the repository: ``python benchmarks/tuning.py mobilenetv2 --json result.json``. Prints for each
model its loss over all evaluation images with the paired 95 % interval, its speed over fp32 and over ONNX Runtime's
all-INT8 per-channel file from one race of all of them, how long the tuning took, and how much of that was spent outside
of the model's own inference.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from shared import (
    SUBJECTS,
    Batches,
    Subject,
    argument_parser,
    call,
    correct,
    print_table,
    quantize_with_onnxruntime,
    session,
    write_result,
)

import autotune
from autotune.evaluation import LatencyOptions, race_latency


class InferenceClock:
    """Adds up the seconds in which at least one inference runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._running = 0
        self._since = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Count every call of a session inside of the ``with`` block."""
        original = {name: getattr(ort.InferenceSession, name) for name in ("run", "run_with_ort_values")}
        for name, run in original.items():
            setattr(ort.InferenceSession, name, self._counted(run))
        try:
            yield
        finally:
            for name, run in original.items():
                setattr(ort.InferenceSession, name, run)

    def _counted(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            with self._lock:
                if self._running == 0:
                    self._since = time.perf_counter()
                self._running += 1
            try:
                return run(*args, **options)
            finally:
                with self._lock:
                    self._running -= 1
                    if self._running == 0:
                        self.seconds += time.perf_counter() - self._since

        return counted


def tune(
    subject: Subject, calibration: Batches, evaluation: Batches, options: argparse.Namespace
) -> tuple[autotune.TuningResult, float, float]:
    """The result, its wall time in seconds, and the share of it that was spent outside of inference."""
    tuner = autotune.Tuner(
        strategy=options.strategy,
        max_trials=options.max_trials,
        timeout_s=options.timeout,
        seed=options.seed,
        sampling_size=options.calibration,
    )
    clock = InferenceClock()
    started = time.perf_counter()
    with clock.installed():
        result = tuner.tune(subject.path, calibration, metric="topk", eval_dataloader=evaluation)
    wall = time.perf_counter() - started
    return result, wall, 1 - clock.seconds / wall


def loss_interval(baseline: np.ndarray, candidate: np.ndarray) -> tuple[float, float, float]:
    """Relative loss and the half width of its paired 95 % interval."""
    difference = baseline.astype(float) - candidate
    accuracy = baseline.mean()
    half = 1.96 * difference.std() / np.sqrt(len(difference)) / accuracy
    return difference.mean() / accuracy, half, float(candidate.mean())


def compare(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Tune one model and race the result against ONNX Runtime's own."""
    calibration = subject.batches("calibration", options.calibration, batch=10)
    evaluation = subject.batches("evaluation", options.images)
    result, wall, outside = tune(subject, calibration, evaluation, options)
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "fp32": subject.path,
            "ONNX Runtime u8s8 per-channel": quantize_with_onnxruntime(
                subject, calibration, Path(folder) / "minmax.onnx"
            ),
            "ONNX Runtime u8s8 per-channel, percentile 99.999": quantize_with_onnxruntime(
                subject, calibration, Path(folder) / "percentile.onnx", percentile=99.999
            ),
            f"autotune, {options.strategy}": result.save(Path(folder) / "tuned.onnx"),
        }
        single = {name: session(path) for name, path in files.items()}
        image = evaluation[0][0][:1]
        calls = [call(model, image) for model in single.values()]
        latency = LatencyOptions(interval_width=0.01, max_pairs=3000, min_pairs=200, max_seconds=60)
        race = race_latency(calls[0], calls[1:], latency, seed=options.seed)
        answers = {name: correct(session(path, threads=2), evaluation) for name, path in files.items()}
    speeds = dict(zip(list(files)[1:], race.speedups, strict=True))
    reference = speeds["ONNX Runtime u8s8 per-channel"]
    rows, report = [], {}
    for name in files:
        loss, half, accuracy = loss_interval(answers["fp32"], answers[name])
        speed = speeds.get(name, 1.0)
        rows.append([name, f"{accuracy:.2%}", f"{loss:+.2%} ± {half:.2%}", f"{speed:.2f}x", f"{speed / reference:.3f}"])
        report[name] = {
            "accuracy": accuracy,
            "relative_loss": loss,
            "speedup": speed,
            "vs_onnxruntime": speed / reference,
        }
    print(f"\n{subject.name}: {len(answers['fp32'])} evaluation images, {options.calibration} calibration images")
    print_table(["", "top-1", "relative loss", "speed over fp32", "over ONNX Runtime's all-INT8"], rows)
    print(
        f"verdict {result.verdict}; {len(result.history) - 1} trials in {wall:.1f} s, {outside:.1%} of it outside of "
        f"inference; {result.end_reason}"
    )
    print({name: round(value, 1) for name, value in result.seconds.items()})
    return {
        "models": report,
        "verdict": str(result.verdict),
        "trials": len(result.history) - 1,
        "wall_s": wall,
        "outside_inference": outside,
        "seconds": dict(result.seconds),
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argument_parser(__doc__)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS), help=f"of {list(SUBJECTS)}")
    parser.add_argument("--strategy", default=autotune.Tuner().strategy)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--max-trials", type=int, default=50)
    parser.add_argument("--timeout", type=float)
    options = parser.parse_args()
    results = {name: compare(SUBJECTS[name], options) for name in options.subjects}
    write_result(options.json, "tuning", options.seed, results)


if __name__ == "__main__":
    main()
