"""The effect of execution options: QDQ or QOperator, and how far ONNX Runtime optimizes, calls taking turns.

    python benchmarks/execution_options.py [--minilm runs/minilm] [--pairs 400] [--json FILE]

Speed over the preferred candidate as it is, one thread, one sample: ratio of medians and its 95 % interval. The first
row compares the candidate with another session of itself.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from shared import SUBJECTS, argument_parser, print_rows, write_result

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig
from autotune.evaluation import LatencyOptions, compare_latency

ADAPTER = OnnxRuntimeAdapter()


def convolutions(name: str) -> tuple[OnnxModel, CalibrationStatistics, Feeds]:
    """A model of ``shared/data``, its calibration, and one sample."""
    subject = SUBJECTS[name]
    batches = subject.batches("calibration", 50)
    model = ADAPTER.load(subject.path)
    statistics = ADAPTER.calibrate(model, ({"data": images} for images, _ in batches), seed=0)
    return model, statistics, {"data": batches[0][0][:1]}


def minilm(folder: Path) -> tuple[OnnxModel, CalibrationStatistics, Feeds]:
    """The classifier that ``minilm.py`` makes."""
    model = ADAPTER.load(folder / "minilm.onnx")
    with np.load(folder / "texts.npz") as archive:
        feeds: dict[str, Array] = {spec.name: archive[f"calibration_{spec.name}"][:4] for spec in model.inputs}
    return model, ADAPTER.calibrate(model, [feeds], seed=0), {name: array[:1] for name, array in feeds.items()}


def variants(model: OnnxModel) -> Iterator[tuple[str, QuantizationConfig]]:
    """The preferred config with one execution option changed, itself first."""
    space = ADAPTER.space(model)
    preferred = dataclasses.replace(space.preferred, recipe=space.recipe.quick(space.recipe.preferred))
    yield "the same again", preferred
    for name in space.recipe.execution_options:
        for recipe in space.recipe.others(preferred.recipe, name):
            value = space.recipe.value(recipe, name)
            yield f"{name} {value}", dataclasses.replace(preferred, recipe=recipe)


def measured(case: tuple[OnnxModel, CalibrationStatistics, Feeds], pairs: int) -> Mapping[str, str]:
    """Speed of each variant over the preferred candidate."""
    model, statistics, feeds = case
    options = LatencyOptions(min_pairs=pairs // 2, max_pairs=pairs, max_seconds=20.0, interval_width=0.005)

    def call(config: QuantizationConfig) -> Callable[[], object]:
        run = ADAPTER.runner(ADAPTER.apply(model, config, statistics), Execution())
        return lambda: run(feeds)

    first = call(next(config for _, config in variants(model)))
    found = {}
    for name, config in variants(model):
        compared = compare_latency(first, call(config), options)
        found[name] = f"{compared.speedup:.3f} ({compared.interval.low:.3f}-{compared.interval.high:.3f})"
    return found


def main() -> int:
    """Measure and print."""
    parser = argument_parser(__doc__)
    parser.add_argument("--minilm", type=Path, help="where minilm.onnx and texts.npz lie")
    parser.add_argument("--pairs", type=int, default=400)
    options = parser.parse_args()
    columns = {name: measured(convolutions(name), options.pairs) for name in SUBJECTS}
    if options.minilm is not None:
        columns["minilm"] = measured(minilm(options.minilm), options.pairs)
    names = dict.fromkeys(name for column in columns.values() for name in column)
    print_rows([{"": name, **{column: found.get(name, "-") for column, found in columns.items()}} for name in names])
    write_result(options.json, "execution_options", options.seed, columns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
