"""How fast ONNX Runtime's kernels for weights in blocks are, beside fp32: what the sizes of blocks were chosen by.

    python benchmarks/weight_kernels.py [--calls 60] [--seed 0] [--json FILE]

*MatMuls*: a matrix of 384 x 1,536 and 1, 8 and 64 rows, zero points whole or fractions. *Tables*: 30,522 rows of 384
values, of which 1, 64 and 512 are read. Microseconds on one thread, medians, calls taking turns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from shared import argument_parser, print_table, session, write_result

from autotune.adapter import Array

INPUTS, OUTPUTS = 384, 1536
ROWS, VALUES = 30522, 384
BLOCKS = (32, 64, 128)
_WARMUP = 5


def opened(op_type: str, elem_type: int, constants: Mapping[str, Array], **attributes: int) -> ort.InferenceSession:
    """A session of one node whose inputs are these, all of them constant but ``x``."""
    node = helper.make_node(op_type, list(constants), ["y"], "node")
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    node.domain = "" if op_type in ("MatMul", "Gather") else "com.microsoft"
    graph = helper.make_graph(
        [node],
        "kernel",
        [helper.make_tensor_value_info("x", elem_type, list(constants["x"].shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name != "x"],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return session(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def timed(sessions: Mapping[str, ort.InferenceSession], x: Array, calls: int) -> dict[str, float]:
    """Microseconds of each, the median over calls that take turns."""
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(calls + _WARMUP):
        for name, each in sessions.items():
            start = time.perf_counter()
            each.run(None, {"x": x})
            if turn >= _WARMUP:
                found[name].append(time.perf_counter() - start)
    return {name: 1e6 * float(np.median(seconds)) for name, seconds in found.items()}


def blocks(random: np.random.Generator, shape: tuple[int, int], bits: int, block: int, *, whole: bool) -> list[Array]:
    """Integers in bytes, scales and zero points of a matrix (rows, values)."""
    rows, count = shape[0], shape[1] // block
    zeros = random.integers(0, 256, (rows, -(-count * bits // 8)), dtype=np.uint8)
    return [
        random.integers(0, 256, (rows, shape[1] * bits // 8), dtype=np.uint8),
        np.full((rows, count), 0.01, np.float32),
        zeros if whole else random.uniform(0, 2**bits - 1, (rows, count)).astype(np.float32),
    ]


def matmuls(rows: int, calls: int, seed: int) -> dict[str, float]:
    """Microseconds by kernel, for a number of rows of activations."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, INPUTS)).astype(np.float32)
    weight = random.standard_normal((INPUTS, OUTPUTS)).astype(np.float32)
    sessions = {"fp32": opened("MatMul", TensorProto.FLOAT, {"x": x, "w": weight})}
    for bits in (8, 4):
        for block in BLOCKS:
            for whole in (True, False) if bits == 4 else (True,):
                integers, scales, zeros = blocks(random, (OUTPUTS, INPUTS), bits, block, whole=whole)
                packed = integers.reshape(OUTPUTS, INPUTS // block, -1)
                constants = {"x": x, "integers": packed, "scales": scales, "zeros": zeros}
                shape = {"K": INPUTS, "N": OUTPUTS, "bits": bits, "block_size": block, "accuracy_level": 4}
                name = f"{bits} bits, {block}" + ("" if whole else ", fractions")
                sessions[name] = opened("MatMulNBits", TensorProto.FLOAT, constants, **shape)
    return timed(sessions, x, calls)


def tables(count: int, calls: int, seed: int) -> dict[str, float]:
    """Microseconds by kernel, for a number of rows that are read."""
    random = np.random.default_rng(seed)
    x = random.integers(0, ROWS, (1, count))
    table = random.standard_normal((ROWS, VALUES)).astype(np.float32)
    sessions = {"fp32": opened("Gather", TensorProto.INT64, {"table": table, "x": x})}
    for bits in (8, 4):
        for block in BLOCKS:
            integers, scales, zeros = blocks(random, (ROWS, VALUES), bits, block, whole=True)
            constants = {"integers": integers, "x": x, "scales": scales, "zeros": zeros}
            axes = {"gather_axis": 0, "quantize_axis": 1, "bits": bits, "block_size": block}
            sessions[f"{bits} bits, {block}"] = opened("GatherBlockQuantized", TensorProto.INT64, constants, **axes)
    return timed(sessions, x, calls)


def main() -> None:
    """Run, print both tables, and write JSON."""
    parser = argument_parser(__doc__)
    parser.add_argument("--calls", type=int, default=60)
    options = parser.parse_args()
    result: dict[str, Any] = {}
    for title, counts, measure in (("MatMuls", (1, 8, 64), matmuls), ("tables", (1, 64, 512), tables)):
        columns = {count: measure(count, options.calls, options.seed) for count in counts}
        result[title] = columns
        print(f"\n{title}\n")
        rows = [[name, *(f"{columns[count][name]:.0f}" for count in counts)] for name in columns[counts[0]]]
        print_table(["", *(f"{count} rows" for count in counts)], rows)
    write_result(options.json, "weight_kernels", options.seed, result)


if __name__ == "__main__":
    main()
