"""Record a space that is evaluated completely: groups of ops, int8 or fp32, under two calibration algorithms.

The result serves as a recorded table to test strategies without a model (``tests/strategies/data``): for each of the
512 configs (of 8 groups) which images of a fixed part of the evaluation set it answers rightly, the speedup from
interleaved runs, the output error on calibration images, and the size. Recipes are left out: they would hide most of
the losses that a search has to find its way around. Two configs that differ in the algorithm alone run the same
kernels, so that they share one measured speedup. Run from the root of the repository:

    python benchmarks/record_table.py resnet20 tests/strategies/data/resnet20.json

A table is of one kind of CPU, and each kind has a file of its own: ``resnet20_avx2.json`` is of x86 without VNNI, where
integer products may saturate, so that weights have 7 bits (``reduce_range``) as the adapter prefers there. Where
instructions are hidden from the process, by a hypervisor or by CPUID faulting, Linux may list them all the same:
``--hidden avx512 amx`` leaves those that begin so out of the host that the table names and decides by.

Answers do not depend on what else the machine does, speedups do: ``--only outputs`` records the former in the
background, ``--only speeds`` the latter in minutes on a machine that is otherwise idle; without it both are completed
and the table is written. An interrupted recording continues with the same command; what is recorded lies beside the
table in a folder that may be deleted once the table is there.
"""

from __future__ import annotations

import argparse
import base64
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

sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: an installed package is the one that is measured

from autotune.adapter import CostModel, Execution, Feeds, Runner
from autotune.adapters import get_adapter
from autotune.config import MINMAX, CalibrationAlgorithm, CalibrationMethod, QuantizationConfig, Recipe
from autotune.evaluation import LatencyOptions, compare_latency
from autotune.evaluation.accuracy.metrics import TopK
from autotune.host import Host, current_host
from autotune.space import TuningSpace
from autotune.tuning.output_error import output_error

DATA = Path("../shared/data")
QUICKSTART = Path("examples/quickstart")
GROUPS = 8
ALGORITHMS = (MINMAX, CalibrationAlgorithm(CalibrationMethod.PERCENTILE, 99.99))
BATCH = 50
CALIBRATION = 200
FEW = 32
"""Calibration images on which output errors are taken."""

COLUMNS = ("fp32_groups", "algorithm", "speedup", "low", "high", "output_error", "size_bytes", "answers")
WIDEST = 0.1
ATTEMPTS = 4
LATENCY = LatencyOptions(min_pairs=40, max_pairs=160, interval_width=0.015, max_seconds=1.2)


Images: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]
Speed: TypeAlias = tuple[float, float, float]
"""A speedup and the ends of its interval."""


def visible_host(hidden: Sequence[str]) -> Host:
    """This host, without the features that begin with one of ``hidden``."""
    host = current_host()
    return dataclasses.replace(host, features=tuple(f for f in host.features if not f.startswith(tuple(hidden))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cifar10:
    """How a model's images are made from those of CIFAR-10.

    Attributes:
        side: Side of the square input, in pixels.
        mean: Mean per channel.
        std: Standard deviation per channel.
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
        data: The images.
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
        images=2000,
    ),
    # The first three convolutions are a group of their own, since in fp32 they make this model faster and better.
    "mobilenetv2": Source(
        path=DATA / "mobilenetv2_cifar10.onnx",
        data=Cifar10(side=128, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        first_group=3,
        images=1000,
    ),
}


def group_ops(space: TuningSpace, first: int, count: int) -> list[list[str]]:
    """The tunable ops in graph order, cut into ``count`` pieces of which the first is given."""
    names = [op.name for op in space.tunable]
    rest = np.array_split(np.array(names[first:], dtype=object), count - 1)
    return [names[:first], *(list(piece) for piece in rest)]


def is_certain(speed: Speed) -> bool:
    """Whether the interval of a speedup, (value, low, high), is narrow enough for a table."""
    value, low, high = speed
    return high - low <= WIDEST * value


def make_config(
    space: TuningSpace, groups: list[list[str]], mask: int, algorithm: int, recipe: Recipe | None = None
) -> QuantizationConfig:
    """The config with the groups of ``mask`` in fp32 (bit i is group i) and the others in int8."""
    quantized = {name for i, group in enumerate(groups) if not mask >> i & 1 for name in group}
    ops = {
        op.name: dataclasses.replace(op.preferred, calibration=ALGORITHMS[algorithm])
        for op in space.ops
        if op.name in quantized
    }
    return QuantizationConfig(ops=ops, recipe=recipe or Recipe())


def batches(name: str, images: Images, size: int) -> Iterator[Feeds]:
    """The images as feeds of ``size`` for the input ``name``."""
    for start in range(0, len(images), size):
        yield {name: images[start : start + size]}


class Recorder:
    """Measures one choice of groups after the other, and keeps what was measured in a folder.

    Args:
        source: The model and data to record.
        folder: Folder that keeps outputs and speedups until the table is complete.
        host: The machine, as this process sees it.
        groups: How many groups the ops are cut into.
    """

    def __init__(self, source: Source, folder: Path, host: Host, groups: int) -> None:
        self._folder = folder
        self.host = host
        self._recipe = Recipe(reduce_range=host.saturates_u8s8)
        folder.mkdir(parents=True, exist_ok=True)
        self._adapter = get_adapter("onnxruntime")
        self._model = self._adapter.load(source.path)
        self._input = self._model.inputs[0].name
        self.model_outputs = self._model.outputs
        self.space = self._adapter.space(self._model)
        self.groups = group_ops(self.space, source.first_group, groups)
        calibration, _ = source.data.calibration(CALIBRATION)
        feeds = batches(self._input, calibration, BATCH)
        self._statistics = self._adapter.calibrate(self._model, feeds, seed=0)
        self._calibration = calibration[:FEW]
        self._images, self.labels = source.data.evaluation(source.images)
        self._one = {self._input: self._images[:1]}
        self._baseline = self._adapter.runner(self._model, Execution())

    def outputs(self, mask: int | None) -> tuple[Images, Images, list[int]]:
        """Outputs of one choice of groups: (algorithms, images, classes) on calibration and on evaluation images.

        With them the sizes of the models in bytes. None is the fp32 model, as if it were one algorithm.
        """
        path = self._folder / f"{'fp32' if mask is None else mask}.npz"
        if not path.exists():
            models = [self._model] if mask is None else [self._candidate(mask, a) for a in range(len(ALGORITHMS))]
            runs = [self._adapter.runner(model, Execution()) for model in models]
            found = [np.stack([self._run(run, images) for run in runs]) for images in (self._calibration, self._images)]
            sizes = [model.size_bytes for model in models]
            part = path.with_suffix(".part.npz")
            np.savez(part, calibration=found[0], evaluation=found[1], sizes=sizes)
            part.rename(path)
        with np.load(path) as stored:
            return stored["calibration"], stored["evaluation"], [int(size) for size in stored["sizes"]]

    def _run(self, run: Runner, images: Images) -> Images:
        return np.concatenate([run(batch)[0] for batch in batches(self._input, images, BATCH)])

    def _candidate(self, mask: int, algorithm: int) -> Any:
        config = make_config(self.space, self.groups, mask, algorithm, self._recipe)
        return self._adapter.apply(self._model, config, self._statistics)

    def speeds(self) -> dict[int, Speed]:
        """The speedup of every choice of groups; those not yet there, or too uncertain, are measured."""
        path = self._folder / "speeds.json"
        speeds = {int(mask): speed for mask, speed in json.loads(path.read_text()).items()} if path.exists() else {}
        for mask in range(2 ** len(self.groups)):
            if mask not in speeds or not is_certain(speeds[mask]):
                speeds[mask] = self._speed(self._adapter.runner(self._candidate(mask, 0), Execution()))
                path.write_text(json.dumps(speeds))
        return speeds

    def _speed(self, run: Runner) -> Speed:
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
        assert isinstance(self._adapter, CostModel)
        fp32, int8 = self._adapter.op_seconds([self._model, self._candidate(0, 0)], self._one, Execution())
        crossing = self._adapter.conversion_seconds(self._model, self._statistics, Execution())
        return {
            "seconds": [[_micro(sum(by.get(op, 0.0) for op in group)) for by in (fp32, int8)] for group in self.groups],
            "crossing_s": [_micro(crossing.get(group[-1], 0.0)) for group in self.groups],
        }


def make_table(recorder: Recorder, source: Source, hidden: Sequence[str]) -> dict[str, Any]:
    """The table as it is stored; answers are packed bits in base64, in the order of the evaluation images.

    ``hidden`` says that the process saw less of the CPU than there is, which the host's features say already.
    """
    calibration, evaluation, _ = recorder.outputs(None)
    right = evaluation[0].argmax(axis=1) == recorder.labels
    outputs = recorder.model_outputs
    rows = []
    for mask, speed in recorder.speeds().items():
        on_calibration, on_evaluation, sizes = recorder.outputs(mask)
        for algorithm, size in enumerate(sizes):
            error = output_error(calibration[:, None, :FEW], on_calibration[algorithm : algorithm + 1, None], outputs)
            answers = on_evaluation[algorithm].argmax(axis=1) == recorder.labels
            rows.append([mask, algorithm, *speed, float(f"{error:.4g}"), size, pack(answers)])
    margins = -TopK().difficulty((evaluation[0],), recorder.labels)
    return {
        "format": 2,
        "model": source.path.name,
        "images": source.images,
        "baseline_answers": pack(right),
        "baseline_margins": base64.b64encode(margins.astype(np.float16).tobytes()).decode(),
        "host": recorder.host.to_json(),
        "hidden_features": list(hidden),
        "groups": recorder.groups,
        "algorithms": [str(algorithm) for algorithm in ALGORITHMS],
        "profile": recorder.profile(),
        "columns": COLUMNS,
        "rows": sorted(rows),
    }


def pack(answers: npt.NDArray[np.bool_]) -> str:
    """Right or wrong, a bit each."""
    return base64.b64encode(np.packbits(answers).tobytes()).decode()


def _micro(seconds: float) -> float:
    """Rounded to a tenth of a microsecond."""
    return round(seconds, 7)


def main() -> None:
    """Record what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SOURCES)
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=int, help="evaluation images to use instead of the model's own number")
    parser.add_argument("--groups", type=int, default=GROUPS, help="each one more doubles what there is to record")
    parser.add_argument("--only", choices=("outputs", "speeds"))
    parser.add_argument("--hidden", nargs="*", default=(), help="beginnings of features that this process has not")
    args = parser.parse_args()
    source = SOURCES[args.model]
    if args.images:
        source = dataclasses.replace(source, images=args.images)
    recorder = Recorder(source, args.table.with_suffix(".parts"), visible_host(args.hidden), args.groups)
    started = time.monotonic()
    if args.only != "speeds":
        for mask in (None, *range(2**args.groups)):
            recorder.outputs(mask)
    if args.only != "outputs":
        recorder.speeds()
    print(f"recorded in {time.monotonic() - started:.0f} s")
    if args.only is None:
        args.table.write_text(json.dumps(make_table(recorder, source, args.hidden)).replace("], [", "],\n[") + "\n")


if __name__ == "__main__":
    main()
