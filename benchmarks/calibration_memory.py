"""Peak memory of calibrating on more and more samples, each number of samples in a process of its own.

Run from the root of the repository: ``python benchmarks/calibration_memory.py``. The batches are made one at a time, as
a data loader would, so that what grows is what calibration keeps.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from shared import SUBJECTS, argument_parser, existing, print_table, write_result

from autotune.adapter import Feeds
from autotune.adapters.onnxruntime.calibration import calibrate


def batches(model: onnx.ModelProto, samples: int, batch: int, seed: int) -> Iterator[Feeds]:
    """Random pictures of the model's own size."""
    value = model.graph.input[0]
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
    rng = np.random.default_rng(seed)
    for start in range(0, samples, batch):
        yield {value.name: rng.standard_normal((min(batch, samples - start), *shape), dtype=np.float32)}


def measure(arguments: argparse.Namespace) -> None:
    """Calibrate in this process and print its peak resident memory."""
    model = onnx.load(arguments.model)
    constants = {value.name for value in model.graph.initializer}
    read = [name for node in model.graph.node for name in node.input if name not in constants]
    axes = {node.input[0]: 1 for node in model.graph.node if node.op_type == "Conv"}
    start = time.process_time()
    calibrate(
        model,
        list(dict.fromkeys(name for name in read if name)),
        axes,
        batches(model, arguments.child, arguments.batch, arguments.seed),
        arguments.seed,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"samples": arguments.child, "peak_bytes": peak, "cpu_s": time.process_time() - start}))


def main() -> None:
    """Measure in child processes, print, write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model", type=Path, help="MobileNetV2 by default")
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        measure(arguments)
        return
    path = SUBJECTS["mobilenetv2"].path if arguments.model is None else existing(arguments.model)
    rows: list[dict[str, Any]] = []
    for samples in arguments.samples:
        command = [sys.executable, __file__, "--child", str(samples), "--model", str(path)]
        command += ["--batch", str(arguments.batch), "--seed", str(arguments.seed)]
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(child.stdout)
        row["growth"] = row["peak_bytes"] / rows[-1]["peak_bytes"] - 1 if rows else 0.0
        rows.append(row)
    print_table(
        ["samples", "peak MiB", "growth", "CPU s"],
        [
            [row["samples"], f"{row['peak_bytes'] / 2**20:.1f}", f"{row['growth']:.2%}", f"{row['cpu_s']:.1f}"]
            for row in rows
        ],
    )
    result = {"model": path.name, "batch": arguments.batch, "memory": rows}
    write_result(arguments.json, "calibration_memory", arguments.seed, result)


if __name__ == "__main__":
    main()
