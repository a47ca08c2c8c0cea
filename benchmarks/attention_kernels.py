"""ONNX Runtime's other kernels for attention and embedding against what ``tune`` makes, on the model of ``minilm.py``.

    python benchmarks/attention_kernels.py runs/minilm [--tokens 16 64 128] [--rounds 40] [--json kernels.json]

All variants compute the other MatMuls in dynamic int8. One text, one thread, three sessions of each variant, calls in
random turns: the median time of today's graph (three MatMuls that share their quantized input, then
``MultiHeadAttention``) divided by the variant's, above 1 where the variant is faster, and in brackets that of its
slowest and its fastest session: two sessions of one model differ by some percent for as long as they live. Time is that
of the calling thread's CPU, which other processes stretch less. SQNR is that of the logits against fp32, and says
whether the variant still computes the model.

- ``guarded``: each result checked for NaN, as the exporter writes it and masks with infinities need it.
- ``packed``: the matrices of query, key and value side by side as one of [384, 1152], and a Split after the MatMul.
- ``mask``: ``MultiHeadAttention`` with a mask of 0 and 1 for each token instead of a number for each pair of them.
- ``Attention``: ONNX Runtime's operator that has the three MatMuls inside, in fp32. Takes the same mask.
- ``QAttention``: its int8 form, per channel, its input quantized dynamically or with a range from calibration.
- ``EmbedLayerNormalization``: lookups, their sum and normalization in one; ``QEmbedLayerNormalization``: int8 tables.
- ``fixed shapes``: today's graph of a model whose inputs have one shape; ``joined``: its residuals as Add, so that ONNX
  Runtime makes ``SkipLayerNormalization`` of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from shared import print_table, session, write_result
from transformer import Feeds, read

from autotune.adapters.onnx.graph import Graph, attributes
from autotune.adapters.onnx.rewriting import CONTRIB_DOMAIN, replace_nodes
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.algorithms import activation_range, affine_parameters
from autotune.calibration import CalibrationStatistics
from autotune.config import MINMAX, OpConfig, Precision, QuantizedType, TensorScheme

ADAPTER = OnnxRuntimeAdapter()
MASK = "attention_mask"
WARMUP = 5
SESSIONS = 3
U8 = TensorScheme(dtype=QuantizedType.U8)

Array = npt.NDArray[Any]
Change = Callable[[onnx.ModelProto], None]


class Rewriter:
    """Collects what is to be replaced in a copy of a model."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.graph = Graph(proto)
        self.replacements: dict[str, list[onnx.NodeProto]] = {}

    def constant(self, name: str) -> Array:
        """A constant's values."""
        return np.asarray(numpy_helper.to_array(self.graph.initializers[name]))

    def add(self, name: str, values: Array) -> str:
        """A new constant."""
        self.proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def projections(self, attention: onnx.NodeProto) -> tuple[str, Array, Array]:
        """The input of query, key and value, their matrices and their biases side by side; their nodes are removed."""
        matrices, biases, source = [], [], ""
        for tensor in attention.input[:3]:
            add = self.graph.producers[tensor]
            product = self.graph.producers[add.input[0]]
            source = product.input[0]
            matrices.append(self.constant(product.input[1]))
            biases.append(self.constant(add.input[1]))
            self.replacements |= {add.name: [], product.name: []}
        return source, np.concatenate(matrices, 1), np.concatenate(biases)

    def finish(self) -> None:
        """Replace the nodes."""
        replace_nodes(self.proto, self.replacements)


def number(node: onnx.NodeProto, attribute: str) -> float:
    """A node's attribute."""
    value = attributes(node)[attribute]
    assert isinstance(value, float | int)
    return value


def attentions(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The fused attentions."""
    return [node for node in proto.graph.node if node.op_type == "MultiHeadAttention"]


def pack(proto: onnx.ModelProto) -> None:
    """One MatMul for query, key and value."""
    rewriter = Rewriter(proto)
    for attention in attentions(proto):
        source, matrix, bias = rewriter.projections(attention)
        name = attention.name
        weight, vector = rewriter.add(f"{name}/matrix", matrix), rewriter.add(f"{name}/bias", bias)
        sizes = rewriter.add(f"{name}/sizes", np.array([matrix.shape[1] // 3] * 3, np.int64))
        rewriter.replacements[name] = [
            helper.make_node("MatMul", [source, weight], [f"{name}/product"], f"{name}/product"),
            helper.make_node("Add", [f"{name}/product", vector], [f"{name}/packed"], f"{name}/packed"),
            helper.make_node("Split", [f"{name}/packed", sizes], attention.input[:3], f"{name}/split", axis=-1),
            attention,
        ]
    rewriter.finish()


def guard(proto: onnx.ModelProto) -> None:
    """Zeros where the result is no number."""
    rewriter = Rewriter(proto)
    rewriter.add("zero/guard", np.zeros((), np.float32))
    for attention in attentions(proto):
        name, output = attention.name, attention.output[0]
        attention.output[0] = f"{name}/raw"
        rewriter.replacements[name] = [
            attention,
            helper.make_node("IsNaN", [f"{name}/raw"], [f"{name}/nan"], f"{name}/nan"),
            helper.make_node("Where", [f"{name}/nan", "zero/guard", f"{name}/raw"], [output], f"{name}/guard"),
        ]
    rewriter.finish()


def mask32() -> onnx.NodeProto:
    """The mask as these operators want it."""
    return helper.make_node("Cast", [MASK], ["mask32"], "mask32", to=TensorProto.INT32)


def use_mask(proto: onnx.ModelProto) -> None:
    """A mask for each token; what is added to each score is no longer computed."""
    rewriter = Rewriter(proto)
    masks = [mask32()]
    for attention in attentions(proto):
        inputs = [*attention.input[:3], "", "mask32"]
        heads = int(number(attention, "num_heads"))
        fused = helper.make_node(
            "MultiHeadAttention", inputs, attention.output, attention.name, domain=CONTRIB_DOMAIN, num_heads=heads
        )
        rewriter.replacements[attention.name] = [*masks, fused]
        masks = []
    rewriter.finish()


def use_attention(proto: onnx.ModelProto) -> None:
    """The operator with the MatMuls inside."""
    rewriter = Rewriter(proto)
    masks = [mask32()]
    for attention in attentions(proto):
        source, matrix, bias = rewriter.projections(attention)
        name = attention.name
        inputs = [source, rewriter.add(f"{name}/matrix", matrix), rewriter.add(f"{name}/bias", bias), "mask32"]
        heads = int(number(attention, "num_heads"))
        fused = helper.make_node("Attention", inputs, attention.output, name, domain=CONTRIB_DOMAIN, num_heads=heads)
        rewriter.replacements[name] = [*masks, fused]
        masks = []
    rewriter.finish()


def quantize_attention(statistics: CalibrationStatistics | None) -> Change:
    """``Attention`` becomes ``QAttention``; with statistics its input has a constant range."""

    def change(proto: onnx.ModelProto) -> None:
        rewriter = Rewriter(proto)
        for node in [node for node in proto.graph.node if node.op_type == "Attention"]:
            source, matrix, bias, mask = node.input
            values = rewriter.constant(matrix)
            scales = np.maximum(np.abs(values).max(0), 1e-12).astype(np.float32) / np.float32(127)
            integers = np.round(values / scales).astype(np.int8)
            name = node.name
            scale, zero = f"{name}/scale", f"{name}/zero"
            if statistics is None:
                first = helper.make_node(
                    "DynamicQuantizeLinear", [source], [f"{name}/q", scale, zero], f"{name}/quantize"
                )
            else:
                parameters = affine_parameters(*activation_range(statistics.tensors[source], MINMAX, U8), U8)
                rewriter.add(scale, np.asarray(parameters.scale, np.float32).reshape(()))
                rewriter.add(zero, np.asarray(parameters.zero_point).astype(np.uint8).reshape(()))
                first = helper.make_node("QuantizeLinear", [source, scale, zero], [f"{name}/q"], f"{name}/quantize")
            inputs = [
                f"{name}/q",
                rewriter.add(f"{matrix}/q", integers),
                bias,
                scale,
                rewriter.add(f"{matrix}/scale", scales),
                mask,
                zero,
                rewriter.add(f"{matrix}/zero", np.zeros(len(scales), np.int8)),
            ]
            heads = int(number(node, "num_heads"))
            fused = helper.make_node("QAttention", inputs, node.output, name, domain=CONTRIB_DOMAIN, num_heads=heads)
            rewriter.replacements[name] = [first, fused]
        rewriter.finish()

    return change


def embed(*, quantized: bool) -> Change:
    """Lookups of words, types and positions, their sums and the normalization after them become one operator."""

    def change(proto: onnx.ModelProto) -> None:
        rewriter = Rewriter(proto)
        graph = rewriter.graph
        norm = next(node for node in graph.nodes if node.op_type == "LayerNormalization")
        outer = graph.producers[norm.input[0]]
        sides = [graph.producers[name] for name in outer.input]
        inner = next(node for node in sides if node.op_type == "Add")
        position = next(node for node in sides if node.op_type == "Gather")
        lookups = [graph.producers[name] for name in inner.input]
        word, kind = (
            next(node for node in lookups if node.input[1] == name) for name in ("input_ids", "token_type_ids")
        )
        casts = [
            helper.make_node("Cast", [node.input[1]], [f"{node.name}/ids"], f"{node.name}/ids", to=TensorProto.INT32)
            for node in (word, kind)
        ]
        tables = [word.input[0], position.input[0], kind.input[0], norm.input[1], norm.input[2]]
        ids = [cast.output[0] for cast in casts]
        outputs, epsilon = [norm.output[0], "index"], number(norm, "epsilon")
        if quantized:
            names, scales, zeros = zip(*(_table(rewriter, name) for name in tables), strict=True)
            inputs, op_type = [*ids, *names, "", *scales, *zeros], "QEmbedLayerNormalization"
        else:
            inputs, op_type = [*ids, *tables], "EmbedLayerNormalization"
        fused = helper.make_node(op_type, inputs, outputs, norm.name, domain=CONTRIB_DOMAIN, epsilon=epsilon)
        rewriter.replacements = {node.name: [] for node in (outer, inner, position, word, kind)}
        rewriter.replacements[norm.name] = [*casts, fused]
        rewriter.finish()

    return change


def _table(rewriter: Rewriter, name: str) -> tuple[str, str, str]:
    values = rewriter.constant(name)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = np.float32((high - low) / 255)
    zero = np.uint8(round(-low / scale))
    integers = np.clip(np.round(values / scale) + zero, 0, 255).astype(np.uint8)
    return (
        rewriter.add(f"{name}/q", integers),
        rewriter.add(f"{name}/scale", np.array(scale)),
        rewriter.add(f"{name}/zero", np.array(zero)),
    )


def changed(model: OnnxModel, change: Change) -> OnnxModel:
    """A changed copy."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    change(proto)
    return dataclasses.replace(model, proto=proto)


def variants(model: OnnxModel, statistics: CalibrationStatistics) -> Iterator[tuple[str, OnnxModel]]:
    """Name and candidate; the first is what ``tune`` makes."""

    def dynamic(source: OnnxModel) -> OnnxModel:
        space = ADAPTER.space(source)
        wanted = space.uniform(OpConfig(precision=Precision.INT8_DYNAMIC))
        return ADAPTER.apply(source, wanted, statistics)

    today = dynamic(model)
    yield "today", today
    # Loaded anew, so that the types of what is new are known.
    yield "guarded", changed(today, guard)
    yield "mask", dynamic(ADAPTER.load(changed(model, use_mask).proto))
    yield "packed", dynamic(ADAPTER.load(changed(model, pack).proto))
    inside = dynamic(ADAPTER.load(changed(model, use_attention).proto))
    yield "Attention, fp32", inside
    yield "QAttention, dynamic", changed(inside, quantize_attention(None))
    yield "QAttention, static", changed(inside, quantize_attention(statistics))
    yield "EmbedLayerNormalization", changed(today, embed(quantized=False))
    yield "QEmbedLayerNormalization", changed(today, embed(quantized=True))


def fixed(path: Path, statistics: CalibrationStatistics, tokens: int) -> Iterator[tuple[str, OnnxModel]]:
    """Candidates of the model for one text of so many tokens alone."""
    proto = onnx.load(path)
    for value in proto.graph.input:
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.INT64, [1, tokens]))
    model = ADAPTER.load(proto)
    candidate = ADAPTER.apply(model, ADAPTER.space(model).preferred, statistics)
    yield "fixed shapes", candidate

    def join(changed: onnx.ModelProto) -> None:
        for node in changed.graph.node:
            node.op_type = "Add" if node.op_type == "Sum" else node.op_type

    yield "fixed shapes, joined", changed(candidate, join)


def cut(feeds: Feeds, tokens: int) -> Feeds:
    """One text, of so many tokens none of which is padding: repeated until it is long enough."""
    length = int(feeds[MASK][0].sum())
    repeated = {name: np.resize(array[:1, :length], (1, tokens)) for name, array in feeds.items()}
    return {**repeated, MASK: np.ones((1, tokens), np.int64)}


def sqnr_db(expected: Array, actual: Array) -> float:
    """Signal-to-quantization-noise ratio of the logits in dB."""
    return float(10 * np.log10(np.square(expected).sum() / max(np.square(expected - actual).sum(), 1e-30)))


def sessions(candidates: Mapping[str, OnnxModel]) -> dict[str, list[InferenceSession]]:
    """Several of each, in turns, since one is not like the other and the first is often the slowest."""
    opened: dict[str, list[InferenceSession]] = {name: [] for name in candidates}
    for _ in range(SESSIONS):
        for name, candidate in candidates.items():
            opened[name].append(session(candidate.proto))
    return opened


def seconds(variants: Mapping[str, Sequence[InferenceSession]], feeds: Feeds, rounds: int) -> dict[str, list[Array]]:
    """CPU time of every call, by variant and session."""
    times = {name: [np.zeros(rounds) for _ in sessions] for name, sessions in variants.items()}
    order = [(name, index) for name, sessions in variants.items() for index in range(len(sessions))]
    rng = np.random.default_rng(0)
    for call in range(-WARMUP, rounds):
        for name, index in [order[i] for i in rng.permutation(len(order))]:
            start = time.thread_time()
            variants[name][index].run(None, feeds)
            times[name][index][max(call, 0)] = time.thread_time() - start
    return times


def over(today: Sequence[Array], other: Sequence[Array]) -> str:
    """Ratio of medians, and that of the slowest and the fastest session."""
    median = float(np.median(today))
    ratios = [median / float(np.median(times)) for times in other]
    return f"{median / float(np.median(other)):.3f}x ({min(ratios):.3f}-{max(ratios):.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where minilm.onnx and texts.npz lie")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = ADAPTER.load(options.folder / "minilm.onnx")
    calibration = [feeds for feeds, _ in read(options.folder, "calibration", 50)]
    statistics = ADAPTER.calibrate(model, calibration, seed=0)
    candidates = dict(variants(model, statistics))
    exact = session(model.proto).run(None, calibration[0])[0]
    rows: dict[str, list[str]] = {}
    for name, candidate in candidates.items():
        rows[name] = [f"{sqnr_db(exact, session(candidate.proto).run(None, calibration[0])[0]):.1f} dB"]
    rows |= {name: [""] for name in ("fixed shapes", "fixed shapes, joined")}
    for tokens in options.tokens:
        shaped = dict(fixed(options.folder / "minilm.onnx", statistics, tokens))
        opened = sessions({**candidates, **shaped})
        times = seconds(opened, cut(calibration[0], tokens), options.rounds)
        for name, row in rows.items():
            milliseconds = 1e3 * float(np.median(times[name]))
            same = f"{milliseconds:.2f} ms, " if name == "today" else ""
            row.append(same + over(times["today"], times[name]))
    print_table(
        ["", "SQNR", *(f"{tokens} tokens" for tokens in options.tokens)], [[name, *row] for name, row in rows.items()]
    )
    write_result(options.json, "attention_kernels", 0, {"tokens": options.tokens, "rows": rows})


if __name__ == "__main__":
    main()
