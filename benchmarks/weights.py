"""The effect and the price of weights in fewer bits: MatMuls and tables in blocks, and LSTM in dynamic int8.

    python benchmarks/weights.py [--minilm runs/minilm] [--texts 1200] [--pairs 60] [--seed 0] [--json FILE]

Three tables. *Rounding*: the error of single MatMuls of MiniLM on texts that no algorithm saw, beside what ONNX
Runtime ships (its 4-bit and 8-bit kernels for rounding to nearest, and the GPTQ in its package). *MiniLM*: the whole
model, of which ``benchmarks/minilm.py`` says what it is; without ``--minilm`` both are left out. *LSTM*: handwritten
digits, read row by row; the recurrent weights are random, as PyTorch draws them, and a linear head is fitted to the
last state by ridge regression, so that there are labels to get wrong. Speed: calls of one sample in turn with fp32, a
ratio of medians.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits
from onnxruntime.quantization.neural_compressor.weight_only import gptq, qdq_tensor
from shared import argument_parser, print_table, write_result
from sklearn.datasets import load_digits
from transformer import read

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter, weight_only
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp, quantizable_ops
from autotune.algorithms.blocks import BlockGrid, block_grid, round_to_grid, values_of
from autotune.algorithms.gptq import matmul_moments, round_by_gptq
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig, Recipe, WeightOnly
from autotune.evaluation import LatencyOptions, compare_latency

ADAPTER = OnnxRuntimeAdapter()
BLOCKS = (32, 64, 128)
MATRICES = 6
HIDDEN = (128, 256, 512)


def decibel(reference: Array, actual: Array) -> float:
    """Signal to quantization noise."""
    return 10 * float(np.log10(np.square(reference).sum() / np.square(actual - reference).sum()))


def speed(fp32: OnnxModel, candidate: OnnxModel, feeds: Feeds, pairs: int) -> float:
    """Time of the first divided by that of the second."""
    first, second = (ADAPTER.runner(model, Execution()) for model in (fp32, candidate))
    options = LatencyOptions(min_pairs=pairs // 2, max_pairs=pairs, max_seconds=20.0)
    return compare_latency(lambda: first(feeds), lambda: second(feeds), options).speedup


def shipped_nearest(rows: Array, bits: int, block: int) -> Array:
    """A matrix (outputs, inputs) rounded by ONNX Runtime's own kernel for rounding to nearest."""
    outputs, inputs = rows.shape
    count = -(-inputs // block)
    integers = np.zeros((outputs, count, block * bits // 8), np.uint8)
    scales, zero_points = np.zeros((outputs, count), np.float32), np.zeros((outputs, -(-count * bits // 8)), np.uint8)
    kernel = quantize_matmul_4bits if bits == 4 else quantize_matmul_8bits
    kernel(integers, np.ascontiguousarray(rows.T), scales, zero_points, block, outputs, inputs, False)
    if bits == 4:
        integers, zero_points = (
            np.stack([each & 15, each >> 4], axis=-1).reshape(*each.shape[:-1], -1) for each in (integers, zero_points)
        )
    grid = BlockGrid(scales=scales, zero_points=zero_points[:, :count], bits=bits, block=block)
    return values_of(integers, grid, inputs)


def rounded(rows: Array, seen: Array, bits: int, block: int) -> Mapping[str, Array]:
    """The matrix by every algorithm, ONNX Runtime's first."""
    moments = matmul_moments([seen])
    theirs = gptq(rows.T.copy(), moments[0].astype(np.float64), num_bits=bits, group_size=block).T
    stored = np.asarray(qdq_tensor(np.ascontiguousarray(theirs), bits, block, "asym", "uint")).reshape(rows.shape)
    found = {"shipped RTN": shipped_nearest(rows, bits, block), "shipped GPTQ": stored}
    for algorithm in (WeightOnly.RTN, WeightOnly.HQQ):
        grid = block_grid(rows, bits, block, algorithm)
        found[algorithm] = values_of(round_to_grid(rows, grid), grid, rows.shape[1])
    scales, zero_points = (np.repeat(each, block, axis=1)[None] for each in (grid.scales, grid.zero_points))
    found[WeightOnly.GPTQ] = round_by_gptq(rows[None], scales, zero_points, moments, (0, 2**bits - 1))[0]
    return found


def rounding(model: OnnxModel, feeds: Sequence[Feeds]) -> list[dict[str, Any]]:
    """Error of single MatMuls, the mean over some of MiniLM's, in dB below their outputs."""
    graph = Graph(model.proto)
    ops = [op for op in quantizable_ops(graph)[0] if op.node.op_type == "MatMul" and op.weight is not None]
    ops = ops[:: max(1, len(ops) // MATRICES)][:MATRICES]
    inputs = [_inputs(model, ops, batch) for batch in feeds]
    rows = []
    for bits in (4, 8):
        for block in BLOCKS:
            errors: dict[str, list[float]] = {}
            for op in ops:
                weight = weight_only.weight_rows(op, model.tensor(graph.initializers[str(op.weight)]))
                x = np.concatenate([each[op.activations[0]] for each in inputs])
                seen, fresh = x[: len(x) // 2], x[len(x) // 2 :]
                for name, matrix in rounded(weight, seen, bits, block).items():
                    errors.setdefault(name, []).append(decibel(fresh @ weight.T, fresh @ matrix.T))
            rows.append({"bits": bits, "block": block, **{name: float(np.mean(each)) for name, each in errors.items()}})
    return rows


def _inputs(model: OnnxModel, ops: Sequence[QuantizableOp], feeds: Feeds) -> dict[str, Array]:
    """Inputs of ops, (positions, values)."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    names = list(dict.fromkeys(op.activations[0] for op in ops))
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    arrays = ort.InferenceSession(proto.SerializeToString()).run(names, dict(feeds))
    return {name: array.reshape(-1, array.shape[-1]) for name, array in zip(names, arrays, strict=True)}


def minilm(folder: Path, texts: int, pairs: int, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the first two tables."""
    model = ADAPTER.load(folder / "minilm.onnx")
    feeds = [batch for batch, _ in read(folder, "calibration", 100)]
    statistics = ADAPTER.calibrate(model, feeds, seed=seed)
    space = ADAPTER.space(model)
    matmuls = [op.name for op in space.ops if op.op_type == "MatMul" and op.space_of(Precision.INT4_WEIGHT)]
    tables = [op.name for op in space.ops if op.op_type == "Gather"]
    eight, four = OpConfig(precision=Precision.INT8_WEIGHT), OpConfig(precision=Precision.INT4_WEIGHT)
    dynamic = {name: space.by_name[name].preferred for name in matmuls}
    cases: list[tuple[str, dict[str, OpConfig], WeightOnly]] = [("MatMuls dynamic int8", dynamic, WeightOnly.RTN)]
    for choice in (eight, four):
        cases += [(f"MatMuls {choice}", dict.fromkeys(matmuls, choice), each) for each in reversed(WeightOnly)]
        cases += [
            (f"tables {choice}", dict.fromkeys(tables, choice), each) for each in (WeightOnly.HQQ, WeightOnly.RTN)
        ]
    cases.append(("MatMuls dynamic int8, tables int4", dynamic | dict.fromkeys(tables, four), WeightOnly.HQQ))
    cases.append(("everything int4", dict.fromkeys([*matmuls, *tables], four), WeightOnly.GPTQ))
    evaluation = read(folder, "evaluation", texts)
    one = {name: array[:1] for name, array in evaluation[0][0].items()}
    score = _Score(model, [batch for batch, _ in evaluation], np.concatenate([labels for _, labels in evaluation]))
    rows = [score.row(model, "fp32", "", 1.0, 0.0)]
    for name, ops, algorithm in cases:
        candidate, seconds = _applied(model, ops, algorithm, statistics)
        shown = "" if name == "MatMuls dynamic int8" else str(algorithm)
        rows.append(score.row(candidate, name, shown, speed(model, candidate, one, pairs), seconds))
    return rounding(model, feeds), rows


def _applied(
    model: OnnxModel, ops: Mapping[str, OpConfig], algorithm: WeightOnly, statistics: CalibrationStatistics
) -> tuple[OnnxModel, float]:
    start = time.perf_counter()
    config = QuantizationConfig(ops=ops, recipe=Recipe(weight_only=algorithm))
    return ADAPTER.apply(model, config, statistics), time.perf_counter() - start


class _Score:
    """Compares candidates with what fp32 answers."""

    def __init__(self, model: OnnxModel, feeds: Sequence[Feeds], labels: Array) -> None:
        self._feeds, self._labels = feeds, labels
        self._exact = self._answers(model)

    def row(self, model: OnnxModel, name: str, algorithm: str, faster: float, seconds: float) -> dict[str, Any]:
        """The table's row of one candidate."""
        answers = self._answers(model)
        right = (self._exact.argmax(1) == self._labels).mean()
        return {
            "model": name,
            "rounding": algorithm,
            "relative_loss_percent": 100 * float(1 - (answers.argmax(1) == self._labels).mean() / right),
            "flipped_percent": 100 * float((answers.argmax(1) != self._exact.argmax(1)).mean()),
            "sqnr_db": decibel(self._exact, answers) if (answers != self._exact).any() else float("inf"),
            "speed": faster,
            "size_mb": model.size_bytes / 1e6,
            "apply_s": seconds,
        }

    def _answers(self, model: OnnxModel) -> Array:
        run = ADAPTER.runner(model, Execution())
        return np.concatenate([run(feeds)[0] for feeds in self._feeds])


def digits_lstm(hidden: int, seed: int) -> tuple[OnnxModel, list[Feeds], Array]:
    """A model with random recurrent weights and a fitted head, its evaluation data one sample each, and labels."""
    random = np.random.default_rng(seed)
    reach = hidden**-0.5
    shapes = {"w": (1, 4 * hidden, 8), "r": (1, 4 * hidden, hidden), "b": (1, 8 * hidden)}
    constants = {name: random.uniform(-reach, reach, shape).astype(np.float32) for name, shape in shapes.items()}
    pictures, labels = load_digits(return_X_y=True)
    rows = (pictures.reshape(-1, 8, 8).transpose(1, 0, 2) / 4 - 2).astype(np.float32)
    order, training = random.permutation(len(labels)), 1000
    lstm = helper.make_node("LSTM", ["x", "w", "r", "b"], ["", "last"], "lstm", hidden_size=hidden)
    states = _session([lstm], constants, "last").run(None, {"x": rows})[0][0].astype(np.float64)
    seen = states[order[:training]]
    head = np.linalg.solve(seen.T @ seen + 1e-3 * np.eye(hidden), seen.T @ np.eye(10)[labels[order[:training]]])
    nodes = [
        lstm,
        helper.make_node("Squeeze", ["last", "first"], ["state"], "squeeze"),
        helper.make_node("MatMul", ["state", "head"], ["logits"], "head"),
    ]
    more: dict[str, Array] = {"head": head.astype(np.float32), "first": np.array([0], np.int64)}
    evaluation = order[training:]
    return (
        ADAPTER.load(_proto(nodes, constants | more, "logits")),
        [{"x": np.ascontiguousarray(rows[:, index : index + 1])} for index in evaluation],
        labels[evaluation],
    )


def _proto(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], output: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, "samples", 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _session(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], output: str) -> ort.InferenceSession:
    return ort.InferenceSession(_proto(nodes, constants, output).SerializeToString())


def lstms(pairs: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the third table."""
    rows = []
    for hidden in HIDDEN:
        model, feeds, labels = digits_lstm(hidden, seed)
        score = _Score(model, feeds, labels)
        rows.append(score.row(model, f"{hidden} fp32", "", 1.0, 0.0))
        space = ADAPTER.space(model)
        for choice in space.by_name["lstm"].precisions[0].configs():
            candidate, seconds = _applied(model, {"lstm": choice}, WeightOnly.RTN, CalibrationStatistics({}, 0))
            assert choice.weight is not None
            faster = speed(model, candidate, feeds[0], pairs)
            rows.append(score.row(candidate, f"{hidden} dynamic", str(choice.weight.granularity), faster, seconds))
        whole = ADAPTER.apply(model, space.preferred, CalibrationStatistics({}, 0))
        faster = speed(model, whole, feeds[0], pairs)
        rows.append(score.row(whole, f"{hidden} dynamic, with its head", "per_channel", faster, seconds))
    return rows


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the second and third table as it is printed."""
    return [
        row["model"],
        row["rounding"],
        f"{row['relative_loss_percent']:+.2f} %",
        f"{row['flipped_percent']:.1f} %",
        f"{row['sqnr_db']:.1f} dB",
        f"{row['speed']:.2f}x",
        f"{row['size_mb']:.1f} MB",
        f"{row['apply_s']:.1f} s",
    ]


def main() -> None:
    """Run, print the tables, and write JSON."""
    parser = argument_parser(__doc__)
    parser.add_argument("--minilm", type=Path, help="where minilm.onnx and texts.npz lie")
    parser.add_argument("--texts", type=int, default=1200)
    parser.add_argument("--pairs", type=int, default=60)
    options = parser.parse_args()
    headings = ["model", "rounding", "relative loss", "flipped", "SQNR of logits", "speed", "size", "apply"]
    result: dict[str, Any] = {"lstm": lstms(options.pairs, options.seed)}
    print_table([headings[0], "scales", *headings[2:]], [cells(row) for row in result["lstm"]])
    if options.minilm is not None:
        single, whole = minilm(options.minilm, options.texts, options.pairs, options.seed)
        result |= {"rounding": single, "minilm": whole}
        print()
        print_table(
            list(single[0]),
            [[f"{value:.1f} dB" if isinstance(value, float) else value for value in row.values()] for row in single],
        )
        print()
        print_table(headings, [cells(row) for row in whole])
    write_result(options.json, "weights", options.seed, result)


if __name__ == "__main__":
    main()
