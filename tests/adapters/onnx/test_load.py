from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import autotune
from autotune.adapter import Execution
from autotune.adapters.onnx import graph, model
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.criterion import Verdict
from autotune.errors import ModelError
from autotune.trial import TrialState
from tests.adapters.onnx.graphs import build, image_batches, node, normal, small_cnn

ADAPTER = OnnxRuntimeAdapter()
FEEDS = image_batches(1)[0]


def run(loaded: OnnxModel) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return ADAPTER.runner(loaded, Execution())(FEEDS)[0]


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """The small network with every weight in a file of its own."""
    path = tmp_path / "model.onnx"
    onnx.save_model(small_cnn(), path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    return path


@pytest.fixture
def tiny_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every model for one beyond protobuf's 2 GiB."""
    monkeypatch.setattr(model, "IN_MEMORY_LIMIT", 4096)


def test_path_bytes_and_message_are_one_model(tmp_path: Path) -> None:
    proto = small_cnn()
    path = tmp_path / "model.onnx"
    onnx.save_model(proto, path)
    loaded = [ADAPTER.load(source) for source in (path, str(path), path.read_bytes(), proto)]
    assert len({each.fingerprint for each in loaded}) == 1


def test_the_users_own_message_is_not_changed() -> None:
    proto = small_cnn()
    before = proto.SerializeToString(deterministic=True)
    ADAPTER.load(proto)
    assert proto.SerializeToString(deterministic=True) == before


def test_external_data_is_read_and_does_not_change_the_fingerprint(external: Path) -> None:
    loaded = ADAPTER.load(external)
    assert loaded.external_dir is None
    assert loaded.fingerprint == ADAPTER.load(small_cnn()).fingerprint


def test_fingerprint_follows_weights_and_graph() -> None:
    first = ADAPTER.load(small_cnn()).fingerprint
    changed = small_cnn()
    changed.graph.initializer[0].raw_data = normal(32, 3, 3, 3, seed=99).tobytes()
    rewired = small_cnn()
    next(n for n in rewired.graph.node if n.op_type == "Add").input[1] = "c3"
    assert len({first, ADAPTER.load(changed).fingerprint, ADAPTER.load(rewired).fingerprint}) == 3


@pytest.mark.usefixtures("tiny_limit")
def test_model_beyond_the_limit_keeps_its_weights_in_files(external: Path, tmp_path: Path) -> None:
    loaded = ADAPTER.load(external)
    assert loaded.external_dir == external.parent
    assert loaded.proto.ByteSize() < 16384 < loaded.size_bytes
    assert any("2 GB" in note for note in loaded.notes)

    statistics = ADAPTER.calibrate(loaded, [FEEDS], seed=0)
    candidate = ADAPTER.apply(loaded, ADAPTER.space(loaded).preferred, statistics)
    assert candidate.size_bytes < 0.5 * loaded.size_bytes
    saved = tmp_path / "out" / "tuned.onnx"
    saved.parent.mkdir()
    ADAPTER.save(candidate, saved, {"key": "value"})
    assert np.array_equal(run(ADAPTER.load(saved)), run(candidate))
    np.testing.assert_allclose(run(loaded), run(candidate), atol=0.2)


@pytest.mark.usefixtures("tiny_limit")
def test_message_beyond_the_limit_moves_its_weights_to_a_temporary_file(tmp_path: Path) -> None:
    loaded = ADAPTER.load(small_cnn())
    assert loaded.external_dir is not None
    folder = loaded.external_dir
    assert folder.is_dir()
    ADAPTER.save(loaded, tmp_path / "model.onnx", {})
    assert len(list(tmp_path.iterdir())) == 2
    outputs = run(loaded)
    assert np.array_equal(run(ADAPTER.load(tmp_path / "model.onnx")), outputs)
    del loaded
    assert not folder.exists(), "it goes with the model"


def test_over_2_gib_for_real(tmp_path: Path) -> None:
    """A weight of 2.1 GB that occupies no disk: a file of zeros with a hole in it."""
    columns = 4096
    rows = 2**31 // (4 * columns) + 512
    proto = build(
        [node("Gather", "table ids", "row"), node("Add", "row x", "sum"), node("MatMul", "sum w", "y")],
        {"x": ("N", columns), "ids": ("N",)},
        {"y": None},
        {"w": normal(columns, 8)},
    )
    proto.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    table = onnx.TensorProto(
        name="table", data_type=onnx.TensorProto.FLOAT, dims=[rows, columns], data_location=onnx.TensorProto.EXTERNAL
    )
    table.external_data.add(key="location", value="table.data")
    proto.graph.initializer.append(table)
    with (tmp_path / "table.data").open("wb") as file:
        file.truncate(4 * rows * columns)
    onnx.save_model(proto, tmp_path / "big.onnx")

    loaded = ADAPTER.load(tmp_path / "big.onnx")
    assert loaded.size_bytes > 2**31
    feeds = {"x": normal(2, columns), "ids": np.array([0, rows - 1])}
    statistics = ADAPTER.calibrate(loaded, [feeds], seed=0)
    candidate = ADAPTER.apply(loaded, ADAPTER.space(loaded).preferred, statistics)
    expected = ADAPTER.runner(loaded, Execution())(feeds)[0]
    np.testing.assert_allclose(ADAPTER.runner(candidate, Execution())(feeds)[0], expected, atol=0.5)


def test_missing_file_names_the_file() -> None:
    with pytest.raises(ModelError, match=r"no/such\.onnx does not exist"):
        ADAPTER.load("no/such.onnx")


def test_folder_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder.*\.onnx file"):
        ADAPTER.load(tmp_path)


def test_missing_and_short_external_data_are_named(external: Path) -> None:
    data = external.with_name("model.onnx.data")
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"the weight '.+' in .*model\.onnx\.data, which ends after 1000 of \d+ bytes"):
        ADAPTER.load(external)
    data.unlink()
    with pytest.raises(ModelError, match=r"model\.onnx\.data, which does not exist. Put the file beside the model"):
        ADAPTER.load(external)


def test_an_ir_of_openvino_names_the_framework_that_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "model.xml"
    file.write_text('<?xml version="1.0"?>\n<net name="cnn" version="11"/>\n')
    with pytest.raises(ModelError, match=r"must be an ONNX model, .*IR: set `framework: openvino`"):
        ADAPTER.load(file)


def test_corrupt_file_is_called_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    data = small_cnn().SerializeToString()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"cut\.onnx must be an ONNX model"):
        ADAPTER.load(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ModelError, match="must be an ONNX model"):
        ADAPTER.load(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="no"):
        ADAPTER.load(path)


def test_model_that_onnx_runtime_cannot_run_is_an_input_error() -> None:
    proto = build([node("NoSuchOp", "x", "y")], {"x": (1,)}, {"y": (1,)}, {})
    with pytest.raises(ModelError, match=r"ONNX Runtime refuses the model: .*NoSuchOp.* before it can be tuned"):
        ADAPTER.load(proto)


def in_a_branch(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], *, as_node: bool) -> onnx.ModelProto:
    """``x @ w`` in both branches of an If; ``w`` is an initializer of the branch, or a Constant node in it."""
    branches = []
    for name in ("then", "else"):
        tensor = onnx.numpy_helper.from_array(values, f"{name}_w")
        constant = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)] if as_node else []
        product = onnx.helper.make_node("MatMul", ["x", tensor.name], [f"{name}_y"], f"{name}_product")
        output = onnx.helper.make_tensor_value_info(f"{name}_y", onnx.TensorProto.FLOAT, None)
        held = [] if as_node else [tensor]
        branches.append(onnx.helper.make_graph([*constant, product], name, [], [output], held))
    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Greater", "sum zero", "positive"),
        node("If", "positive", "y", then_branch=branches[0], else_branch=branches[1]),
    ]
    return build(nodes, {"x": ("N", 64)}, {"y": None}, {"zero": np.array(0, np.float32)})


@pytest.mark.parametrize("as_node", [False, True])
def test_external_data_in_branches_and_constant_nodes(as_node: bool, tmp_path: Path) -> None:
    proto = in_a_branch(normal(64, 8), as_node=as_node)
    feeds = {"x": normal(2, 64)}
    expected = ADAPTER.runner(ADAPTER.load(proto), Execution())(feeds)[0]
    whole = ADAPTER.load(proto)
    _move_out(proto, tmp_path)
    onnx.save_model(proto, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size < 2000
    loaded = ADAPTER.load(tmp_path / "model.onnx")
    np.testing.assert_array_equal(ADAPTER.runner(loaded, Execution())(feeds)[0], expected)
    assert loaded.fingerprint == whole.fingerprint
    (tmp_path / "weights.data").unlink()
    with pytest.raises(ModelError, match=r"weights\.data, which does not exist"):
        ADAPTER.load(tmp_path / "model.onnx")


def test_external_data_of_constant_nodes_at_the_top(tmp_path: Path) -> None:
    tensor = onnx.numpy_helper.from_array(normal(64, 8), "w")
    constant = onnx.helper.make_node("Constant", [], ["w"], "w", value=tensor)
    proto = build([constant, node("MatMul", "x w", "y")], {"x": ("N", 64)}, {"y": None}, {})
    _move_out(proto, tmp_path)
    onnx.save_model(proto, tmp_path / "model.onnx")
    loaded = ADAPTER.load(tmp_path / "model.onnx")
    assert [op.name for op in ADAPTER.space(loaded).ops] == ["y"]
    assert ADAPTER.as_given(loaded).size_bytes > 64 * 8 * 4, "it counts where it lies"


def _move_out(proto: onnx.ModelProto, folder: Path) -> None:
    """Move all large constants to a file, wherever they are; onnx itself leaves those in branches."""
    with (folder / "weights.data").open("wb") as file:
        for tensor in graph.tensors(proto.graph):
            if len(tensor.raw_data) < 1000:
                continue
            offset = file.tell()
            file.write(tensor.raw_data)
            onnx.external_data_helper.set_external_data(tensor, "weights.data", offset, len(tensor.raw_data))
            tensor.ClearField("raw_data")


def classifier() -> onnx.ModelProto:
    """A neural network as skl2onnx writes it: a label, and a sequence of maps from label to probability."""
    nodes = [
        node("MatMul", "x w1", "h1"),
        node("Add", "h1 b1", "a1"),
        node("Relu", "a1", "r1"),
        node("MatMul", "r1 w2", "h2"),
        node("Add", "h2 b2", "a2"),
        node("Softmax", "a2", "p"),
        node("ArgMax", "p", "label", axis=1, keepdims=0),
        onnx.helper.make_node("ZipMap", ["p"], ["maps"], "maps", domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    constants = {"w1": normal(8, 16), "b1": normal(16), "w2": normal(16, 3, seed=1), "b2": normal(3)}
    proto = build(nodes, {"x": ("N", 8)}, {"label": None}, constants)
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N"]))
    element = onnx.helper.make_map_type_proto(
        onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    )
    proto.graph.output.append(onnx.helper.make_value_info("maps", onnx.helper.make_sequence_type_proto(element)))
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 1))
    return proto


def test_sequences_of_maps_are_outputs_as_any_other(tmp_path: Path) -> None:
    model = ADAPTER.load(classifier())
    feeds = {"x": normal(4, 8)}
    assert [(spec.name, spec.dtype.kind, spec.shape) for spec in model.outputs] == [
        ("label", "i", ("N",)),
        ("maps", "O", ()),
    ]
    assert [op.name for op in ADAPTER.space(model).tunable][:2] == ["h1", "h2"]
    statistics = ADAPTER.calibrate(model, [feeds], seed=0)
    candidate = ADAPTER.apply(model, ADAPTER.space(model).preferred, statistics)
    ADAPTER.save(candidate, tmp_path / "tuned.onnx", {})
    label, maps = ADAPTER.runner(ADAPTER.load(tmp_path / "tuned.onnx"), Execution())(feeds)
    assert maps.shape == label.shape == (4,)
    assert all(max(each, key=each.get) == best for each, best in zip(maps, label, strict=True))


def test_a_classifier_with_maps_is_tuned(tmp_path: Path) -> None:
    def evaluate(run: Callable[[object], Any]) -> float:
        label, maps = run(batches[0])
        return float(np.mean([each[best] for each, best in zip(maps, label, strict=True)]))

    batches = [normal(16, 8, seed=seed, scale=1.0) for seed in range(2)]
    tuner = autotune.Tuner(max_trials=2, latency_max_s=0.1, warmup=1, workspace=tmp_path, isolation="process")
    result = tuner.tune(classifier(), batches, evaluate)
    assert result.verdict is not Verdict.MISSED
    assert {trial.state for trial in result.history} <= {TrialState.COMPLETED, TrialState.PRUNED}
    assert [spec.shape for spec in result.model(batches[0])] == [(16,), (16,)]


@pytest.mark.parametrize("op_type", ["SplitToSequence", "Optional"])
def test_sequences_and_optionals_inside_and_out(op_type: str) -> None:
    inner = {
        "SplitToSequence": [node("SplitToSequence", "h", "s"), node("SequenceAt", "s zero", "y")],
        "Optional": [node("Optional", "h", "s"), node("OptionalGetElement", "s", "y")],
    }[op_type]
    nodes = [node("MatMul", "x w", "h"), *inner]
    proto = build(nodes, {"x": ("N", 8)}, {"y": None}, {"w": normal(8, 8), "zero": np.array(0)})
    element = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    wrap = (
        onnx.helper.make_sequence_type_proto if op_type == "SplitToSequence" else onnx.helper.make_optional_type_proto
    )
    proto.graph.output.append(onnx.helper.make_value_info("s", wrap(element)))
    model = ADAPTER.load(proto)
    feeds = {"x": normal(3, 8)}
    statistics = ADAPTER.calibrate(model, [feeds], seed=0)
    candidate = ADAPTER.apply(model, ADAPTER.space(model).preferred, statistics)
    assert len(ADAPTER.runner(candidate, Execution())(feeds)) == 2


def test_an_input_that_is_an_optional_tensor_is_fed_as_one() -> None:
    proto = build(
        [node("OptionalGetElement", "o", "x"), node("MatMul", "x w", "y")],
        {},
        {"y": None},
        {"w": normal(8, 8)},
        opset=18,
    )
    element = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", 8])
    proto.graph.input.append(onnx.helper.make_value_info("o", onnx.helper.make_optional_type_proto(element)))
    model = ADAPTER.load(proto)
    assert [(spec.name, spec.shape) for spec in model.inputs] == [("o", ("N", 8))]
    assert ADAPTER.runner(model, Execution())({"o": normal(3, 8)})[0].shape == (3, 8)


def test_an_input_that_is_no_tensor_is_named() -> None:
    proto = build([node("SequenceAt", "s zero", "y")], {}, {"y": None}, {"zero": np.array(0)})
    element = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    proto.graph.input.append(onnx.helper.make_value_info("s", onnx.helper.make_sequence_type_proto(element)))
    with pytest.raises(ModelError, match=r"must be a tensor, but 's' is a sequence\. Export the model without it"):
        ADAPTER.load(proto)


def test_outputs_that_are_inputs_and_constants(tmp_path: Path) -> None:
    proto = small_cnn()
    shapes: dict[str, list[str | int | None]] = {"x": ["N", 3, 8, 8], "w4": [500, 32], "b4": [500]}
    for name, shape in shapes.items():
        proto.graph.output.insert(0, onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    loaded = ADAPTER.load(proto)
    statistics = ADAPTER.calibrate(loaded, [FEEDS], seed=0)
    candidate = ADAPTER.apply(loaded, ADAPTER.space(loaded).preferred, statistics)
    assert candidate.proto.ByteSize() != loaded.proto.ByteSize()
    ADAPTER.save(candidate, tmp_path / "tuned.onnx", {})
    bias, weight, same, _ = ADAPTER.runner(ADAPTER.load(tmp_path / "tuned.onnx"), Execution())(FEEDS)
    np.testing.assert_array_equal(same, FEEDS["x"])
    np.testing.assert_array_equal(weight, normal(500, 32, seed=9))
    np.testing.assert_array_equal(bias, normal(500, seed=10))


@pytest.mark.usefixtures("tiny_limit")
def test_the_baseline_of_a_model_beyond_the_limit_is_its_file(external: Path) -> None:
    loaded = ADAPTER.load(external)
    given = ADAPTER.as_given(loaded)
    assert given.external_dir == external.parent
    files = external.stat().st_size + external.with_name("model.onnx.data").stat().st_size
    assert given.size_bytes == pytest.approx(files, rel=0.01), "but for what pads the weights to pages"
    np.testing.assert_allclose(run(loaded), run(given), atol=1e-5)


def test_a_length_of_minus_one_is_free() -> None:
    proto = small_cnn()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    loaded = ADAPTER.load(proto)
    assert [spec.shape[0] for spec in (*loaded.inputs, *loaded.outputs)] == [None, None]
    statistics = ADAPTER.calibrate(loaded, [FEEDS], seed=0)
    assert run(ADAPTER.apply(loaded, ADAPTER.space(loaded).preferred, statistics)).shape == run(loaded).shape


def test_a_file_beyond_the_limit_of_protobuf_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    path.touch()
    os.truncate(path, 2**40)  # a file with a hole, more than any memory
    with pytest.raises(ModelError, match=r"at most 2,147,483,647 bytes.*1,099,511,627,776"):
        ADAPTER.load(path)
