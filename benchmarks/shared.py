"""Code that the benchmarks share: real models and their data, fair comparisons, and result files that can be compared.

A benchmark imports this module first: where ``autotune`` is not installed, it is then found in the checkout.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

# Last, so that an installed package is the one that is measured.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from autotune.adapter import Execution
from autotune.adapters.onnx.session import session_options
from autotune.host import current_host

FORMAT_VERSION = 1
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

Images: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]
Batches: TypeAlias = list[tuple[Images, Labels]]


def existing(path: Path) -> Path:
    """The path, where there is such a file; otherwise the benchmark ends with a line that says what is missing."""
    if not path.is_file():
        sys.exit(f"{path} is missing; benchmarks/README.md lists the models and data that the benchmarks need")
    return path


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A real model and what its inputs need.

    Attributes:
        name: Name on the command line.
        file: Name of its file in ``DATA``.
        size: Side of its square input, in pixels.
        mean: Mean of the red, green and blue values, which lie between 0 and 1.
        deviation: Standard deviation of the same.
    """

    name: str
    file: str
    size: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    @property
    def path(self) -> Path:
        """Path of the model; without it the benchmark ends."""
        return existing(DATA / self.file)

    def images(self, part: str, count: int) -> tuple[Images, Labels]:
        """Preprocessed images, shape (count, 3, size, size), and their labels, shape (count,).

        Args:
            part: ``calibration`` or ``evaluation``.
            count: How many; the benchmark ends where there are fewer, since its figures would be of other images.
        """
        source = existing(DATA / f"cifar10_{part}.npz")
        with np.load(source) as archive:
            pictures, labels = archive["images"][:count], archive["labels"][:count]
        if len(pictures) < count:
            sys.exit(f"{count} {part} images were asked for, but {source} has only {len(pictures)}")
        if self.size != pictures.shape[1]:
            side = (self.size, self.size)
            resized = [np.asarray(Image.fromarray(p).resize(side, Image.Resampling.BILINEAR)) for p in pictures]
            pictures = np.stack(resized)
        mean, deviation = np.array(self.mean, np.float32), np.array(self.deviation, np.float32)
        scaled = (pictures / np.float32(255) - mean) / deviation
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32), labels

    def batches(self, part: str, count: int, batch: int = 50) -> Batches:
        """The same in batches, the last of which may be smaller."""
        images, labels = self.images(part, count)
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
    subject: Subject, calibration: Batches, target: Path, *, percentile: float | None = None, **changes: Any
) -> Path:
    """ONNX Runtime's own ``quantize_static`` at its best on x86: preprocessed, u8 activations, s8 weights per channel.

    Args:
        subject: The subject whose model is quantized.
        calibration: Given to the calibration one image at a time.
        target: Path to which the model is written.
        percentile: Share of the values that ranges keep, in percent; all of them (min-max) by default.
        **changes: Arguments of ``quantize_static`` beyond these or instead of these.

    Returns:
        ``target``.
    """
    options: dict[str, Any] = {
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }
    if percentile is not None:
        options |= {"calibrate_method": CalibrationMethod.Percentile, "extra_options": {"CalibPercentile": percentile}}
    options |= changes
    logging.getLogger().setLevel(logging.ERROR)
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(subject.path, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, target, _Reader(calibration), quant_format=QuantFormat.QDQ, **options)
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


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: ``--seed``, and ``--json``, without which nothing is written."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", "--output", dest="json", type=Path, metavar="FILE", help="write the result to FILE")
    return parser


def write_result(path: Path | None, benchmark: str, seed: int, result: Mapping[str, Any]) -> None:
    """Write a result with all that another one must share to be compared with it; nothing where ``path`` is None."""
    if path is None:
        return
    document = {
        "format_version": FORMAT_VERSION,
        "benchmark": benchmark,
        "command": " ".join(sys.argv),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": seed,
        "host": current_host().to_json(),
        "result": result,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\nWritten to {path}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table that can be read in a terminal and pasted into Markdown; floats have four significant digits."""
    cells = [columns, *([f"{value:.4g}" if isinstance(value, float) else str(value) for value in row] for row in rows)]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(columns))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in cells]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    print("\n".join(lines), flush=True)


def print_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """A table of rows that name their columns; a column that a row lacks is empty there."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print_table(columns, [[row.get(name, "") for name in columns] for row in rows])
