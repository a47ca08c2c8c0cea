"""Symbols of MXNet as ONNX, by MXNet's own exporter."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from autotune.errors import ModelError
from tests.adapters.conversion import converted, make, names_of, shape_of

CODE = """
import mxnet as mx
net = mx.sym.Convolution(mx.sym.var("pixels"), name="first", num_filter=8, kernel=(3, 3))
net = mx.sym.Activation(net, act_type="relu", name="relu")
net = mx.sym.Convolution(net, name="second", num_filter=8, num_group=8, kernel=(3, 3))
net = mx.sym.Flatten(mx.sym.Pooling(net, global_pool=True, pool_type="avg", kernel=(1, 1), name="pool"), name="flat")
net = mx.sym.FullyConnected(net, num_hidden=5, name="head")
shapes, _, _ = net.infer_shape(pixels=(1, 3, 16, 16))
mx.random.seed(0)
arguments = {
    name: mx.nd.random.normal(shape=shape) for name, shape in zip(net.list_arguments(), shapes) if name != "pixels"
}
mx.model.save_checkpoint("net", 3, net, arguments, {})
"""
BATCH = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mxnet")
    make("mxnet", CODE, path)
    return path


@pytest.mark.parametrize("name", ["net-symbol.json", "net"])
def test_ops_keep_the_names_of_the_symbol(folder: Path, name: str) -> None:
    proto, notes = converted(folder / name, BATCH)
    (read,), (written,) = proto.graph.input, proto.graph.output
    assert (read.name, shape_of(read), shape_of(written)) == ("pixels", ["batch", 3, 16, 16], ["batch", 5])
    assert names_of(proto, "Conv") == ["first", "second"]
    assert [each.version for each in proto.opset_import] == [13]
    assert "MXNet's exporter made ONNX of the model. On the first batch its outputs part" in notes[0]


def test_a_symbol_has_no_shapes_without_data(folder: Path) -> None:
    with pytest.raises(ModelError, match="Give it data"):
        converted(folder / "net-symbol.json", None)


def test_a_symbol_without_parameters_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "net-symbol.json", tmp_path)
    with pytest.raises(ModelError, match=r"no parameters: .*net-0000\.params does not exist"):
        converted(tmp_path / "net-symbol.json", BATCH)
