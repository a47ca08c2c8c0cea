"""Record a space that is evaluated completely: 8 groups of ops, int8 or fp32, under two calibration algorithms.

What comes out is what strategies are tested on without a model (``tests/strategies/data``): for each of the 512
configs the accuracy on a fixed part of the evaluation set, the speedup from interleaved runs, the output error on a few
calibration samples, and the size. Recipes are left out: they would hide most of the losses that a search has to find
its way around. Two configs that differ in the algorithm alone run the same kernels, so that they share one measured
speedup. Run from the root of the repository:

    python benchmarks/record_table.py resnet20 tests/strategies/data/resnet20.json

An interrupted recording continues with the same command; on a complete table it renews the profile, and the speedups
whose intervals are wider than 10 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from autotune.adapter import CostModel, Execution, Feeds, Runner
from autotune.adapters import get_adapter
from autotune.config import MINMAX, CalibrationAlgorithm, CalibrationMethod, QuantizationConfig
from autotune.evaluation import LatencyOptions, compare_latency
from autotune.host import current_host
from autotune.insights import noise_to_signal
from autotune.space import TuningSpace

DATA = Path("../shared/data")
QUICKSTART = Path("examples/quickstart")
GROUPS = 8
ALGORITHMS = (MINMAX, CalibrationAlgorithm(CalibrationMethod.PERCENTILE, 99.99))
BATCH = 50
COLUMNS = ("fp32_groups", "algorithm", "accuracy", "loss", "speedup", "low", "high", "output_error", "size_bytes")
WIDEST = 0.1
ATTEMPTS = 4
LATENCY = LatencyOptions(min_pairs=40, max_pairs=160, interval_width=0.015, max_seconds=1.2)


Images: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cifar10:
    """How a model's images are made from those of CIFAR-10.

    Attributes:
        side: Side of the square input, in pixels.
        mean: Per channel.
        std: Per channel.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def calibration(self, count: int) -> tuple[Images, Labels]:
        """Training images and labels."""
        return self._load("cifar10_calibration.npz", count)

    def evaluation(self, count: int) -> tuple[Images, Labels]:
        """Test images and labels."""
        return self._load("cifar10_evaluation.npz", count)

    def _load(self, file: str, count: int) -> tuple[Images, Labels]:
        data = np.load(DATA / file)
        images = data["images"][:count]
        if self.side != images.shape[1]:
            size = (self.side, self.side)
            images = np.stack(
                [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in images]
            )
        scaled = (images.astype(np.float32) / 255 - np.float32(self.mean)) / np.float32(self.std)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), data["labels"][:count]


class Digits:
    """The quickstart's data."""

    def calibration(self, count: int) -> tuple[Images, Labels]:
        """Pictures and labels that the model was trained on."""
        return self._load("training", count)

    def evaluation(self, count: int) -> tuple[Images, Labels]:
        """Pictures and labels that it has never seen."""
        return self._load("evaluation", count)

    def _load(self, part: str, count: int) -> tuple[Images, Labels]:
        sys.path.insert(0, str(QUICKSTART))
        data = getattr(importlib.import_module("digits"), part)()
        return data.images[:count], data.labels[:count]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A model and its data.

    Attributes:
        path: The model's file.
        data: Its images.
        first_group: How many ops the first group has; the others share the rest evenly.
        images: How many evaluation images are used.
    """

    path: Path
    data: Cifar10 | Digits
    first_group: int
    images: int


SOURCES = {
    # Its stem and first depthwise convolution are slower in int8 than in fp32.
    "digits": Source(path=QUICKSTART / "digits.onnx", data=Digits(), first_group=2, images=1197),
    "resnet20": Source(
        path=DATA / "resnet20_cifar10.onnx",
        data=Cifar10(side=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        first_group=1,
        images=1000,
    ),
    # The first three convolutions are a group of their own, since in fp32 they make this model faster and better.
    "mobilenetv2": Source(
        path=DATA / "mobilenetv2_cifar10.onnx",
        data=Cifar10(side=128, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        first_group=3,
        images=300,
    ),
}


def group_ops(space: TuningSpace, first: int) -> list[list[str]]:
    """The tunable ops in graph order, cut into ``GROUPS`` pieces."""
    names = [op.name for op in space.tunable]
    rest = np.array_split(np.array(names[first:], dtype=object), GROUPS - 1)
    return [names[:first], *(list(piece) for piece in rest)]


def is_certain(speed: Sequence[float]) -> bool:
    """Whether the interval of a speedup, (value, low, high), is narrow enough for a table."""
    value, low, high = speed
    return high - low <= WIDEST * value


def make_config(space: TuningSpace, groups: list[list[str]], mask: int, algorithm: int) -> QuantizationConfig:
    """The config with the groups of ``mask`` in fp32 (bit i is group i) and the others in int8."""
    quantized = {name for i, group in enumerate(groups) if not mask >> i & 1 for name in group}
    ops = {
        op.name: dataclasses.replace(op.preferred, calibration=ALGORITHMS[algorithm])
        for op in space.ops
        if op.name in quantized
    }
    return QuantizationConfig(ops=ops)


def batches(name: str, images: Images, size: int) -> Iterator[Feeds]:
    """The images as feeds of ``size`` for the input ``name``."""
    for start in range(0, len(images), size):
        yield {name: images[start : start + size]}


class Recorder:
    """Measures one config after the other."""

    def __init__(self, source: Source) -> None:
        self._adapter = get_adapter("onnxruntime")
        self._model = self._adapter.load(source.path)
        self._input = self._model.inputs[0].name
        self.space = self._adapter.space(self._model)
        self.groups = group_ops(self.space, source.first_group)
        calibration, _ = source.data.calibration(200)
        feeds = batches(self._input, calibration, BATCH)
        self._statistics = self._adapter.calibrate(self._model, feeds, seed=0)
        self._few = list(batches(self._input, calibration[:32], 32))
        self._images, self._labels = source.data.evaluation(source.images)
        self._one = {self._input: self._images[:1]}
        self._baseline = self._adapter.runner(self._model, Execution())
        self._expected = [self._baseline(feeds) for feeds in self._few]
        self.baseline_accuracy = self._accuracy(self._baseline)

    def _accuracy(self, run: Runner) -> float:
        feeds = batches(self._input, self._images, BATCH)
        answers = np.concatenate([run(batch)[0].argmax(axis=1) for batch in feeds])
        return float((answers == self._labels).mean())

    def measure(self, mask: int) -> list[list[float | int]]:
        """The rows of one choice of groups, one for each algorithm."""
        configs = [make_config(self.space, self.groups, mask, algorithm) for algorithm in range(len(ALGORITHMS))]
        candidates = [self._adapter.apply(self._model, config, self._statistics) for config in configs]
        runs = [self._adapter.runner(candidate, Execution()) for candidate in candidates]
        speed = self._speed(runs[0])
        rows: list[list[float | int]] = []
        for algorithm, (candidate, run) in enumerate(zip(candidates, runs, strict=True)):
            accuracy = self._accuracy(run)
            error = noise_to_signal(self._expected, [run(feeds) for feeds in self._few])
            loss = (self.baseline_accuracy - accuracy) / self.baseline_accuracy
            rows.append(
                [
                    mask,
                    algorithm,
                    round(accuracy, 5),
                    round(loss, 5),
                    *speed,
                    float(f"{error:.4g}"),
                    candidate.size_bytes,
                ]
            )
        return rows

    def speed(self, mask: int) -> tuple[float, float, float]:
        """The speedup of one choice of groups, timed anew, and the ends of its interval."""
        config = make_config(self.space, self.groups, mask, 0)
        candidate = self._adapter.apply(self._model, config, self._statistics)
        return self._speed(self._adapter.runner(candidate, Execution()))

    def _speed(self, run: Runner) -> tuple[float, float, float]:
        """The most certain one of a few attempts: now and then another process takes half of the time away."""
        found = []
        for _ in range(ATTEMPTS):
            latency = compare_latency(lambda: self._baseline(self._one), lambda: run(self._one), LATENCY)
            found.append((round(latency.speedup, 5), round(latency.interval.low, 5), round(latency.interval.high, 5)))
            if is_certain(found[-1]):
                break
        return min(found, key=lambda speed: (speed[2] - speed[1]) / speed[0])

    def profile(self) -> dict[str, list[Any]]:
        """Seconds of each group in fp32 and in int8, and of converting its last op's output once."""
        config = make_config(self.space, self.groups, 0, 0)
        candidate = self._adapter.apply(self._model, config, self._statistics)
        assert isinstance(self._adapter, CostModel)
        fp32, int8 = self._adapter.op_seconds([self._model, candidate], self._one, Execution())
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
    done = {row[0] for row in rows}
    started = time.monotonic()
    with part.open("a") as file:
        for mask in range(2**GROUPS):
            if mask not in done:
                measured = recorder.measure(mask)
                rows += measured
                file.writelines(json.dumps(row) + "\n" for row in measured)
                file.flush()
    uncertain = sorted({row[0] for row in rows if not is_certain(row[4:7])})
    for mask in uncertain:
        speed = recorder.speed(mask)
        rows = [[*row[:4], *speed, *row[7:]] if row[0] == mask else row for row in rows]
    print(f"{len(rows)} configs, {len(uncertain)} timed anew, {time.monotonic() - started:.0f} s")
    table = {
        "format": 1,
        "model": source.path.name,
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
