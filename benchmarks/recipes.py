"""What each recipe gives and costs, on real models: accuracy and latency with and without, and seconds per candidate.

    python benchmarks/recipes.py [--images 5000] [--pairs 60] [--json recipes.json]

Every candidate has all ops in int8 (u8 activations, s8 weights). Losses are of the same images as fp32's, with the
standard error of the paired difference. Latency is that of ONNX Runtime's own all-int8 u8s8 per-channel file divided by
the candidate's, one thread, batch 1, calls of all candidates taking turns, as a ratio of medians of the thread's
processor time, in which other processes on a busy machine do not show.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from PIL import Image

from autotune.adapter import Array, Execution, Runner
from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.model import OnnxModel
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
from autotune.host import current_host
from autotune.space import TuningSpace

FORMAT_VERSION = 1
DATA = Path("../shared/data")
MODELS = {
    "mobilenetv2_cifar10": (128, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "resnet20_cifar10": (32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
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
    ("error feedback", "kl", _PER_CHANNEL, {"weight_rounding": "error_feedback"}),
    (
        "all three",
        "kl",
        _PER_CHANNEL,
        {"equalization": True, "bias_correction": "full", "weight_rounding": "error_feedback"},
    ),
    ("per tensor: nothing", "minmax", _PER_TENSOR, {}),
    ("per tensor: equalization", "kl", _PER_TENSOR, {"equalization": True}),
    ("per tensor: full bias correction", "kl", _PER_TENSOR, {"bias_correction": "full"}),
    ("per tensor: both", "kl", _PER_TENSOR, {"equalization": True, "bias_correction": "full"}),
)


def images(split: str, model: str, count: int) -> tuple[Array, Array]:
    """Preprocessed images, float32 (count, 3, size, size), and labels."""
    size, mean, deviation = MODELS[model]
    archive = np.load(DATA / f"cifar10_{split}.npz")
    raw = archive["images"][:count]
    if size != raw.shape[1]:
        raw = np.stack(
            [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)) for image in raw]
        )
    pixels = np.empty((len(raw), 3, size, size), np.float32)
    for channel in range(3):
        pixels[:, channel] = (raw[..., channel] / np.float32(255) - np.float32(mean[channel])) / np.float32(
            deviation[channel]
        )
    return pixels, archive["labels"][:count]


def logits(run: Runner, pixels: Array) -> Array:
    """What a model answers, in batches of 10."""
    return np.concatenate([run({"data": pixels[start : start + 10]})[0] for start in range(0, len(pixels), 10)])


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
    def __init__(self, pixels: Array) -> None:
        self._samples: Iterator[Array] = iter(pixels)

    def get_next(self) -> dict[str, Array] | None:
        sample = next(self._samples, None)
        return None if sample is None else {"data": sample[None]}


def own_of_onnxruntime(model: OnnxModel, pixels: Array) -> OnnxModel:
    """ONNX Runtime's all-int8 file: ``quantize_static``, u8s8 per channel, min-max."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model.proto, source)
        quantize_static(
            source,
            target,
            _Reader(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return OnnxModel(proto=onnx.load(target))


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


def benchmark(name: str, count: int, pairs: int) -> list[dict[str, Any]]:
    """A row for each candidate of one model."""
    adapter = OnnxRuntimeAdapter()
    model = adapter.load(DATA / f"{name}.onnx")
    space = adapter.space(model)
    calibration, _ = images("calibration", name, CALIBRATION_SAMPLES)
    pixels, labels = images("evaluation", name, count)
    statistics = adapter.calibrate(model, [{"data": image[None]} for image in calibration], seed=0)
    made = [("ONNX Runtime's own", own_of_onnxruntime(model, calibration), 0.0)]
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
                "model": name,
                "recipe": title,
                "relative_loss_percent": 100 * float(lost.mean() / right.mean()),
                "standard_error_percent": 100 * float(lost.std() / np.sqrt(len(lost)) / right.mean()),
                "flipped_percent": 100 * float((answers.argmax(axis=1) != exact.argmax(axis=1)).mean()),
                "sqnr_db": 10 * float(np.log10(np.square(exact).sum() / np.square(answers - exact).sum())),
                "speed_over_onnxruntime": times[0] / latency,
                "apply_s": seconds,
            }
        )
        print(_line(rows[-1]), flush=True)
    return rows


def _line(row: dict[str, Any]) -> str:
    return (
        f"| {row['recipe']} | {row['relative_loss_percent']:+.2f} % ± {row['standard_error_percent']:.2f} "
        f"| {row['flipped_percent']:.1f} % | {row['sqnr_db']:.1f} dB | {row['speed_over_onnxruntime']:.2f}x "
        f"| {row['apply_s']:.1f} s |"
    )


def main() -> None:
    """Run, print a table for each model, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--json", type=Path, default=Path("recipes.json"))
    options = parser.parse_args()
    rows = []
    for name in MODELS:
        print(f"\n{name}\n\n| recipe | relative loss | flipped | SQNR of logits | speed | apply |")
        print("|---|---|---|---|---|---|")
        rows += benchmark(name, options.images, options.pairs)
    result = {
        "format_version": FORMAT_VERSION,
        "host": dataclasses.asdict(current_host()),
        "images": options.images,
        "rows": rows,
    }
    options.json.write_text(json.dumps(result, indent=1, default=str))


if __name__ == "__main__":
    main()
