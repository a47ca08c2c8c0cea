"""``tune`` of MXNet's symbols, beside MXNet's own ``quantize_net_v2``, in speed, loss and seconds.

Run from the root of the repository, where MXNet is installed as docs/mxnet.md says:
``python benchmarks/frameworks_mxnet.py --json result.json``. Both ways get the same symbol, made of the ONNX file's
weights, and the same images; the seconds of ``tune`` include its evaluations. The result is described in
``frameworks.py``.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, at the import of MXNet

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mxnet_peer
import numpy as np
from mxnet_models import from_onnx
from shared import SUBJECTS, Batches, Subject, argument_parser, print_table, write_result
from tuning import loss_interval

import autotune
from autotune.adapter import Execution
from autotune.adapters import get_adapter
from autotune.evaluation import LatencyOptions, race_latency
from autotune.host import current_host

TARGET = 0.01
FP32, OURS, PEER = "fp32", "autotune", "peer"
FEED = "data"


def tuned(
    source: Path, calibration: Batches, evaluation: Batches, batch: int, options: argparse.Namespace
) -> tuple[autotune.TuningResult, float]:
    """The result, and its wall seconds."""
    tuner = autotune.Tuner(
        framework="mxnet",
        criterion=autotune.Criterion(relative=TARGET),
        seed=options.seed,
        threads=1,
        batch_size=batch,
        sampling_size=options.calibration,
        max_trials=options.trials,
    )
    began = time.perf_counter()
    result = tuner.tune(source, calibration, metric="topk", eval_dataloader=evaluation)
    return result, time.perf_counter() - began


def compare(subject: Subject, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Quantize one model in both ways for each batch size, and race the results."""
    calibration = subject.batches("calibration", options.calibration, 20)
    evaluation = subject.batches("evaluation", options.images, 50)
    images = np.concatenate([images for images, _ in calibration])
    adapter = get_adapter("mxnet")
    rows = []
    with tempfile.TemporaryDirectory(prefix="autotune-") as name:
        folder = Path(name)
        fp32 = from_onnx(subject.path, folder / FP32)
        peer, peer_seconds = mxnet_peer.quantized(fp32, FEED, images, folder / PEER)
        for batch in options.batches:
            result, seconds = tuned(fp32, calibration, evaluation, batch, options)
            files = {FP32: fp32, OURS: result.save(folder / f"{OURS}-{batch}-symbol.json"), PEER: peer}
            loaded = {way: adapter.load(path) for way, path in files.items()}
            runners = {way: adapter.runner(model, Execution(threads=1)) for way, model in loaded.items()}
            found = race(batch, runners, evaluation, options)
            took = {FP32: 0.0, OURS: seconds, PEER: peer_seconds}
            for row in found:
                row.update(model=subject.name, depthwise=subject.name != "resnet20", seconds=took[row["way"]])
                row.update(answer(result) if row["way"] == OURS else {"verdict": None, "ops": "", "note": ""})
            show(found)
            rows += found
    return rows


def race(
    batch: int, runners: Mapping[str, Any], evaluation: Batches, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Accuracy, loss and speed of each way; the speeds are of one interleaved race in this process."""
    feeds = {FEED: np.ascontiguousarray(np.concatenate([images for images, _ in evaluation[:1]])[:batch])}
    calls = {way: call(runner, feeds) for way, runner in runners.items()}
    first, *others = calls.values()
    latency = LatencyOptions(interval_width=0.01, max_pairs=3000, min_pairs=100, max_seconds=options.seconds)
    found = race_latency(first, others, latency, seed=options.seed)
    speeds = dict(zip(calls, [1.0, *found.speedups], strict=True))
    right = {
        way: np.concatenate([run({FEED: images})[0].argmax(1) == labels for images, labels in evaluation])
        for way, run in runners.items()
    }
    rows = []
    for way in runners:
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
                "latency_ms": median_ms(calls[way]),
                "speedup": float(speeds[way]),
            }
        )
    return rows


def call(runner: Any, feeds: Mapping[str, Any]) -> Callable[[], object]:
    """One inference, to be timed."""
    return lambda: runner(feeds)


def median_ms(call: Callable[[], object], calls: int = 50) -> float:
    """The median of single calls, in milliseconds; speeds are of the race."""
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1e3 * float(np.median(seconds))


def answer(result: autotune.TuningResult) -> dict[str, Any]:
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
            row["ops"],
            row["note"],
        ]
        for row in rows
    ]
    print()
    print_table(["model", "batch", "way", "top-1", "relative loss", "over fp32", "s", "ops", ""], cells)


def main() -> None:
    """Parse the command line and run."""
    parser = argument_parser(__doc__)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS), help=f"of {list(SUBJECTS)}")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--calibration", type=int, default=200)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each race, at most")
    options = parser.parse_args()
    print(current_host(("mxnet",)))
    result = {
        "framework": "mxnet",
        "version": version("mxnet"),
        "peer": mxnet_peer.NAME,
        "target": TARGET,
        "rows": [row for name in options.subjects for row in compare(SUBJECTS[name], options)],
        "seeds": [],
    }
    write_result(options.json, "frameworks_mxnet", options.seed, result)


if __name__ == "__main__":
    main()
