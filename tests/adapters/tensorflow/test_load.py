"""Sources that can be given as a model, those that cannot and why, and the file that is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from autotune.adapter import TensorSpec
from autotune.adapters.tensorflow.calibration import calibrate
from autotune.adapters.tensorflow.graph import FLOAT32, Graph
from autotune.errors import ApplyError, DataError, MissingDependencyError, ModelError, WorkspaceError
from tests.adapters.tensorflow.calibrated import ADAPTER, ONE, Calibrated, cnn
from tests.adapters.tensorflow.networks import Builder, batches, small_cnn


def test_inputs_have_the_names_of_the_signature_and_a_free_batch() -> None:
    spec = TensorSpec(name="x", dtype=np.dtype(np.float32), shape=("batch", 16, 16, 3))
    assert cnn().model.inputs == (spec,)
    assert [each.name for each in cnn().model.outputs] == ["y0"]


def test_inputs_without_a_signature_have_the_names_of_tensors() -> None:
    net = Builder((4, 4, 2))
    model = ADAPTER.load(net.content(net.conv(net.input, "conv", 2), signature=False))
    assert [each.name for each in (*model.inputs, *model.outputs)] == ["serving_default_x:0", "conv/out;conv/more"]


def test_a_path_and_its_bytes_are_the_same_model_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(small_cnn(24))
    code = (
        "import sys; from autotune.adapters import get_adapter;"
        "print(get_adapter('tensorflow').load(sys.argv[1]).fingerprint)"
    )
    outcome = subprocess.run([sys.executable, "-c", code, path], check=True, stdout=subprocess.PIPE, text=True)
    assert outcome.stdout.strip() == ADAPTER.load(path).fingerprint == ADAPTER.load(small_cnn(24)).fingerprint


def test_names_inside_are_no_part_of_the_fingerprint_and_weights_are() -> None:
    graph = Graph(small_cnn(24))
    for tensor in graph.tensors:
        tensor.name = b"other_" + tensor.name
    assert ADAPTER.load(graph.to_bytes()).fingerprint == cnn().model.fingerprint
    place = cnn().model.ops[2].weight
    assert place is not None
    weight = graph.constant(place)
    assert weight is not None
    graph.set_constant(place, weight * np.float32(1.5))
    assert ADAPTER.load(graph.to_bytes()).fingerprint != cnn().model.fingerprint


@pytest.mark.parametrize("damage", ["cut off", "noise behind the identifier", "another identifier", "nothing"])
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    content = small_cnn(24)
    noise = np.random.default_rng(0).integers(0, 256, len(content), dtype=np.uint8).tobytes()
    broken = {
        "cut off": content[: len(content) // 2],
        "noise behind the identifier": content[:8] + noise[8:],
        "another identifier": content[:4] + b"ONNX" + content[8:],
        "nothing": b"",
    }[damage]
    (tmp_path / "broken.tflite").write_bytes(broken)
    with pytest.raises(ModelError, match=r"broken\.tflite must be a .* Convert it"):
        ADAPTER.load(tmp_path / "broken.tflite")


def test_a_missing_file_and_a_folder_that_is_no_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.tflite does not exist \(looked in"):
        ADAPTER.load(tmp_path / "no.tflite")
    with pytest.raises(ModelError, match=r"is a folder without a saved_model\.pb"):
        ADAPTER.load(tmp_path)


def test_an_op_that_litert_does_not_have_is_named() -> None:
    net = Builder((4, 4, 2))
    made = net.plain("CUSTOM", net.input, "flex")
    net.graph.model.operatorCodes[-1].customCode = b"FlexErfinv"
    with pytest.raises(ModelError, match=r"must consist of ops that LiteRT has.*TFLITE_BUILTINS"):
        ADAPTER.load(net.content(made))


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "saved"])
def test_without_tensorflow_a_conversion_names_the_line_that_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / name
    if name == "saved":
        source.mkdir()
    (source / "saved_model.pb" if name == "saved" else source).write_bytes(b"something")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingDependencyError, match=r"'tensorflow' is not installed.*pip install tensorflow"):
        ADAPTER.load(source)


def test_an_input_of_another_shape_names_the_one_that_is_taken() -> None:
    run = ADAPTER.runner(cnn().model, ONE)
    with pytest.raises(ApplyError, match=r"'x' takes arrays of shape \(batch, 16, 16, 3\).*\(1, 3, 16, 16\)"):
        run({"x": np.zeros((1, 3, 16, 16), np.float32)})
    fixed = Builder((4, 4, 2), free=False)
    run = ADAPTER.runner(ADAPTER.load(fixed.content(fixed.conv(fixed.input, "conv", 2))), ONE)
    with pytest.raises(ApplyError, match=r"\(1, 4, 4, 2\).*\(3, 4, 4, 2\).*free first dimension"):
        run({"x": np.zeros((3, 4, 4, 2), np.float32)})


def test_any_number_of_samples_runs_and_each_computes_the_same() -> None:
    run = ADAPTER.runner(cnn().model, ONE)
    data = cnn().batches[0]["x"]
    whole = run({"x": data})[0]
    for size in (1, 3):
        np.testing.assert_allclose(run({"x": data[:size]})[0], whole[:size], rtol=1e-4, atol=1e-5)


def test_nan_in_the_data_and_in_a_weight_are_told_apart() -> None:
    bad = [{"x": np.full((2, 16, 16, 3), np.nan, np.float32)}]
    with pytest.raises(DataError, match="NaN"):
        ADAPTER.calibrate(cnn().model, bad, seed=0)
    net = Builder((16, 16, 3))
    weight = np.full((4, 3, 3, 3), np.nan, np.float32)
    model = ADAPTER.load(net.content(net.conv(net.input, "bad", 4, weight=weight)))
    with pytest.raises(ModelError, match=r"the weight of 'bad/weight' are NaN"):
        ADAPTER.calibrate(model, batches(), seed=0)


def test_calibration_in_parts_finds_the_same() -> None:
    parted = calibrate(cnn().model, cnn().batches, 0, exposed_bytes=100_000)
    assert parted.tensors.keys() == cnn().statistics.tensors.keys()
    for name, found in parted.tensors.items():
        whole = cnn().statistics.tensors[name]
        assert (found.minimum, found.maximum) == pytest.approx((whole.minimum, whole.maximum), rel=1e-4)


def test_metadata_is_written_beside_what_the_file_had(tmp_path: Path) -> None:
    graph = Graph(small_cnn(24))
    graph.set_metadata({"min_runtime_version": "1.5.0"})
    model = ADAPTER.load(graph.to_bytes())
    ADAPTER.save(model, tmp_path / "one.tflite", {"autotune": "first"})
    ADAPTER.save(ADAPTER.load(tmp_path / "one.tflite"), tmp_path / "two.tflite", {"autotune": "second", "empty": ""})
    found = Graph((tmp_path / "two.tflite").read_bytes()).metadata()
    assert found["autotune"] == b"second"
    assert found["min_runtime_version"] == b"1.5.0"
    again = ADAPTER.load(tmp_path / "two.tflite")
    assert again.fingerprint == model.fingerprint
    np.testing.assert_array_equal(
        ADAPTER.runner(again, ONE)(cnn().batches[0])[0], ADAPTER.runner(model, ONE)(cnn().batches[0])[0]
    )


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(WorkspaceError, match="is a folder"):
        ADAPTER.save(cnn().model, tmp_path / "folder.tflite", {})
    assert [each.name for each in tmp_path.iterdir()] == ["folder.tflite"]


def test_costs_tell_a_large_op_from_a_small_one() -> None:
    net = Builder((32, 32, 32))
    data = [{"x": np.ones((4, 32, 32, 32), np.float32)}]
    subject = Calibrated(net.content(net.conv(net.conv(net.input, "large", 64), "small", 2, 1)), data)
    candidate = subject.applied("large/weight")
    (fp32, int8) = ADAPTER.op_seconds([subject.model, candidate], {"x": data[0]["x"][:1]}, ONE)
    assert fp32["large/weight"] > 3 * fp32["small/weight"]
    assert set(int8) == set(fp32)
    assert ADAPTER.neighbours(subject.model) == {"large/weight": ("small/weight",), "small/weight": ()}


def test_ops_that_cannot_be_timed_by_themselves_are_left_out_and_others_told() -> None:
    net = Builder((4, 4, 8))
    conv = net.conv(net.input, "conv", 8)
    rows = net.graph.add_tensor((16, 8), FLOAT32, "rows")  # samples and places along one axis
    shape = net.graph.add_constant(np.array([-1, 8], np.int32))
    net.graph.add_operator("RESHAPE", [conv, shape], [rows], ("ReshapeOptions", schema.ReshapeOptionsT()))
    data = [{"x": np.ones((4, 4, 4, 8), np.float32)}]
    subject = Calibrated(net.content(net.add(rows, rows, "sum")), data)
    (found,) = ADAPTER.op_seconds([subject.model], data[0], ONE)
    assert found["conv/weight"] > 0
    assert set(found) <= set(subject.space.by_name)
