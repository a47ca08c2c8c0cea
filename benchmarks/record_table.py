"""Record a space that is evaluated completely: 8 groups of ops, int8 or fp32, under two calibration algorithms.

What comes out is what strategies are tested on without a model (``tests/strategies/data``): for each of the 512 configs
the accuracy on a fixed part of the evaluation set, the speedup from interleaved runs, the output error on a few
calibration samples, and the size. Run from the root of the repository:

    python benchmarks/record_table.py resnet20 tests/strategies/data/resnet20.json

An interrupted recording continues with the same command; on a complete table it renews the profile alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from autotune.adapter import CostModel, Execution, Feeds
from autotune.adapters import get_adapter
from autotune.config import MINMAX, CalibrationAlgorithm, CalibrationMethod, QuantizationConfig
from autotune.evaluation import LatencyOptions, compare_latency
from autotune.host import current_host
from autotune.insights import noise_to_signal
from autotune.space import TuningSpace

DATA = Path("../shared/data")
GROUPS = 8
ALGORITHMS = (MINMAX, CalibrationAlgorithm(CalibrationMethod.PERCENTILE, 99.99))
BATCH = 50
COLUMNS = ("fp32_groups", "algorithm", "accuracy", "loss", "speedup", "low", "high", "output_error", "size_bytes")
LATENCY = LatencyOptions(min_pairs=40, max_pairs=160, interval_width=0.015, max_seconds=1.2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A model and how its images are prepared.

    Attributes:
        file: Below the shared data.
        side: Side of the square input, in pixels.
        mean: Per channel.
        std: Per channel.
        first_group: How many ops the first group has; the others share the rest evenly.
        images: How many evaluation images are used.
    """

    file: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    first_group: int
    images: int


SOURCES = {
    "resnet20": Source(
        file="resnet20_cifar10.onnx",
        side=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        first_group=1,
        images=1000,
    ),
    # The first three convolutions are a group of their own, since in fp32 they make this model faster and better.
    "mobilenetv2": Source(
        file="mobilenetv2_cifar10.onnx",
        side=128,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        first_group=3,
        images=500,
    ),
}


def load_images(file: str, source: Source, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The first ``count`` prepared images (count, 3, side, side) and their labels."""
    data = np.load(DATA / file)
    images = data["images"][:count]
    if source.side != images.shape[1]:
        size = (source.side, source.side)
        images = np.stack(
            [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in images]
        )
    scaled = (images.astype(np.float32) / 255 - np.float32(source.mean)) / np.float32(source.std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), data["labels"][:count]


def group_ops(space: TuningSpace, first: int) -> list[list[str]]:
    """The tunable ops in graph order, cut into ``GROUPS`` pieces."""
    names = [op.name for op in space.tunable]
    rest = np.array_split(np.array(names[first:], dtype=object), GROUPS - 1)
    return [names[:first], *(list(piece) for piece in rest)]


def make_config(space: TuningSpace, groups: list[list[str]], mask: int, algorithm: int) -> QuantizationConfig:
    """The config with the groups of ``mask`` in fp32 (bit i is group i) and the others in int8."""
    quantized = {name for i, group in enumerate(groups) if not mask >> i & 1 for name in group}
    ops = {
        op.name: dataclasses.replace(op.preferred, calibration=ALGORITHMS[algorithm])
        for op in space.ops
        if op.name in quantized
    }
    return QuantizationConfig(ops=ops, recipe=space.recipe.preferred)


def batches(images: npt.NDArray[np.float32], size: int) -> Iterator[Feeds]:
    """The images as feeds of ``size``."""
    for start in range(0, len(images), size):
        yield {"data": images[start : start + size]}


class Recorder:
    """Measures one config after the other."""

    def __init__(self, source: Source) -> None:
        self._adapter = get_adapter("onnxruntime")
        self._model = self._adapter.load(DATA / source.file)
        self.space = self._adapter.space(self._model)
        self.groups = group_ops(self.space, source.first_group)
        calibration, _ = load_images("cifar10_calibration.npz", source, 200)
        self._statistics = self._adapter.calibrate(self._model, batches(calibration, BATCH), seed=0)
        self._few = list(batches(calibration[:32], 32))
        self._images, self._labels = load_images("cifar10_evaluation.npz", source, source.images)
        self._baseline = self._adapter.runner(self._model, Execution())
        self._expected = [self._baseline(feeds) for feeds in self._few]
        self.baseline_accuracy = self._accuracy(self._baseline)

    def _accuracy(self, run: Callable[[Feeds], tuple[npt.NDArray[Any], ...]]) -> float:
        answers = np.concatenate([run(feeds)[0].argmax(axis=1) for feeds in batches(self._images, BATCH)])
        return float((answers == self._labels).mean())

    def measure(self, mask: int, algorithm: int) -> list[float | int]:
        """One row of the table."""
        config = make_config(self.space, self.groups, mask, algorithm)
        candidate = self._adapter.apply(self._model, config, self._statistics)
        run = self._adapter.runner(candidate, Execution())
        accuracy = self._accuracy(run)
        one = {"data": self._images[:1]}
        latency = compare_latency(lambda: self._baseline(one), lambda: run(one), LATENCY)
        error = noise_to_signal(self._expected, [run(feeds) for feeds in self._few])
        loss = (self.baseline_accuracy - accuracy) / self.baseline_accuracy
        interval = latency.interval
        figures = (accuracy, loss, latency.speedup, interval.low, interval.high)
        return [mask, algorithm, *(round(f, 5) for f in figures), float(f"{error:.4g}"), candidate.size_bytes]

    def profile(self) -> dict[str, list[Any]]:
        """Seconds of each group in fp32 and in int8, and of converting its last op's output to int8 and back."""
        candidate = self._adapter.apply(self._model, self.space.preferred, self._statistics)
        assert isinstance(self._adapter, CostModel)
        one = {"data": self._images[:1]}
        fp32, int8 = self._adapter.op_seconds([self._model, candidate], one, Execution())
        crossing = self._adapter.conversion_seconds(self._model, self._statistics, Execution())
        return {
            "seconds": [[_micro(sum(by.get(op, 0.0) for op in group)) for by in (fp32, int8)] for group in self.groups],
            "crossing_s": [_micro(crossing.get(group[-1], 0.0)) for group in self.groups],
        }


def _micro(seconds: float) -> float:
    """Rounded to a tenth of a microsecond."""
    return round(seconds, 7)


def main() -> None:
    """Record what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SOURCES)
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=int, help="evaluation images to use instead of the model's own number")
    args = parser.parse_args()
    source = SOURCES[args.model]
    if args.images:
        source = dataclasses.replace(source, images=args.images)
    recorder = Recorder(source)
    part = args.table.with_suffix(".part")
    rows = json.loads(args.table.read_text())["rows"] if args.table.exists() else []
    rows += [json.loads(line) for line in part.read_text().splitlines()] if part.exists() else []
    done = {(row[0], row[1]) for row in rows}
    started = time.monotonic()
    with part.open("a") as file:
        for mask, algorithm in itertools.product(range(2**GROUPS), range(len(ALGORITHMS))):
            if (mask, algorithm) not in done:
                rows.append(recorder.measure(mask, algorithm))
                file.write(json.dumps(rows[-1]) + "\n")
                file.flush()
    print(f"{len(rows)} configs, {time.monotonic() - started:.0f} s")
    table = {
        "format": 1,
        "model": source.file,
        "images": source.images,
        "baseline_accuracy": recorder.baseline_accuracy,
        "host": dataclasses.asdict(current_host()),
        "groups": recorder.groups,
        "algorithms": [str(algorithm) for algorithm in ALGORITHMS],
        "profile": recorder.profile(),
        "columns": COLUMNS,
        "rows": sorted(rows),
    }
    args.table.write_text(json.dumps(table).replace("], [", "],\n[") + "\n")
    part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
