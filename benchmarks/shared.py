"""What the benchmarks share: real models and their data, fair comparisons, and result files that can be compared."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

from autotune.adapter import Execution
from autotune.adapters.onnxruntime.session import session_options
from autotune.host import current_host

FORMAT_VERSION = 1
DATA = Path("../shared/data")

Batches = list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A real model and what its inputs need."""

    name: str
    file: str
    size: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    @property
    def path(self) -> Path:
        """Where the model lies."""
        return DATA / self.file

    def batches(self, part: str, count: int, batch: int = 50) -> Batches:
        """Preprocessed images with labels; ``part`` is ``calibration`` or ``evaluation``."""
        with np.load(DATA / f"cifar10_{part}.npz") as archive:
            pictures, labels = archive["images"][:count], archive["labels"][:count]
        if self.size != pictures.shape[1]:
            side = (self.size, self.size)
            resized = [np.asarray(Image.fromarray(p).resize(side, Image.Resampling.BILINEAR)) for p in pictures]
            pictures = np.stack(resized)
        mean, deviation = np.array(self.mean, np.float32), np.array(self.deviation, np.float32)
        scaled = (pictures / np.float32(255) - mean) / deviation
        images = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)
        return [(images[i : i + batch], labels[i : i + batch]) for i in range(0, len(images), batch)]


SUBJECTS = {
    "resnet20": Subject(
        name="resnet20",
        file="resnet20_cifar10.onnx",
        size=32,
        mean=(0.4914, 0.4822, 0.4465),
        deviation=(0.2470, 0.2435, 0.2616),
    ),
    "mobilenetv2": Subject(
        name="mobilenetv2",
        file="mobilenetv2_cifar10.onnx",
        size=128,
        mean=(0.485, 0.456, 0.406),
        deviation=(0.229, 0.224, 0.225),
    ),
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
    def __init__(self, batches: Batches) -> None:
        self._images = iter([image[None] for images, _ in batches for image in images])

    def get_next(self) -> Mapping[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {"data": image}


def quantize_with_onnxruntime(
    subject: Subject, calibration: Batches, target: Path, *, per_channel: bool = True, percentile: float | None = None
) -> Path:
    """ONNX Runtime's own ``quantize_static`` at its best on x86: preprocessed, u8 activations, s8 weights."""
    options: dict[str, Any] = {}
    if percentile is not None:
        options = {"calibrate_method": CalibrationMethod.Percentile, "extra_options": {"CalibPercentile": percentile}}
    logging.getLogger().setLevel(logging.ERROR)
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(subject.path, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        target,
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        **options,
    )
    return target


def session(model: Path | onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    """A session that does not disturb others."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, session_options(Execution(threads=threads)))


def correct(model: ort.InferenceSession, evaluation: Batches) -> npt.NDArray[np.bool_]:
    """Whether each image is classified right, shape (images,)."""
    return np.concatenate([model.run(None, {"data": images})[0].argmax(1) == labels for images, labels in evaluation])


def call(model: ort.InferenceSession, image: npt.NDArray[np.float32]) -> Callable[[], object]:
    """One inference, to be timed."""
    feeds = {"data": np.ascontiguousarray(image)}
    return lambda: model.run(None, feeds)


def write_result(path: Path | None, benchmark: str, seed: int, result: Mapping[str, Any]) -> None:
    """Write a result with all that another one must share to be compared with it."""
    if path is None:
        return
    document = {
        "format_version": FORMAT_VERSION,
        "benchmark": benchmark,
        "command": " ".join(sys.argv),
        "seed": seed,
        "host": current_host().to_json(),
        "result": result,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table that can be pasted into Markdown."""
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
