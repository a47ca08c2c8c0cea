from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from autotune.adapter import Execution
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter, model
from autotune.errors import ModelError
from tests.adapters.onnxruntime.graphs import build, image_batches, node, normal, small_cnn

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
