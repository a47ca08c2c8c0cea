"""Effect and price of each recipe on real models: accuracy, latency, and seconds per candidate.

    python benchmarks/recipes.py [--images 5000] [--pairs 60] [--seed 0] [--json FILE]

Every candidate has all ops in int8 (u8 activations, s8 weights). Losses are of the same images as fp32's, with the
standard error of the paired difference. Latency is that of ONNX Runtime's own all-int8 u8s8 per-channel file divided by
the candidate's, one thread, batch 1, calls of all candidates taking turns, as a ratio of medians of the thread's
processor time, in which other processes on a busy machine do not show.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from shared import SUBJECTS, Subject, argument_parser, print_table, quantize_with_onnxruntime, write_result

from autotune.adapter import Array, Execution, Runner
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    CalibrationAlgorithm,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
)
from autotune.space import TuningSpace

CALIBRATION_SAMPLES = 200

_PER_CHANNEL = Granularity.PER_CHANNEL
_PER_TENSOR = Granularity.PER_TENSOR
_CASES: tuple[tuple[str, str, Granularity, dict[str, Any]], ...] = (
    ("nothing", "minmax", _PER_CHANNEL, {}),
    ("KL ranges", "kl", _PER_CHANNEL, {}),
    ("fast bias correction", "kl", _PER_CHANNEL, {"bias_correction": "fast"}),
    ("full bias correction", "kl", _PER_CHANNEL, {"bias_correction": "full"}),
    ("equalization", "kl", _PER_CHANNEL, {"equalization": True}),
    ("equalization, fast", "kl", _PER_CHANNEL, {"equalization": True, "bias_correction": "fast"}),
    ("equalization, full", "kl", _PER_CHANNEL, {"equalization": True, "bias_correction": "full"}),
    ("the same, min-max", "minmax", _PER_CHANNEL, {"equalization": True, "bias_correction": "full"}),
    ("the same, MSE", "mse", _PER_CHANNEL, {"equalization": True, "bias_correction": "full"}),
    ("GPTQ", "kl", _PER_CHANNEL, {"weight_rounding": "gptq"}),
    (
        "all three",
        "kl",
        _PER_CHANNEL,
        {"equalization": True, "bias_correction": "full", "weight_rounding": "gptq"},
    ),
    ("per tensor: nothing", "minmax", _PER_TENSOR, {}),
    ("per tensor: equalization", "kl", _PER_TENSOR, {"equalization": True}),
    ("per tensor: full bias correction", "kl", _PER_TENSOR, {"bias_correction": "full"}),
    ("per tensor: both", "kl", _PER_TENSOR, {"equalization": True, "bias_correction": "full"}),
)


def logits(run: Runner, pixels: Array) -> Array:
    """Outputs of a model, in batches of 10."""
    return np.concatenate([run({"data": pixels[start : start + 10]})[0] for start in range(0, len(pixels), 10)])


def own_of_onnxruntime(subject: Subject) -> OnnxModel:
    """ONNX Runtime's all-int8 file: u8s8 per channel, min-max."""
    with tempfile.TemporaryDirectory() as folder:
        calibration = subject.batches("calibration", CALIBRATION_SAMPLES)
        return OnnxModel(proto=onnx.load(quantize_with_onnxruntime(subject, calibration, Path(folder) / "int8.onnx")))


def candidate(
    model: OnnxModel,
    space: TuningSpace,
    statistics: CalibrationStatistics,
    case: tuple[str, str, Granularity, dict[str, Any]],
) -> tuple[OnnxModel, float]:
    """The model, and the seconds that making it took."""
    _, algorithm, granularity, recipe = case
    wanted = OpConfig(
        precision=Precision.INT8,
        activation=TensorScheme(dtype=QuantizedType.U8),
        weight=TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=granularity),
        calibration=CalibrationAlgorithm.parse(algorithm),
    )
    config: QuantizationConfig = space.uniform(wanted, Recipe(**recipe))
    start = time.perf_counter()
    quantized = OnnxRuntimeAdapter().apply(model, config, statistics)
    return quantized, time.perf_counter() - start


def medians(runners: list[Runner], sample: Array, pairs: int) -> list[float]:
    """Seconds of the calling thread per call, the runners taking turns: waiting for a busy core does not count."""
    seconds: list[list[float]] = [[] for _ in runners]
    for turn in range(pairs + 5):
        for runner, each in zip(runners, seconds, strict=True):
            start = time.thread_time()
            runner({"data": sample})
            if turn >= 5:
                each.append(time.thread_time() - start)
    return [float(np.median(each)) for each in seconds]


def benchmark(subject: Subject, count: int, pairs: int, seed: int) -> list[dict[str, Any]]:
    """A row for each candidate of one model."""
    adapter = OnnxRuntimeAdapter()
    model = adapter.load(subject.path)
    space = adapter.space(model)
    calibration, _ = subject.images("calibration", CALIBRATION_SAMPLES)
    pixels, labels = subject.images("evaluation", count)
    statistics = adapter.calibrate(model, [{"data": image[None]} for image in calibration], seed=seed)
    made = [("ONNX Runtime's own", own_of_onnxruntime(subject), 0.0)]
    made += [(case[0], *candidate(model, space, statistics, case)) for case in _CASES]
    runners = [adapter.runner(each, Execution()) for _, each, _ in made]
    exact = logits(adapter.runner(model, Execution()), pixels)
    right = exact.argmax(axis=1) == labels
    times = medians(runners, pixels[:1], pairs)
    rows = []
    for (title, _, seconds), runner, latency in zip(made, runners, times, strict=True):
        answers = logits(runner, pixels)
        lost = right.astype(float) - (answers.argmax(axis=1) == labels)
        rows.append(
            {
                "model": subject.path.stem,
                "recipe": title,
                "relative_loss_percent": 100 * float(lost.mean() / right.mean()),
                "standard_error_percent": 100 * float(lost.std() / np.sqrt(len(lost)) / right.mean()),
                "flipped_percent": 100 * float((answers.argmax(axis=1) != exact.argmax(axis=1)).mean()),
                "sqnr_db": 10 * float(np.log10(np.square(exact).sum() / np.square(answers - exact).sum())),
                "speed_over_onnxruntime": times[0] / latency,
                "apply_s": seconds,
            }
        )
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    """A row as it is printed."""
    return [
        row["recipe"],
        f"{row['relative_loss_percent']:+.2f} % ± {row['standard_error_percent']:.2f}",
        f"{row['flipped_percent']:.1f} %",
        f"{row['sqnr_db']:.1f} dB",
        f"{row['speed_over_onnxruntime']:.2f}x",
        f"{row['apply_s']:.1f} s",
    ]


def main() -> None:
    """Run, print a table for each model, and write JSON."""
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=60)
    options = parser.parse_args()
    rows = []
    for name in ("mobilenetv2", "resnet20"):
        found = benchmark(SUBJECTS[name], options.images, options.pairs, options.seed)
        print(f"\n{found[0]['model']}\n")
        print_table(
            ["recipe", "relative loss", "flipped", "SQNR of logits", "speed", "apply"], [cells(row) for row in found]
        )
        rows += found
    write_result(options.json, "recipes", options.seed, {"images": options.images, "rows": rows})


if __name__ == "__main__":
    main()
