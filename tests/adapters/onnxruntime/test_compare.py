"""Where the activations of a model and of what was tuned from it part."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import autotune
from autotune.adapters import get_adapter
from autotune.cli.comparing import compare_models
from autotune.errors import InputError, ModelError
from tests.numpy_adapter import NumpyAdapter

RNG = np.random.default_rng(0)
IMAGES = [RNG.standard_normal((4, 3, 8, 8), np.float32) for _ in range(4)]


def _network() -> onnx.ModelProto:
    weights = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "u": (512, 10)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "v"], ["d"], name="second", pads=[1, 1, 1, 1]),
            helper.make_node("Flatten", ["d"], ["f"], name="flatten"),
            helper.make_node("MatMul", ["f", "u"], ["y"], name="last"),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(RNG.standard_normal(s, np.float32), name) for name, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and the same with its second convolution in int8."""
    onnx.save(_network(), tmp_path / "fp32.onnx")
    return tmp_path / "fp32.onnx", _tuned(tmp_path, ("second",), "qdq")


def _tuned(folder: Path, quantized: Sequence[str], form: str) -> Path:
    adapter: Any = get_adapter("onnxruntime")
    model = adapter.load(folder / "fp32.onnx")
    space = adapter.space(model)
    statistics = adapter.calibrate(model, ({"x": batch} for batch in IMAGES), seed=0)
    preferred = space.preferred
    fp32 = {op.name: next(each for each in op.configs() if str(each.precision) == "fp32") for op in space.ops}
    config = preferred.replace({name: choice for name, choice in fp32.items() if name not in quantized})
    config = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, options={"format": form}))
    adapter.save(adapter.apply(model, config, statistics), folder / f"{form}.onnx", {})
    return folder / f"{form}.onnx"


def test_what_is_the_same_is_equal(files: tuple[Path, Path]) -> None:
    found = autotune.compare(files[0], files[0], IMAGES)
    assert [each.op for each in found] == ["first", "relu", "second", "flatten", "last"]
    assert all(each.sqnr_db == math.inf and each.drop_db is None for each in found)


def test_the_quantized_op_is_where_they_part(files: tuple[Path, Path]) -> None:
    found = {each.op: each for each in autotune.compare(*files, IMAGES)}
    assert found["relu"].sqnr_db > 100, "nothing is quantized before"
    assert 5 < found["second"].sqnr_db < 60
    assert max(found.values(), key=lambda each: each.drop_db or 0.0).op == "second"
    assert found["last"].sqnr_db == pytest.approx(found["second"].sqnr_db, abs=6)
    assert found["second"].op_type == "Conv"


def test_tensors_in_integers_are_compared_as_what_they_stand_for(files: tuple[Path, Path], tmp_path: Path) -> None:
    tuned = _tuned(tmp_path, ("first", "second"), "qoperator")
    written = {name for node in onnx.load(tuned).graph.node for name in node.output}
    assert "r" not in written
    assert "r_QuantizeLinear_Output" in written
    found = {each.tensor: each for each in autotune.compare(files[0], tuned, IMAGES)}
    assert 5 < found["r"].sqnr_db < 60


def test_more_samples_are_read_up_to_the_limit(files: tuple[Path, Path]) -> None:
    read = []

    class Watched(list[Any]):
        def __iter__(self) -> Any:
            for each in IMAGES:
                read.append(each)
                yield each

    autotune.compare(*files, Watched(), samples=8)
    assert len(read) == 2


def test_models_that_share_nothing_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = onnx.load(files[0])
    for node in other.graph.node:
        node.output[:] = [f"{name}_" for name in node.output]
        node.input[:] = [f"{name}_" if name in "crdf" else name for name in node.input]
    other.graph.output[0].name = "y_"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="must share tensors of floats by their names"):
        autotune.compare(files[0], tmp_path / "other.onnx", IMAGES)
    for node in other.graph.node:
        node.input[:] = ["z" if name == "x" else name for name in node.input]
    other.graph.input[0].name = "z"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=r"must read the same inputs, but one reads \['x'\] and the other \['z'\]"):
        autotune.compare(files[0], tmp_path / "other.onnx", IMAGES)


def test_an_adapter_that_cannot_look_inside_says_what_can(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.comparison.get_adapter", lambda _name: NumpyAdapter())
    monkeypatch.setattr(NumpyAdapter, "load", lambda _self, _source: get_adapter("onnxruntime").load(files[0]))
    with pytest.raises(InputError, match="compare the models as ONNX or IR files"):
        autotune.compare(*files, IMAGES, framework="numpy")


def test_the_command_names_the_op(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "data.npz", x=np.concatenate(IMAGES))
    compare_models(files, "onnxruntime", tmp_path / "data.npz", 8, (), everything=False)
    out = capsys.readouterr().out
    assert "most is lost in second" in out
    assert "8 samples" in out
    compare_models(files, "onnxruntime", None, 8, (), everything=True)
    assert "random numbers" in capsys.readouterr().out
    with pytest.raises(InputError, match="needs two models"):
        compare_models(files[:1], "onnxruntime", None, 8, (), everything=False)
