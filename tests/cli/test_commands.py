from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array
from autotune.adapters import get_adapter
from autotune.cli.figures import bytes_text
from autotune.experiment import SCHEMA_FILE, load_experiment
from tests.adapters.onnx import shapes
from tests.cli.conftest import Command

DIGITS = Path(__file__).parents[2] / "examples" / "quickstart" / "digits.onnx"


def test_init_writes_an_experiment_that_loads(command: Command, network_file: Path, tmp_path: Path) -> None:
    outcome = command("init", network_file, "-o", "mine.yaml")
    assert outcome.status == 0
    text = (tmp_path / "mine.yaml").read_text()
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE.as_uri()}\n")
    assert "# input  data: float32 (batch, 3, 16, 16)" in text
    assert "# output logits: float32 (batch, 10)" in text
    experiment = load_experiment(tmp_path / "mine.yaml")
    assert experiment.model.path.resolve() == network_file.resolve()
    steps = experiment.evaluation.accuracy.dataset.preprocess if experiment.evaluation.accuracy.dataset else ()
    assert [type(step.operation).__name__ for step in steps] == ["Resize", "Rescale", "Normalize", "Transpose"]
    assert experiment.workspace == tmp_path / "runs" / "mine"


def test_what_init_comments_out_is_valid_too(command: Command, network_file: Path, tmp_path: Path) -> None:
    command("init", network_file)
    lines = (tmp_path / "experiment.yaml").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("# quantization:"))
    end = next(number for number, line in enumerate(lines) if line.startswith("evaluation:"))
    lines[start:end] = [line.removeprefix("# ") if line.startswith("# q") else line[1:] for line in lines[start:end]]
    (tmp_path / "all.yaml").write_text("\n".join(lines))
    restriction = load_experiment(tmp_path / "all.yaml").quantization.restriction()
    assert set(restriction.op_type) == {"Conv"}
    assert set(restriction.op_name) == {"conv_0"}


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


def test_init_writes_a_far_path_in_full(command: Command, network_file: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert command("init", network_file, "-o", "a/x.yaml").status == 0
    assert yaml.safe_load((tmp_path / "a" / "x.yaml").read_text())["model"]["path"] == "../network.onnx"
    assert command("init", network_file, "-o", "a/b/x.yaml").status == 0
    assert yaml.safe_load((tmp_path / "a" / "b" / "x.yaml").read_text())["model"]["path"] == str(network_file.resolve())


def test_init_does_not_write_over_a_file(command: Command, network_file: Path, tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("mine")
    outcome = command("init", network_file)
    assert outcome.status == 2
    assert "is there already" in outcome.err
    assert (tmp_path / "experiment.yaml").read_text() == "mine"
    assert command("init", network_file, "--force").status == 0


def test_inspect(command: Command, network_file: Path) -> None:
    outcome = command("inspect", network_file, "--ops")
    assert outcome.status == 0
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["Conv", "3", "int8,", "int8_dynamic,", "fp32"] in lines
    assert any(line[:2] == ["conv_1", "Conv"] for line in lines)
    assert "inputs   data float32 (batch, 3, 16, 16)" in outcome.out
    assert "\n  measured fp16 and bf16 not measured\n" in outcome.out  # as the tests' own cache says
    assert "s8 symmetric per_channel" in outcome.out
    assert ["bias_correction", "the", "graph", "full,", "fast,", "none"] in lines
    assert "ops have a choice" in outcome.out


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


@pytest.mark.parametrize("arguments", [["inspect", "nowhere.onnx"], ["init", "nowhere.onnx"], ["inspect", "text.onnx"]])
def test_a_missing_or_corrupt_model_is_bad_input(command: Command, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    outcome = command(*arguments)
    assert outcome.status == 2
    assert arguments[1] in outcome.err
    assert "Traceback" not in outcome.err


def test_benchmark_compares_with_the_first(command: Command, network_file: Path) -> None:
    outcome = command("benchmark", network_file.name, network_file.name, "--batch-size", 2, "--warmup", 1)
    assert outcome.status == 0
    rows = [line.split() for line in outcome.out.splitlines() if "network.onnx" in line]
    assert len(rows) == 2
    assert "1.00x" in rows[0]
    speedup = float(rows[1][4].removesuffix("x"))
    assert speedup > 0  # how much, a busy machine decides


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


def test_benchmark_shows_throughput_beside_latency(command: Command, network_file: Path) -> None:
    outcome = command("benchmark", network_file.name, network_file.name, "--warmup", 1, "--instances", 1)
    assert outcome.status == 0
    table = outcome.out[outcome.out.index("Samples/s") :]
    rows = [line.split() for line in table.splitlines() if "network.onnx" in line]
    first, second = (float(row[1].replace(",", "")) for row in rows)
    assert first > 0
    assert second > 0
    assert "1 instance on 1 core of its own." in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["network.onnx", "--cores-per-instance", 2], "goes with `--instances`"),
        (["network.onnx", "--instances", 4096], "must not exceed"),
        ([], "needs two models or more, but got 1"),
        (["nowhere.onnx"], "nowhere.onnx"),
        (["network.onnx", "--shape", "data=1,x"], "must read like"),
        (["network.onnx", "--shape", "date=1,3"], "must name inputs of the model (data), but got 'date'"),
    ],
)
def test_benchmarks_that_cannot_be_run(
    command: Command, network_file: Path, arguments: list[object], message: str
) -> None:
    outcome = command("benchmark", network_file.name, *arguments)
    assert outcome.status == 2
    assert message in outcome.err


def test_benchmark_resizes_the_batch_and_nothing_else(command: Command, tmp_path: Path) -> None:
    onnx.save(shapes.utterance("frames"), tmp_path / "u.onnx")
    onnx.save(shapes.time_major_lstm(), tmp_path / "t.onnx")
    outcome = command("benchmark", "u.onnx", "u.onnx")
    assert outcome.status == 2
    assert "Input 'x' has free dimensions besides a batch: (frames, 8)" in outcome.err
    outcome = command("benchmark", "t.onnx", "t.onnx", "--batch-size", 3)
    assert "besides a batch: (time, batch, 8). Give its shape, as in `--shape x=1,3,8`" in outcome.err
    assert command("benchmark", "u.onnx", "u.onnx", "--shape", "x=9,8", "--warmup", 1).status == 0


def test_report_shows_what_a_run_found(command: Command, experiment: Path, tmp_path: Path) -> None:
    ran = command("run", experiment)
    reported = command("report", "work", "-o", "out.html")
    assert reported.status == 0
    tables = ran.out[ran.out.index("Tune results") : ran.out.index("Target met")]
    assert tables in reported.out
    assert (tmp_path / "out.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_report_of_what_is_no_workspace(command: Command, tmp_path: Path) -> None:
    outcome = command("report", tmp_path)
    assert outcome.status == 2
    assert "holds no history" in outcome.err


def test_schema(command: Command, tmp_path: Path) -> None:
    printed = command("schema")
    assert json.loads(printed.out)["title"] == "autotune experiment"
    command("schema", "-o", "schema.json")
    assert (tmp_path / "schema.json").read_text() == printed.out == SCHEMA_FILE.read_text()
    assert command("schema", "-o", "nowhere/schema.json").status == 2


def test_python_dash_m() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "autotune", "--help"], cwd=root, capture_output=True, text=True, check=True
    )
    for name in ("init", "inspect", "run", "report", "benchmark", "schema"):
        assert name in done.stdout
    assert "130" in done.stdout


def test_init_leaves_nothing_that_yaml_reads_otherwise(command: Command, network_file: Path, tmp_path: Path) -> None:
    odd = tmp_path / "1: odd # name.onnx"
    odd.write_bytes(network_file.read_bytes())
    assert command("init", odd).status == 0
    assert yaml.safe_load((tmp_path / "experiment.yaml").read_text())["model"]["path"] == odd.name
