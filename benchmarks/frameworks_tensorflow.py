"""``tune`` on LiteRT against TensorFlow Lite's own converter with representative data.

Run from the root of the repository, where TensorFlow and the extra ``tensorflow`` are installed:
``python benchmarks/frameworks_tensorflow.py --json result.json``. Both ways get the same Keras model, made of the ONNX
file's weights, and the same images; the seconds of ``tune`` include its evaluations. ``frameworks.py`` describes the
file that is written.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from shared import SUBJECTS, Batches, Subject, argument_parser, print_table, write_result
from tuning import loss_interval

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from keras_models import keras_model

import autotune
from autotune.adapter import Execution
from autotune.adapters import get_adapter
from autotune.evaluation import LatencyOptions, race_latency

TARGET = 0.01
FP32, OURS, PEER = "fp32", "autotune", "peer"


def data(subject: Subject, part: str, count: int, batch: int) -> Batches:
    """Preprocessed images with channels last, as TensorFlow reads them."""
    return [
        (np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels)
        for images, labels in subject.batches(part, count, batch)
    ]


def by_converter(model: Any, calibration: Batches) -> tuple[bytes, float]:
    """The converter's model with representative data and float inputs and outputs, and its seconds."""

    def images() -> Iterator[list[Any]]:
        for batch, _ in calibration:
            for image in batch:
                yield [image[np.newaxis]]

    began = time.perf_counter()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    return bytes(converter.convert()), time.perf_counter() - began


def tuned(
    source: Path, calibration: Batches, evaluation: Batches, batch: int, options: argparse.Namespace
) -> tuple[autotune.TuningResult, float]:
    """The result, and its seconds."""
    tuner = autotune.Tuner(
        framework="tensorflow",
        criterion=autotune.Criterion(relative=TARGET),
        seed=options.seed,
        batch_size=batch,
        sampling_size=options.calibration,
        max_trials=options.trials,
    )
    began = time.perf_counter()
    result = tuner.tune(source, calibration, metric="topk", eval_dataloader=evaluation)
    return result, time.perf_counter() - began


def compare(subject: Subject, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Quantize one model in both ways for each batch size, and race the results."""
    calibration = data(subject, "calibration", options.calibration, 10)
    evaluation = data(subject, "evaluation", options.images, 50)
    model = keras_model(subject.path, subject.size)
    adapter = get_adapter("tensorflow")
    rows = []
    with tempfile.TemporaryDirectory(prefix="autotune-") as name:
        fp32, own, ours = (Path(name) / f"{way}.tflite" for way in (FP32, PEER, OURS))
        fp32.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        content, peer_seconds = by_converter(model, calibration)
        own.write_bytes(content)
        for batch in options.batches:
            result, seconds = tuned(fp32, calibration, evaluation, batch, options)
            result.save(ours)
            files = {FP32: fp32, OURS: ours, PEER: own}
            runners = [adapter.runner(adapter.load(path), Execution(threads=1)) for path in files.values()]
            took = {FP32: 0.0, OURS: seconds, PEER: peer_seconds}
            rows += race(
                subject, batch, dict(zip(files, runners, strict=True)), evaluation, took, result, options=options
            )
    return rows


def race(
    subject: Subject,
    batch: int,
    runners: dict[str, Any],
    evaluation: Batches,
    seconds: dict[str, float],
    result: autotune.TuningResult,
    *,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """The rows of one model and batch."""
    feeds = {"data": np.concatenate([images for images, _ in evaluation[:1]])[:batch]}
    calls = [lambda run=run: run(feeds) for run in runners.values()]
    latency = LatencyOptions(interval_width=0.01, max_pairs=3000, min_pairs=100, max_seconds=options.seconds)
    found = race_latency(calls[0], calls[1:], latency, seed=options.seed)
    speeds = dict(zip(runners, [1.0, *found.speedups], strict=True))
    right = {
        way: np.concatenate([run({"data": images})[0].argmax(1) == labels for images, labels in evaluation])
        for way, run in runners.items()
    }
    rows = []
    for way, call in zip(runners, calls, strict=True):
        loss, half, accuracy = loss_interval(right[FP32], right[way])
        rows.append(
            {
                "model": subject.name,
                "depthwise": subject.name != "resnet20",
                "batch": batch,
                "threads": 1,
                "way": way,
                "images": len(right[FP32]),
                "accuracy": accuracy,
                "relative_loss": float(loss),
                "loss_half_width": float(half),
                "latency_ms": median_ms(call),
                "speedup": float(speeds[way]),
                "seconds": seconds[way],
                "verdict": str(result.verdict) if way == OURS else None,
                "ops": described(result) if way == OURS else "",
                "note": f"{len(result.history) - 1} trials; {result.end_reason}" if way == OURS else "",
            }
        )
    return rows


def median_ms(call: Any, calls: int = 50) -> float:
    """The median of single calls; speeds are of the race."""
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1e3 * float(np.median(seconds))


def described(result: autotune.TuningResult) -> str:
    """How many ops of the answer compute in what."""
    ops = Counter(str(choice.precision) for choice in result.best.config.ops.values())
    return ", ".join(f"{count} {precision}" for precision, count in ops.items()) or FP32


def show(rows: Sequence[dict[str, Any]]) -> None:
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
    rows = [row for name in options.subjects for row in compare(SUBJECTS[name], options)]
    show(rows)
    result = {
        "framework": "tensorflow",
        "version": version("ai-edge-litert"),
        "peer": f"tf.lite.TFLiteConverter {tf.__version__} with representative data",
        "target": TARGET,
        "rows": rows,
        "seeds": [],
    }
    write_result(options.json, "frameworks_tensorflow", options.seed, result)


if __name__ == "__main__":
    main()
