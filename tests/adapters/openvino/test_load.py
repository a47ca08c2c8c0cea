from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper
from openvino import opset13 as opset

from autotune.adapter import Feeds, given_model
from autotune.adapters.openvino import OpenVinoModel, load
from autotune.errors import ApplyError, DataError, ModelError
from tests.adapters.onnx.graphs import build, image_batches, node, normal, small_cnn
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, wide


def as_path(folder: Path) -> object:
    onnx.save(small_cnn(), folder / "cnn.onnx")
    return str(folder / "cnn.onnx")


def as_ir(folder: Path) -> object:
    ov.save_model(
        ov.Core().read_model(small_cnn().SerializeToString(), b""), folder / "cnn.xml", compress_to_fp16=False
    )
    return folder / "cnn.xml"


def assert_equal_outputs(first: OpenVinoModel, second: OpenVinoModel, feeds: Feeds) -> None:
    ours, theirs = (ADAPTER.runner(model, ONE_THREAD)(feeds)[0] for model in (first, second))
    np.testing.assert_array_equal(ours, theirs)


SOURCES: dict[str, Callable[[Path], object]] = {
    "path": as_path,
    "path without a suffix": lambda folder: Path(str(as_path(folder))).rename(folder / "cnn"),
    "bytes": lambda _: small_cnn().SerializeToString(),
    "proto": lambda _: small_cnn(),
    "ir": as_ir,
    "openvino": lambda _: ov.Core().read_model(small_cnn().SerializeToString(), b""),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_the_same_ops(kind: str, tmp_path: Path) -> None:
    first, second = (ADAPTER.load(SOURCES[kind](tmp_path)) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert given_model(ADAPTER, first).fingerprint == given_model(ADAPTER, second).fingerprint
    assert [op.name for op in ADAPTER.space(first).ops] == ["c1", "c2", "c3", "sum", "logits"]
    assert [spec.name for spec in first.inputs + first.outputs] == ["x", "logits"]


def test_size_is_that_of_the_file(tmp_path: Path) -> None:
    path = Path(str(as_path(tmp_path)))
    assert given_model(ADAPTER, ADAPTER.load(path)).size_bytes == path.stat().st_size
    pair = as_ir(tmp_path)
    assert isinstance(pair, Path)
    total = pair.stat().st_size + pair.with_suffix(".bin").stat().st_size
    assert given_model(ADAPTER, ADAPTER.load(pair)).size_bytes == total


def test_weights_outside_of_the_onnx_file_are_read_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "cnn.onnx"
    onnx.save(small_cnn(), path, save_as_external_data=True, location="cnn.data", size_threshold=0)
    model = ADAPTER.load(path)
    assert given_model(ADAPTER, model).size_bytes > 50_000
    reference = ADAPTER.load(small_cnn())
    assert_equal_outputs(model, reference, image_batches()[0])


def test_half_precision_weights_of_an_ir_can_be_quantized(tmp_path: Path) -> None:
    ov.save_model(ov.Core().read_model(small_cnn().SerializeToString(), b""), tmp_path / "cnn.xml")
    model = ADAPTER.load(tmp_path / "cnn.xml")
    statistics = ADAPTER.calibrate(model, image_batches(), seed=0)
    candidate = ADAPTER.apply(model, ADAPTER.space(model).preferred, statistics)
    assert len(candidate.files[1]) < 0.7 * len(given_model(ADAPTER, model).files[1])


def test_names_do_not_depend_on_what_was_read_before() -> None:
    def unnamed() -> ov.Model:
        source = opset.parameter([-1, 8], np.float32, name="x")
        return ov.Model([opset.matmul(opset.relu(source), opset.constant(normal(8, 4)), False, False)], [source], "m")

    first = ADAPTER.load(unnamed())
    unnamed()
    second = ADAPTER.load(unnamed())
    assert first.fingerprint == second.fingerprint
    assert ADAPTER.space(first) == ADAPTER.space(second)
    assert ADAPTER.space(first).ops[0].name == "MatMul/1"


def test_fingerprint_tells_weights_and_attributes_apart() -> None:
    def one(scale: float = 1.0, stride: int = 1) -> str:
        conv = node("Conv", "x w", "y", strides=[stride, stride])
        weight = normal(4, 3, 3, 3) * np.float32(scale)
        return ADAPTER.load(build([conv], {"x": ("N", 3, 8, 8)}, {"y": None}, {"w": weight})).fingerprint

    assert len({one(), one(scale=1.01), one(stride=2)}) == 3


def test_nodes_of_one_name_are_told_apart() -> None:
    source = opset.parameter([-1, 8], np.float32, name="x")
    first = opset.matmul(source, opset.constant(normal(8, 8)), False, False, name="layer")
    second = opset.matmul(first, opset.constant(normal(8, 4)), False, False, name="layer")
    model = ADAPTER.load(ov.Model([second], [source], "m"))
    assert [op.name for op in ADAPTER.space(model).ops] == ["layer", "layer/2"]


def test_models_travel_to_other_processes() -> None:
    candidate = wide().int8()
    for model in (wide().model, candidate):
        again = cloudpickle.loads(cloudpickle.dumps(model))
        assert type(again) is type(model)
        assert again.fingerprint == model.fingerprint
        assert again.size_bytes == model.size_bytes
        assert again.notes == model.notes
        assert_equal_outputs(again, model, wide().batches[0])


def test_a_model_of_quantized_ops_says_so() -> None:
    again = ADAPTER.load(wide().int8("c1", "c3").graph)
    assert [op.name for op in ADAPTER.space(again).ops] == ["c2", "sum", "logits"]
    assert again.notes == ("2 ops of this model quantized already, kept so",)


def test_ir_without_its_weights_names_the_file(tmp_path: Path) -> None:
    pair = as_ir(tmp_path)
    assert isinstance(pair, Path)
    weights = pair.with_suffix(".bin")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(ModelError, match=rf"cnn\.bin ends after 100 of {len(whole)} bytes.*Put the \.bin file beside"):
        ADAPTER.load(pair)
    weights.unlink()
    with pytest.raises(ModelError, match=r"two files, but the weights of .*cnn\.xml cannot be read: .*does not exist"):
        ADAPTER.load(pair)


def test_an_op_that_openvino_does_not_know_is_named() -> None:
    unknown = helper.make_node("Sharpen", ["x"], ["y"], "sharpen", domain="my.ops")
    proto = build([unknown], {"x": (1, 3)}, {"y": (1, 3)}, {})
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    with pytest.raises(ModelError, match=r"ops that OpenVINO knows, but has my\.ops\.Sharpen.*framework: onnxruntime"):
        ADAPTER.load(proto)


def test_an_op_in_a_form_that_openvino_does_not_convert_is_named() -> None:
    proto = build([node("ReduceMean", "x", "y", keepdims=1)], {"x": (1, 4)}, {"y": (1, 1)}, {})
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match=r"does not convert ReduceMean-\d+\. .*framework onnxruntime"):
        ADAPTER.load(proto)


def test_an_op_of_an_ir_that_openvino_does_not_know_is_named(tmp_path: Path) -> None:
    pair = as_ir(tmp_path)
    assert isinstance(pair, Path)
    whole = pair.read_text()
    pair.write_text(whole.replace('type="ReLU" version="opset1"', 'type="Sharpen" version="my.ops"'))
    with pytest.raises(ModelError, match=r"knows, but has Sharpen of my\.ops \('r1'\)\. Export it without them$"):
        ADAPTER.load(pair)
    pair.write_text(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"corrupt, cut off or of another format: .* at offset \d+\. Export it again"):
        ADAPTER.load(pair)


def test_an_input_of_any_rank_is_named() -> None:
    graph = helper.make_graph(
        [node("Relu", "x", "y")],
        "any",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(
        ModelError, match=r"The model must have inputs of a known number of dimensions, but 'x' may .*reshape"
    ):
        ADAPTER.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


@pytest.mark.parametrize("free", [True, False])
def test_a_batch_that_the_model_refuses_says_which_it_takes(free: bool) -> None:
    batch: int | str = "N" if free else 2
    nodes = [node("Add", "x two", "sum"), node("MatMul", "sum w", "y")]
    constants = {"two": normal(2, 3, 4), "w": normal(4, 5)}  # a batch of two, fixed inside
    model = ADAPTER.load(build(nodes, {"x": (batch, 3, 4)}, {"y": None}, constants))
    run = ADAPTER.runner(model, ONE_THREAD)
    assert run({"x": normal(2, 3, 4)})[0].shape == (2, 3, 5)
    message = (
        "exported for another one" if free else re.escape("takes arrays of shape [2,3,4], but got one of shape (3")
    )
    with pytest.raises(ApplyError, match=rf"{message}.*(Give|export)"):
        run({"x": normal(3, 3, 4)})
    with pytest.raises(DataError, match=rf"Calibration batch 0 must run through the fp32 model, but: .*{message}"):
        ADAPTER.calibrate(model, [{"x": normal(3, 3, 4)}], seed=0)


def test_what_openvino_says_is_given_in_one_line() -> None:
    error = RuntimeError("Exception from src/a.cpp:1:\nCheck 'x' failed at src/b.cpp:2:\nShapes do not fit.\n\n")
    assert load.first_line(error) == "Shapes do not fit"
    assert load.first_line(RuntimeError("")) == "RuntimeError"
