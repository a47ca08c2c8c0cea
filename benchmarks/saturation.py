"""Weights that cannot saturate on x86 without VNNI: bounded pairs beside 7 bits, on real models and on every precision.

    python benchmarks/saturation.py [--images 2000] [--pairs 60] [--emulated 0] [--seed 0] [--json FILE]

*8 bits* is the bound of what there is to gain where sums have 32 bits; where they have 16, it saturates. *pairs*
(``bound_pairs``) and *7 bits* (``reduce_range``) compute the same on every CPU. CNNs: every op in static int8, plain
min-max and as preferred (equalization, full bias correction, KL). The encoder and the LSTM read handwritten digits row
by row; their weights are random, normal and uniform, and a linear head is fitted by ridge regression. Losses are of the
same samples as fp32's, with the standard error of the paired difference. Speed: time of 7 bits divided by the
candidate's, one thread, one sample, calls in turns, a ratio of medians of the thread's processor time. ``--emulated N``
also runs N images of every CNN as a Haswell would, by ``qemu-x86_64``.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from shared import SUBJECTS, argument_parser, print_table, write_result
from sklearn.datasets import load_digits
from weights import digits_lstm

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    BiasCorrection,
    CalibrationAlgorithm,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
)
from autotune.emulation import ADVICE, find_emulator

ADAPTER = OnnxRuntimeAdapter()
CALIBRATION_SAMPLES = 200
HIDDEN, LAYERS, ROWS, PIXELS, CLASSES = 128, 2, 8, 8, 10
TRAINING = 1000

WEIGHTS = {
    "7 bits": Recipe(reduce_range=True),
    "pairs": Recipe(bound_pairs=True),
    "8 bits": Recipe(),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model, what it is calibrated on, and what it is judged by.

    Attributes:
        name: Name in the table.
        model: The fp32 model.
        statistics: Statistics of the calibration data.
        feeds: The evaluation data in batches.
        single: A single sample, for speed.
        labels: Labels of the evaluation data.
    """

    name: str
    model: OnnxModel
    statistics: CalibrationStatistics
    feeds: Sequence[Feeds]
    single: Feeds
    labels: Array


def convolutional(name: str, count: int, seed: int) -> Task:
    """ResNet-20 or MobileNetV2 on CIFAR-10."""
    subject = SUBJECTS[name]
    model = ADAPTER.load(subject.path)
    calibration, _ = subject.images("calibration", CALIBRATION_SAMPLES)
    pixels, labels = subject.images("evaluation", count)
    return Task(
        name=subject.path.stem,
        model=model,
        statistics=ADAPTER.calibrate(model, [{"data": image[None]} for image in calibration], seed=seed),
        feeds=[{"data": pixels[start : start + 10]} for start in range(0, len(pixels), 10)],
        single={"data": pixels[:1]},
        labels=labels,
    )


def encoder(seed: int) -> Task:
    """A transformer over the rows of handwritten digits: random layers that normalize first, and a fitted head."""
    random = np.random.default_rng(seed)
    pictures, labels = load_digits(return_X_y=True)
    rows = (pictures.reshape(-1, ROWS, PIXELS) / 4 - 2).astype(np.float32)
    order = random.permutation(len(labels))
    training, evaluation = order[:TRAINING], order[TRAINING:]
    nodes, constants = _layers(random)
    states = ort.InferenceSession(_proto(nodes, constants, "state").SerializeToString()).run(None, {"x": rows})[0]
    seen = states[training].astype(np.float64)
    head = np.linalg.solve(seen.T @ seen + 1e-2 * np.eye(HIDDEN), seen.T @ np.eye(CLASSES)[labels[training]])
    nodes.append(helper.make_node("MatMul", ["state", "head"], ["logits"], "head"))
    model = ADAPTER.load(_proto(nodes, {**constants, "head": head.astype(np.float32)}, "logits"))
    batches = [{"x": rows[training[start : start + 1]]} for start in range(CALIBRATION_SAMPLES)]
    return Task(
        name=f"encoder, {LAYERS} layers of {HIDDEN}",
        model=model,
        statistics=ADAPTER.calibrate(model, batches, seed=seed),
        feeds=[{"x": rows[index : index + 1]} for index in evaluation],
        single={"x": rows[:1]},
        labels=labels[evaluation],
    )


def _layers(random: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    constants: dict[str, Array] = {"scale": np.array(HIDDEN**-0.5, np.float32)}
    nodes: list[onnx.NodeProto] = []

    def add(op_type: str, inputs: str, output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, inputs.split(), [output], output, **attributes))
        return output

    def product(source: str, output: str, wide: int, narrow: int = HIDDEN) -> str:
        constants[f"{output}/w"] = (random.standard_normal((narrow, wide)) * narrow**-0.5).astype(np.float32)
        constants[f"{output}/b"] = (0.1 * random.standard_normal(wide)).astype(np.float32)
        add("MatMul", f"{source} {output}/w", f"{output}/product")
        return add("Add", f"{output}/product {output}/b", output)

    def normalized(source: str, output: str) -> str:
        constants[f"{output}/gain"] = (1 + 0.2 * random.standard_normal(HIDDEN)).astype(np.float32)
        constants[f"{output}/shift"] = (0.1 * random.standard_normal(HIDDEN)).astype(np.float32)
        return add("LayerNormalization", f"{source} {output}/gain {output}/shift", output, axis=-1)

    constants["place"] = (0.5 * random.standard_normal((ROWS, HIDDEN))).astype(np.float32)
    state = add("Add", f"{product('x', 'embedded', HIDDEN, PIXELS)} place", "placed")
    for layer in range(LAYERS):
        before = normalized(state, f"{layer}/n1")
        query, key, value = (product(before, f"{layer}/{each}", HIDDEN) for each in ("query", "key", "value"))
        turned = add("Transpose", key, f"{layer}/turned", perm=[0, 2, 1])
        scores = add("Mul", f"{add('MatMul', f'{query} {turned}', f'{layer}/raw')} scale", f"{layer}/scores")
        mixed = add("MatMul", f"{add('Softmax', scores, f'{layer}/shares', axis=-1)} {value}", f"{layer}/mixed")
        state = add("Add", f"{state} {product(mixed, f'{layer}/out', HIDDEN)}", f"{layer}/attended")
        inner = add("Relu", product(normalized(state, f"{layer}/n2"), f"{layer}/inner", 4 * HIDDEN), f"{layer}/active")
        state = add("Add", f"{state} {product(inner, f'{layer}/down', HIDDEN, 4 * HIDDEN)}", f"{layer}/state")
    add("ReduceMean", normalized(state, "last"), "state", axes=[1], keepdims=0)
    return nodes, constants


def _proto(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], output: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["samples", ROWS, PIXELS])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def lstm(seed: int) -> Task:
    """The LSTM of ``weights.py`` with 256 units."""
    model, feeds, labels = digits_lstm(256, seed)
    nothing = CalibrationStatistics({}, 0)
    return Task(name="LSTM of 256", model=model, statistics=nothing, feeds=feeds, single=feeds[0], labels=labels)


def configs(task: Task, precision: Precision, granularity: Granularity, *, preferred: bool) -> list[QuantizationConfig]:
    """By kind of weights, every op that has the precision in it."""
    weight = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=granularity)
    static = precision is Precision.INT8
    choice = OpConfig(
        precision=precision,
        activation=TensorScheme(dtype=QuantizedType.U8) if static else None,
        weight=weight,
        calibration=CalibrationAlgorithm.parse("kl" if preferred else "minmax") if static else None,
    )
    space = ADAPTER.space(task.model)
    chosen = {op.name: space.nearest(op.name, choice) for op in space.ops if op.space_of(precision) is not None}
    if all(op.op_type != "Conv" for op in space.ops):
        # In a transformer, only MatMuls with constant matrices.
        chosen = {name: each for name, each in chosen.items() if each.weight is not None}
    more: dict[str, Any] = {"equalization": True, "bias_correction": BiasCorrection.FULL} if preferred else {}
    return [QuantizationConfig(ops=chosen, recipe=dataclasses.replace(kind, **more)) for kind in WEIGHTS.values()]


def answers(model: OnnxModel, feeds: Sequence[Feeds]) -> Array:
    """Outputs of a model, all batches in one."""
    run = ADAPTER.runner(model, Execution())
    return np.concatenate([run(each)[0] for each in feeds])


def medians(models: Sequence[OnnxModel], sample: Feeds, pairs: int) -> list[float]:
    """Seconds of the calling thread per call, the models taking turns."""
    runners = [ADAPTER.runner(model, Execution()) for model in models]
    seconds: list[list[float]] = [[] for _ in runners]
    for turn in range(pairs + 5):
        for place in range(len(runners)):
            # Each goes first, second and last as often: who follows whom decides what is left in the cache.
            index = (turn + place) % len(runners)
            start = time.thread_time()
            runners[index](sample)
            if turn >= 5:
                seconds[index].append(time.thread_time() - start)
    return [float(np.median(each)) for each in seconds]


def emulated(model: OnnxModel, feeds: Sequence[Feeds]) -> Array:
    """Outputs of a model as a Haswell computes them."""
    emulator = find_emulator()
    if emulator is None:
        sys.exit(f"--emulated needs an emulator: {ADVICE}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        ADAPTER.save(model, path, {})
        return np.concatenate([outputs[0] for outputs in emulator.run(path, ADAPTER.name, feeds, "Haswell").outputs])


def compared(exact: Array, found: Array, labels: Array) -> dict[str, float]:
    """The figures of one candidate."""
    right = exact.argmax(axis=1) == labels
    lost = right.astype(float) - (found.argmax(axis=1) == labels)
    return {
        "relative_loss_percent": 100 * float(lost.mean() / right.mean()),
        "standard_error_percent": 100 * float(lost.std() / np.sqrt(len(lost)) / right.mean()),
        "flipped_percent": 100 * float((found.argmax(axis=1) != exact.argmax(axis=1)).mean()),
        "sqnr_db": 10 * float(np.log10(np.square(exact).sum() / np.square(found - exact).sum())),
    }


def rows_of(task: Task, title: str, made: Sequence[QuantizationConfig], pairs: int, there: int) -> list[dict[str, Any]]:
    """A row for each kind of weights."""
    models = [ADAPTER.apply(task.model, config, task.statistics) for config in made]
    times = medians(models, task.single, pairs)
    exact = answers(task.model, task.feeds)
    rows = []
    for kind, model, seconds in zip(WEIGHTS, models, times, strict=True):
        rows.append(
            {
                "model": task.name,
                "how": title,
                "weights": kind,
                "at_risk": len(ADAPTER.saturating_ops(model)),
                "speed": times[0] / seconds,
                **compared(exact, answers(model, task.feeds), task.labels),
            }
        )
        if there:
            few = task.feeds[: max(1, there // 10)]
            size = sum(len(feeds["data"]) for feeds in few)
            found = compared(exact[:size], emulated(model, few), task.labels[:size])
            rows.append({**rows[-1], "weights": f"{kind}, as a Haswell", **found, "speed": float("nan")})
    return rows


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as it is printed."""
    return [
        row["model"],
        row["how"],
        row["weights"],
        str(row["at_risk"]),
        f"{row['relative_loss_percent']:+.2f} % ± {row['standard_error_percent']:.2f}",
        f"{row['flipped_percent']:.1f} %",
        f"{row['sqnr_db']:.1f} dB",
        "" if np.isnan(row["speed"]) else f"{row['speed']:.2f}x",
    ]


def main() -> None:
    """Run, print the table, and write JSON."""
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--emulated", type=int, default=0, help="images that CNNs run as a Haswell would")
    options = parser.parse_args()
    channel, tensor = Granularity.PER_CHANNEL, Granularity.PER_TENSOR
    rows: list[dict[str, Any]] = []

    def add(task: Task, title: str, precision: Precision, granularity: Granularity, *, preferred: bool = False) -> None:
        there = options.emulated if preferred else 0
        made = configs(task, precision, granularity, preferred=preferred)
        rows.extend(rows_of(task, title, made, options.pairs, there))

    for name in ("mobilenetv2", "resnet20"):
        task = convolutional(name, options.images, options.seed)
        add(task, "static, as preferred", Precision.INT8, channel, preferred=True)
        add(task, "static, plain", Precision.INT8, channel)
        add(task, "static, plain, per tensor", Precision.INT8, tensor)
    task = encoder(options.seed)
    add(task, "dynamic", Precision.INT8_DYNAMIC, channel)
    add(task, "dynamic, per tensor", Precision.INT8_DYNAMIC, tensor)
    add(task, "static, plain", Precision.INT8, channel)
    add(lstm(options.seed), "dynamic", Precision.INT8_DYNAMIC, channel)
    headings = ["model", "how", "weights", "ops at risk", "relative loss", "flipped", "SQNR of logits", "speed"]
    print_table(headings, [cells(row) for row in rows])
    write_result(options.json, "saturation", options.seed, {"images": options.images, "rows": rows})


if __name__ == "__main__":
    main()
