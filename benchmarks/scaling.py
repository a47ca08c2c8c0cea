"""Seconds per op of every step that a candidate goes through, on chains of 250 to 5,000 ops.

Run from the root of the repository: ``python benchmarks/scaling.py``. A step whose time grows linearly has the same
figure in every row; one that grows with the square has twenty times the first row's in the last. The chain repeats
convolution, Relu, convolution, addition, with a Concat after every tenth addition; its tensors are small, so that what
is measured is the handling of the graph and not arithmetic.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from shared import argument_parser, print_rows, write_result

from autotune.adapter import Execution
from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter
from autotune.config import QuantizationConfig

_CHANNELS = 4


def chain(ops: int, seed: int = 0) -> onnx.ModelProto:
    """A model of about ``ops`` ops that can be quantized."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    made = 0

    def convolution(source: str, channels: int) -> str:
        nonlocal made
        values = rng.normal(0, 1 / np.sqrt(channels), (_CHANNELS, channels, 1, 1)).astype(np.float32)
        constants.append(numpy_helper.from_array(values, f"w{made}"))
        constants.append(numpy_helper.from_array(rng.normal(0, 0.1, _CHANNELS).astype(np.float32), f"b{made}"))
        nodes.append(helper.make_node("Conv", [source, f"w{made}", f"b{made}"], [f"c{made}"], f"conv_{made}"))
        made += 1
        return f"c{made - 1}"

    def node(kind: str, *sources: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(kind, list(sources), [name], name, **attributes))
        return name

    tensor, additions = "x", 0
    while made < ops:
        inner = node("Relu", convolution(tensor, _CHANNELS))
        added = node("Add", convolution(inner, _CHANNELS), tensor)
        made += 1
        additions += 1
        # The range stays what it was, however long the chain.
        tensor = node("Clip", added, "low", "high")
        if additions % 10 == 0:
            joined = node("Concat", tensor, inner, axis=1)
            made += 1
            tensor = convolution(joined, 2 * _CHANNELS)
    constants += [
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("low", -2.0), ("high", 2.0))
    ]
    shape: list[str | int | None] = ["batch", _CHANNELS, 4, 4]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def measure(ops: int, options: argparse.Namespace) -> dict[str, object]:
    """Milliseconds per op of each step for a chain of this length."""
    adapter = OnnxRuntimeAdapter()
    proto = chain(ops)
    rng = np.random.default_rng(options.seed)
    batches = [{"x": rng.normal(size=(1, _CHANNELS, 4, 4)).astype(np.float32)} for _ in range(8)]
    found: dict[str, float] = {}

    def timed(step: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        found[step] = time.perf_counter() - started
        return result

    model = timed("load", lambda: adapter.load(proto))
    space = timed("space", lambda: adapter.space(model))
    statistics = timed("calibrate", lambda: adapter.calibrate(model, batches, seed=0))
    preferred = space.preferred
    plain = QuantizationConfig(ops=preferred.ops)
    half = QuantizationConfig(ops=dict(list(preferred.ops.items())[::2]))
    candidate = timed("apply, no recipe", lambda: adapter.apply(model, plain, statistics))
    timed("apply, every other op", lambda: adapter.apply(model, half, statistics))
    if options.recipes:
        timed("apply, preferred recipe", lambda: adapter.apply(model, preferred, statistics))
    execution = Execution()
    timed("session of fp32", lambda: adapter.runner(model, execution))
    timed("session of the candidate", lambda: adapter.runner(candidate, execution))
    timed("profile", lambda: adapter.op_seconds([model, candidate], batches[0], execution))
    timed("conversions", lambda: adapter.conversion_seconds(model, statistics, execution))
    timed("neighbours", lambda: adapter.neighbours(model))
    timed("saturation", lambda: adapter.saturating_ops(candidate))
    with tempfile.TemporaryDirectory() as folder:
        timed("save", lambda: adapter.save(candidate, Path(folder) / "candidate.onnx", {}))
    count = len(space.tunable)
    return {"ops": count, **{f"{step} (ms)": 1000 * seconds / count for step, seconds in found.items()}}


def main() -> None:
    """Parse the command line and run."""
    parser = argument_parser(__doc__)
    parser.add_argument("ops", nargs="*", type=int, default=[250, 500, 2000, 5000], help="lengths of the chain")
    parser.add_argument("--recipes", action="store_true", help="with the preferred recipe, too")
    options = parser.parse_args()
    rows = []
    for ops in options.ops:
        rows.append(measure(ops, options))
        print_rows([{"step": step, str(ops): value} for step, value in rows[-1].items()])
    steps = [step for step in rows[0] if step != "ops"]
    print_rows([{"milliseconds per op": step, **{f"{row['ops']} ops": row[step] for row in rows}} for step in steps])
    write_result(options.json, "scaling", options.seed, {"rows": rows})


if __name__ == "__main__":
    main()
