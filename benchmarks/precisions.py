"""``auto`` with every precision an op offers, against ``auto`` with each op's preferred one and fp32 alone.

Two models on which precisions compete: a perceptron that reads one row at a time, where weights of few bits are read
faster, and an encoder layer over 64 tokens, where dynamic and static int8 take about the same time and lose
differently. The score is one minus the squared error over the squared fp32 output. Run from the root of the repository:

    python benchmarks/precisions.py
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

# The models are made in the tests, which are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

import autotune
from autotune.config import Precision
from autotune.restriction import SpaceRestriction
from tests.adapters.onnx import transformers

WIDTH = 1024
LAYERS = 4
TOKENS = 64
HIDDEN = 384


def perceptron() -> onnx.ModelProto:
    """Four Gemms with a Relu each."""
    rng = np.random.default_rng(0)
    nodes, constants, source = [], [], "data"
    for i in range(LAYERS):
        weight = (rng.standard_normal((WIDTH, WIDTH)) * np.sqrt(2 / WIDTH)).astype(np.float32)
        constants += [
            numpy_helper.from_array(weight, f"weight_{i}"),
            numpy_helper.from_array(np.zeros(WIDTH, np.float32), f"bias_{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [source, f"weight_{i}", f"bias_{i}"], [f"sum_{i}"], f"gemm_{i}"))
        nodes.append(helper.make_node("Relu", [f"sum_{i}"], [f"relu_{i}"], f"activation_{i}"))
        source = f"relu_{i}"
    shape: list[str | int | None] = ["batch", WIDTH]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("data", source)]
    graph = helper.make_graph(nodes, "perceptron", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def encoder() -> onnx.ModelProto:
    """The small transformer of the tests, as wide as a small language model."""
    transformers.HIDDEN, transformers.INNER, transformers.VOCABULARY = HIDDEN, 4 * HIDDEN, 500
    return transformers.small_transformer()


def rows() -> list[dict[str, Any]]:
    """Batches for the perceptron."""
    rng = np.random.default_rng(1)
    return [{"data": rng.standard_normal((16, WIDTH)).astype(np.float32)} for _ in range(24)]


def tune(
    model: onnx.ModelProto, batches: Sequence[dict[str, Any]], target: float, excluded: frozenset[Precision]
) -> autotune.TuningResult:
    """A run of ``auto`` whose latency is that of one sample."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    wanted = [session.run(None, batch)[0] for batch in batches]

    def score(candidate: Callable[[object], Any]) -> float:
        outputs = [candidate(batch) for batch in batches]
        errors = [((have - want) ** 2).sum() / (want**2).sum() for have, want in zip(outputs, wanted, strict=True)]
        return 1 - float(np.mean(errors))

    tuner = autotune.Tuner(
        criterion=autotune.Criterion(relative=target),
        restriction=SpaceRestriction(excluded=excluded),
        max_trials=15,
    )
    return tuner.tune(model, batches[:12], score)


def main() -> None:
    """Tune both models with both spaces and print a table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    onnxruntime.set_default_logger_severity(4)
    others = frozenset({Precision.INT8, Precision.INT8_WEIGHT, Precision.INT4_WEIGHT})
    print("| model | may lose | precisions | speedup | loss | candidates | in the end |\n|---|---|---|---|---|---|---|")
    for name, model, batches, targets in (
        ("perceptron", perceptron(), rows(), (0.03, 0.003)),
        ("encoder", encoder(), transformers.token_batches(40, size=8, length=TOKENS), (0.002, 0.0003)),
    ):
        for target in targets:
            for label, excluded in (("all", frozenset[Precision]()), ("dynamic and fp32", others)):
                result = tune(model, batches, target, excluded)
                best = result.best.measurement
                assert best is not None
                ops: Counter[str] = Counter({str(p): n for p, n in result.best.config.precisions().items()})
                ops["fp32"] = len(result.op_types) - ops.total()
                mixture = ", ".join(f"{count} {precision}" for precision, count in ops.most_common() if count)
                print(
                    f"| {name} | {target:.2%} | {label} | {best.speedup:.2f}x | {best.loss:.3%} "
                    f"| {len(result.history) - 1} | {mixture} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
