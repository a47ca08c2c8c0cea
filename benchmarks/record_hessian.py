"""Record the second-order sensitivities of ResNet-20 in its tables, so that strategy ``hawq`` can be replayed there.

They are those that ``hawq`` has in a run on the PyTorch module: the mean of the Hessian's diagonal over an op's weights
times their squared quantization error. One loss compares outputs with fp32's own, the other is the cross entropy with
the labels. Both take four probes, the fewest that a run takes, on 32 calibration images. A group of the table has the
sum of its ops, as the second-order error has. Weights are rounded by their scheme alone, without recipes: tables
of machines that differ in the bits of a weight have the same figures. Run from the root of the repository, with ``pip
install '.[pytorch]'``, after ``record_table.py``, which writes tables without them:

    python benchmarks/record_hessian.py tests/strategies/data/resnet20.json tests/strategies/data/resnet20_avx2.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pytorch import SUBJECT, network

from autotune.adapter import Example
from autotune.adapters import get_adapter
from autotune.adapters.pytorch.export import exported
from autotune.adapters.pytorch.gradients import ModuleGradients
from autotune.adapters.pytorch.onnx import to_onnx
from autotune.tuning.gradients import LabelledFeeds, source_sensitivity

IMAGES, BATCH = 32, 16
LOSSES = ("outputs", "labels")


def sensitivities() -> dict[str, dict[str, float]]:
    """By loss and op of the module: its second-order sensitivity."""
    batches = SUBJECT.batches("calibration", IMAGES, batch=BATCH)
    program = exported(network(), Example([torch.from_numpy(batches[0][0])]))
    adapter = get_adapter("onnxruntime")
    model = adapter.load(to_onnx(program))
    feeds = [LabelledFeeds({model.inputs[0].name: images}, labels) for images, labels in batches]
    gradients, space = ModuleGradients(program), adapter.space(model)
    return {
        loss: source_sensitivity(gradients, space, feeds, lambda: False, labelled=loss == "labels") for loss in LOSSES
    }


def module_name(node: str) -> str:
    """The name in the module of a node of its exported file: ``/blocks/blocks.0/conv1/Conv`` is ``blocks.0.conv1``."""
    parts = node.strip("/").split("/")[:-1]
    return ".".join(
        part for part, after in zip(parts, [*parts[1:], ""], strict=False) if not after.startswith(f"{part}.")
    )


def of_groups(found: Mapping[str, float], groups: list[list[str]]) -> list[float]:
    """The sums over the ops of each group; every op that has a figure must be in one."""
    names = [[module_name(node) for node in group] for group in groups]
    missing = set(found) - {name for group in names for name in group}
    assert not missing, f"{sorted(missing)} are in no group of the table"
    return [float(f"{sum(found.get(name, 0.0) for name in group):.4g}") for group in names]


def main() -> None:
    """Write the figures into the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    paths = parser.parse_args().tables
    found = sensitivities()
    for path in paths:
        table = json.loads(path.read_text())
        rows = table.pop("rows")
        table["hessian"] = {loss: of_groups(found[loss], table["groups"]) for loss in LOSSES}
        path.write_text(json.dumps({**table, "rows": rows}).replace("], [", "],\n[") + "\n")
        print(path.name, table["hessian"])


if __name__ == "__main__":
    main()
