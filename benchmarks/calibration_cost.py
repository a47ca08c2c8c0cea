"""What calibration costs beside a plain fp32 pass, and what the histograms' subsample changes in the ranges.

Run from the root of the repository: ``python benchmarks/calibration_cost.py``. A round runs the plain model over all
images and then calibrates on them, session and ranges of all algorithms for all tensors included; rounds alternate, so
that what disturbs the machine disturbs both. Everything runs on one thread, and seconds are those of the CPU: on a
shared machine the wall clock says how long others kept it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import archspec.cpu
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from PIL import Image

from autotune.adapters.onnxruntime.calibration import calibrate
from autotune.calibration import CalibrationStatistics, StatisticsCollector, activation_range
from autotune.config import (
    KL,
    MINMAX,
    MSE,
    PERCENTILE,
    CalibrationAlgorithm,
    CalibrationMethod,
    QuantizedType,
    TensorScheme,
)

FORMAT_VERSION = 1
ALGORITHMS = (MINMAX, PERCENTILE, KL, MSE)
SCHEMES = (
    TensorScheme(dtype=QuantizedType.U8),
    TensorScheme(dtype=QuantizedType.S8, symmetric=True),
)
SHARED = Path("../shared/data")
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def images(count: int, size: int = 128) -> npt.NDArray[np.float32]:
    """Preprocessed calibration images, shape (count, 3, size, size)."""
    with np.load(SHARED / "cifar10_calibration.npz") as archive:
        pictures = archive["images"]
    resized = [
        np.asarray(Image.fromarray(pictures[i % len(pictures)]).resize((size, size), Image.Resampling.BILINEAR))
        for i in range(count)
    ]
    normalised = (np.stack(resized).astype(np.float32) / 255 - MEAN) / DEVIATION
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def activations(model: onnx.ModelProto) -> tuple[list[str], dict[str, int]]:
    """The tensors that quantizable ops read, and the channel axis of those that convolutions read."""
    constants = {value.name for value in model.graph.initializer}
    names: dict[str, None] = {}
    axes: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in {"Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool"}:
            read = [name for name in node.input if name not in constants]
            names.update(dict.fromkeys(read))
            if node.op_type == "Conv":
                axes[read[0]] = 1
    return list(names), axes


def plain_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """The model with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def derive(gathered: CalibrationStatistics) -> int:
    """Every range of every tensor."""
    ranges = [
        activation_range(tensor, algorithm, scheme)
        for tensor in gathered.tensors.values()
        for algorithm in ALGORITHMS
        for scheme in SCHEMES
    ]
    return len(ranges)


def cost(
    model: onnx.ModelProto, data: npt.NDArray[np.float32], batch: int, rounds: int, seed: int, *, moments: bool
) -> dict[str, Any]:
    """Seconds of a plain pass, of a calibrating pass and of the ranges, medians over interleaved rounds."""
    tensors, axes = activations(model)
    batches = [{"data": data[i : i + batch]} for i in range(0, len(data), batch)]
    session = plain_session(model)
    session.run(None, batches[0])
    plain, passes, ranges = [], [], []
    derived = 0
    for _ in range(rounds):
        start = time.process_time()
        for feeds in batches:
            session.run(None, feeds)
        between = time.process_time()
        gathered = calibrate(model, tensors, axes if moments else {}, batches, seed)
        gathering = time.process_time()
        derived = derive(gathered)
        plain.append(between - start)
        passes.append(gathering - between)
        ranges.append(time.process_time() - gathering)
    ratio = [(p + r) / q for p, r, q in zip(passes, ranges, plain, strict=True)]
    excess = [p + r - 2 * q for p, r, q in zip(passes, ranges, plain, strict=True)]
    return {
        "batch": batch,
        "moments": moments,
        "images": len(data),
        "tensors": len(tensors),
        "ranges": derived,
        "plain_s": statistics.median(plain),
        "calibration_s": statistics.median(passes),
        "ranges_s": statistics.median(ranges),
        "ratio": statistics.median(ratio),
        "beyond_twice_s": statistics.median(excess),
        "holds": statistics.median(excess) <= 2.0,
    }


def subsample_effect(
    model: onnx.ModelProto, data: npt.NDArray[np.float32], subsamples: Sequence[int], seeds: int
) -> list[dict[str, Any]]:
    """By how much ranges from subsampled histograms differ from those of full ones, over all tensors and some seeds."""
    tensors, _ = activations(model)
    tensors = [name for name in tensors if name != "data"]
    added = [onnx.ValueInfoProto(name=name) for name in tensors]
    more = onnx.ModelProto(graph=onnx.GraphProto(output=added)).SerializeToString()
    session = ort.InferenceSession(model.SerializeToString() + more, providers=["CPUExecutionProvider"])
    exact = StatisticsCollector({}, 0, subsample=None)
    thinned = {
        (size, seed): StatisticsCollector({}, seed, subsample=size) for size in subsamples for seed in range(seeds)
    }
    for image in data:
        for name, array in zip(tensors, session.run(tensors, {"data": image[None]}), strict=True):
            for collector in (exact, *thinned.values()):
                collector.update(name, array)
    reference = exact.finish(len(data))
    rows = []
    for algorithm in (CalibrationAlgorithm(CalibrationMethod.PERCENTILE, 99.999), *ALGORITHMS[1:]):
        for size in subsamples:
            differences = []
            for seed in range(seeds):
                other = thinned[size, seed].finish(len(data))
                for name, tensor in reference.tensors.items():
                    low, high = activation_range(tensor, algorithm, SCHEMES[0])
                    pair = activation_range(other.tensors[name], algorithm, SCHEMES[0])
                    differences.append(max(abs(pair[0] - low), abs(pair[1] - high)) / (high - low))
            rows.append(
                {
                    "algorithm": str(algorithm),
                    "subsample": size,
                    "median": float(np.median(differences)),
                    "p90": float(np.quantile(differences, 0.9)),
                    "largest": float(np.max(differences)),
                }
            )
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHARED / "mobilenetv2_cifar10.onnx")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--subsamples", type=int, nargs="*", default=[4096, 8192, 16384])
    parser.add_argument("--effect-images", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/calibration_cost.json"))
    arguments = parser.parse_args()
    model = onnx.load(arguments.model)
    data = images(max(arguments.images, arguments.effect_images))
    costs = [
        cost(model, data[: arguments.images], batch, arguments.rounds, arguments.seed, moments=moments)
        for batch in arguments.batches
        for moments in (False, True)
    ]
    print(
        f"{'batch':>5} {'moments':>7} {'plain s':>8} {'calibr. s':>9} {'ranges s':>8} {'ratio':>6} {'<= 2x + 2 s':>11}"
    )
    for row in costs:
        print(
            f"{row['batch']:5} {row['moments']!s:>7} {row['plain_s']:8.2f} {row['calibration_s']:9.2f} "
            f"{row['ranges_s']:8.2f} {row['ratio']:6.2f} {'yes' if row['holds'] else 'NO':>11}"
        )
    effect = subsample_effect(model, data[: arguments.effect_images], arguments.subsamples, 3)
    print(f"\n{'algorithm':>18} {'subsample':>9} {'median':>8} {'p90':>8} {'largest':>8}  (of the range's width)")
    for row in effect:
        print(
            f"{row['algorithm']:>18} {row['subsample']:9} {row['median']:8.2%} {row['p90']:8.2%} {row['largest']:8.2%}"
        )
    result = {
        "format_version": FORMAT_VERSION,
        "host": {"cpu": archspec.cpu.host().name, "machine": platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("numpy", "onnx", "onnxruntime")}
        | {"python": platform.python_version()},
        "seed": arguments.seed,
        "model": arguments.model.name,
        "cost": costs,
        "subsample_effect": effect,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    main()
