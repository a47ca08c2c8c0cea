"""The time of calibration beside a plain fp32 pass, and the effect of the histograms' subsample on the ranges.

Run from the root of the repository: ``python benchmarks/calibration_cost.py``. A round runs the plain model over all
images and then calibrates on them, session and ranges of all algorithms for all tensors included; rounds alternate, so
that what disturbs the machine disturbs both. Everything runs on one thread, and seconds are those of the CPU: on a
shared machine the wall clock says how long others kept it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from shared import SUBJECTS, Images, argument_parser, existing, print_table, session, write_result

from autotune.adapters.onnxruntime.calibration import calibrate
from autotune.algorithms import activation_range
from autotune.calibration import CalibrationStatistics, StatisticsCollector
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

ALGORITHMS = (MINMAX, PERCENTILE, KL, MSE)
SCHEMES = (
    TensorScheme(dtype=QuantizedType.U8),
    TensorScheme(dtype=QuantizedType.S8, symmetric=True),
)
SUBJECT = SUBJECTS["mobilenetv2"]


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


def derive(gathered: CalibrationStatistics) -> int:
    """Every range of every tensor."""
    ranges = [
        activation_range(tensor, algorithm, scheme)
        for tensor in gathered.tensors.values()
        for algorithm in ALGORITHMS
        for scheme in SCHEMES
    ]
    return len(ranges)


def cost(model: onnx.ModelProto, data: Images, batch: int, rounds: int, seed: int, *, moments: bool) -> dict[str, Any]:
    """Seconds of a plain pass, of a calibrating pass and of the ranges, medians over interleaved rounds."""
    tensors, axes = activations(model)
    batches = [{"data": data[i : i + batch]} for i in range(0, len(data), batch)]
    fp32 = session(model)
    fp32.run(None, batches[0])
    plain, passes, ranges = [], [], []
    derived = 0
    for _ in range(rounds):
        start = time.process_time()
        for feeds in batches:
            fp32.run(None, feeds)
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
    model: onnx.ModelProto, data: Images, subsamples: Sequence[int], seeds: int
) -> list[dict[str, Any]]:
    """By how much ranges from subsampled histograms differ from those of full ones, over all tensors and some seeds."""
    tensors, _ = activations(model)
    tensors = [name for name in tensors if name != "data"]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    fp32 = session(watched)
    exact = StatisticsCollector({}, 0, subsample=None)
    thinned = {
        (size, seed): StatisticsCollector({}, seed, subsample=size) for size in subsamples for seed in range(seeds)
    }
    for image in data:
        for name, array in zip(tensors, fp32.run(tensors, {"data": image[None]}), strict=True):
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
    parser = argument_parser(__doc__)
    parser.add_argument("--model", type=Path, help="another model that reads the same images; MobileNetV2 by default")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--subsamples", type=int, nargs="*", default=[4096, 8192, 16384])
    parser.add_argument("--effect-images", type=int, default=50)
    arguments = parser.parse_args()
    path = SUBJECT.path if arguments.model is None else existing(arguments.model)
    model = onnx.load(path)
    data, _ = SUBJECT.images("calibration", max(arguments.images, arguments.effect_images))
    costs = [
        cost(model, data[: arguments.images], batch, arguments.rounds, arguments.seed, moments=moments)
        for batch in arguments.batches
        for moments in (False, True)
    ]
    print_table(
        ["batch", "moments", "plain s", "calibration s", "ranges s", "ratio", "<= 2x + 2 s"],
        [
            [
                row["batch"],
                row["moments"],
                f"{row['plain_s']:.2f}",
                f"{row['calibration_s']:.2f}",
                f"{row['ranges_s']:.2f}",
                f"{row['ratio']:.2f}",
                "yes" if row["holds"] else "NO",
            ]
            for row in costs
        ],
    )
    effect = subsample_effect(model, data[: arguments.effect_images], arguments.subsamples, 3)
    print("\nDifference of the ranges, as shares of their width")
    print_table(
        ["algorithm", "subsample", "median", "p90", "largest"],
        [
            [row["algorithm"], row["subsample"], *(f"{row[share]:.2%}" for share in ("median", "p90", "largest"))]
            for row in effect
        ],
    )
    result = {"model": path.name, "cost": costs, "subsample_effect": effect}
    write_result(arguments.json, "calibration_cost", arguments.seed, result)


if __name__ == "__main__":
    main()
