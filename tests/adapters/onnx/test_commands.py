"""Commands on ONNX files: several inputs, parts that are quantized already, sequences, and preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array
from autotune.adapters import get_adapter
from autotune.cli.figures import bytes_text
from autotune.experiment import load_experiment
from tests.adapters.onnx import shapes
from tests.cli.conftest import Command

DIGITS = Path(__file__).parents[3] / "examples" / "quickstart" / "digits.onnx"


def test_init_for_several_inputs_of_a_fixed_batch(command: Command, tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [4, 7]) for name in ("input ids", "mask")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["input ids", "mask"], ["sum"], "add")],
        "two",
        inputs,
        [helper.make_tensor_value_info("sum", TensorProto.INT64, [4, 7])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "two.onnx"
    )
    assert command("init", "two.onnx").status == 0
    dataset = load_experiment(tmp_path / "experiment.yaml").calibration.dataset
    assert dataset.npz is not None
    assert dataset.npz.inputs == {"input ids": "input ids", "mask": "mask"}
    assert dataset.batch_size == 4


def test_inspect_shows_what_was_measured_and_what_the_graph_may_become(command: Command, network_file: Path) -> None:
    out = command("inspect", network_file, "--ops").out
    lines = [line.split() for line in out.splitlines()]
    assert ["Conv", "3", "int8,", "int8_dynamic,", "fp32"] in lines
    assert "\n  measured fp16 and bf16 not measured\n" in out  # as the tests' own cache says
    assert ["bias_correction", "the", "graph", "full,", "fast,", "none"] in lines


def test_inspect_says_what_the_file_is(command: Command, network: onnx.ModelProto, tmp_path: Path) -> None:
    """Its own size, and that a part of it is quantized already."""
    zeros = helper.make_node("ConstantOfShape", ["large"], ["zeros"], "zeros")
    proto = onnx.ModelProto()
    proto.CopyFrom(network)
    (output,) = (value.name for value in proto.graph.output)
    scales: dict[str, Array] = {"large": np.array([1, 10]), "s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)}
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in scales.items())
    nodes = [
        zeros,
        helper.make_node("QuantizeLinear", [output, "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
    ]
    proto.graph.node.extend(nodes)
    proto.graph.output.append(helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, None))
    path = tmp_path / "part.onnx"
    onnx.save(proto, path)
    outcome = command("inspect", path)
    assert outcome.status == 0
    assert f"({bytes_text(path.stat().st_size)})" in outcome.out
    assert "quantized already, or a part of it is (1 DequantizeLinear, 1 QuantizeLinear)" in outcome.out
    assert outcome.err == ""


def test_commands_show_and_time_the_file_as_it_is(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared model is another size, and another speed."""
    adapter = type(get_adapter("onnxruntime"))
    timed: list[int] = []
    runner = adapter.runner

    def watched(self: Any, model: Any, execution: Any) -> Any:
        timed.append(model.size_bytes)
        return runner(self, model, execution)

    monkeypatch.setattr(adapter, "runner", watched)
    made = get_adapter("onnxruntime").load(DIGITS)
    size = bytes_text(DIGITS.stat().st_size)
    assert size != bytes_text(made.size_bytes)
    for name in ("inspect", "check"):
        assert size in command(name, DIGITS).out
    timed.clear()
    outcome = command("benchmark", DIGITS, DIGITS, "--warmup", 1)
    assert outcome.out.count(size) == 2
    assert set(timed) == {DIGITS.stat().st_size}


def test_benchmark_resizes_the_batch_and_nothing_else(command: Command, tmp_path: Path) -> None:
    onnx.save(shapes.utterance("frames"), tmp_path / "u.onnx")
    onnx.save(shapes.time_major_lstm(), tmp_path / "t.onnx")
    outcome = command("benchmark", "u.onnx", "u.onnx")
    assert outcome.status == 2
    assert "Input 'x' has free dimensions besides a batch: (frames, 8)" in outcome.err
    outcome = command("benchmark", "t.onnx", "t.onnx", "--batch-size", 3)
    assert "besides a batch: (time, batch, 8). Give its shape, as in `--shape x=1,3,8`" in outcome.err
    assert command("benchmark", "u.onnx", "u.onnx", "--shape", "x=9,8", "--warmup", 1).status == 0
