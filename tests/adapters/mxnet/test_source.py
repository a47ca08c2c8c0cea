"""Blocks and symbols as models: how NDArrays become arrays, what users get back, and what they are refused."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import autotune
from autotune.adapter import Example, Execution
from autotune.adapters import converter_name, source_framework
from autotune.adapters.mxnet.adapter import MxnetAdapter
from autotune.adapters.mxnet.framework import dense, mx
from autotune.adapters.mxnet.source import MxnetSource
from autotune.criterion import Criterion, Verdict
from autotune.errors import DataError, InputError, ModelError
from tests.adapters.mxnet.networks import batches, images, residual, saved

ADAPTER = MxnetAdapter()
SOURCE = MxnetSource()


def checkpoint(folder: Path) -> tuple[Any, Any, Any]:
    found: tuple[Any, Any, Any] = mx.model.load_checkpoint(str(saved(residual(), folder).with_name("network")), 0)
    return found


def block(folder: Path) -> Any:
    symbol = saved(residual(), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MXNet's own, of the input's type
        return mx.gluon.SymbolBlock.imports(str(symbol), ["data"], str(symbol.with_name("network-0000.params")))


class Pair(mx.gluon.HybridBlock):
    """Two inputs, of which the second is subtracted."""

    def hybrid_forward(self, F: Any, left: Any, right: Any) -> Any:  # noqa: N803  # Gluon's own
        return F.elemwise_sub(left, right)


def doubled(inputs: Any) -> Any:
    return 2 * inputs, inputs


MAKERS = [checkpoint, block]


@pytest.mark.parametrize("make", MAKERS)
def test_models_belong_to_mxnet_and_compute_what_their_files_do(make: Any, tmp_path: Path) -> None:
    source = make(tmp_path)
    assert source_framework(source).name == "mxnet"  # type: ignore[union-attr]
    assert converter_name(source) == "mxnet"
    found, wanted = (
        ADAPTER.runner(ADAPTER.load(each, Example([images()])), Execution(threads=1))({"data": images()})[0]
        for each in (source, tmp_path / "network")
    )
    np.testing.assert_array_equal(found, wanted)


def test_parameters_may_be_one_dict_as_a_file_has_them(tmp_path: Path) -> None:
    symbol, arguments, states = checkpoint(tmp_path)
    wanted = ADAPTER.load((symbol, arguments, states), Example([images()])).fingerprint
    stored = mx.nd.load(str(tmp_path / "network-0000.params"))
    assert any(name.startswith("aux:") for name in stored)
    for parameters in (stored, {**arguments, **states}):
        assert ADAPTER.load((symbol, parameters), Example([images()])).fingerprint == wanted
        assert SOURCE.reader((symbol, parameters)).takes == ("data",)


def test_other_objects_belong_to_nobody() -> None:
    for other in ((1, 2), (), "model-symbol.json", {"data": 1}):
        assert source_framework(other) is None


def test_ndarrays_of_a_loader_become_arrays(tmp_path: Path) -> None:
    read = SOURCE.reader(checkpoint(tmp_path))
    for pair in ((dense(images()), dense(np.arange(8))), [dense(images()), dense(np.arange(8))]):
        found: Any = read(pair)
        inputs, labels = found
        assert isinstance(inputs, np.ndarray)
        assert isinstance(labels, np.ndarray)
        np.testing.assert_array_equal(inputs, images())
    assert isinstance(read(dense(images())), np.ndarray)
    found = read({"surplus": 1, "data": dense(images())})
    assert set(found) == {"data"}
    assert pickle.loads(pickle.dumps(read)) == read


def test_a_dict_is_read_in_the_order_of_the_blocks_inputs() -> None:
    read = SOURCE.reader(Pair())
    assert read.takes == ("left", "right")
    left, right = np.full((2, 3), 5, np.float32), np.full((2, 3), 2, np.float32)
    feeds: Any = read.inputs({"right": dense(right), "left": dense(left)})
    model = ADAPTER.load(Pair(), Example([feeds]))
    np.testing.assert_array_equal(ADAPTER.runner(model, Execution(threads=1))(feeds)[0], left - right)
    assert len(read((dense(left), dense(right)))) == 2  # type: ignore[arg-type]  # two inputs, and no labels


def test_a_tuned_block_gives_what_it_is_given() -> None:
    tuned = pickle.loads(pickle.dumps(SOURCE.module(doubled, SOURCE.reader(Pair()))))
    assert isinstance(tuned, mx.gluon.Block)
    x = images(2)
    for outputs in (tuned(dense(x)), tuned(dense(x).as_np_ndarray())):
        assert np.array_equal(outputs[0].asnumpy(), 2 * x)
    assert type(tuned(dense(x))[0]) is mx.nd.NDArray
    assert type(tuned(dense(x).as_np_ndarray())[0]) is mx.np.ndarray
    assert isinstance(tuned(x)[0], np.ndarray)


@pytest.mark.parametrize("isolation", ["none", "process"])
@pytest.mark.parametrize("make", MAKERS)
def test_a_model_is_tuned_with_ndarrays_and_comes_back_as_a_block(make: Any, isolation: str, tmp_path: Path) -> None:
    source = make(tmp_path)
    reference = block(tmp_path)
    loader = [dense(batch["data"]) for batch in batches()]
    wanted = [reference(batch).asnumpy() for batch in loader]

    def agreement(model: Any) -> float:
        found = [model(dense(batch["data"])).asnumpy() for batch in batches()]
        return float(np.mean([a.argmax(1) == b.argmax(1) for a, b in zip(found, wanted, strict=True)]))

    tuner = autotune.Tuner(
        framework="mxnet",
        criterion=Criterion(relative=0.5),
        strategy="basic",
        max_trials=1,
        warmup=1,
        latency_max_s=0.1,
        isolation=isolation,
        workspace=tmp_path / "run",
    )
    result = tuner.tune(source, loader, agreement)
    assert result.verdict is Verdict.MET
    tuned = result.module()
    assert isinstance(tuned, mx.gluon.Block)
    assert type(tuned(loader[0])) is mx.nd.NDArray


def test_training_is_refused_with_the_way(tmp_path: Path) -> None:
    tuner = autotune.Tuner(framework="mxnet", train_fn=lambda _model: None)
    with pytest.raises(InputError, match=r"mxnet has no such training.*nn\.Module of PyTorch.*ONNX"):
        tuner.tune(checkpoint(tmp_path), [images()], lambda _model: 1.0)


def test_a_symbol_without_parameters_is_refused(tmp_path: Path) -> None:
    symbol, arguments, _ = checkpoint(tmp_path)
    tune = autotune.Tuner(framework="mxnet").tune
    sources: list[object] = [symbol, (symbol,), (symbol, {}, {}), (symbol, None, None), (symbol, {"first_weight": 1})]
    for source in sources:
        with pytest.raises(ModelError, match=r"as `mx\.model\.load_checkpoint` returns"):
            tune(source, [images()], lambda _model: 1.0)
    del arguments["third_weight"]
    with pytest.raises(DataError, match=r"no parameters for .*third_weight"):
        tune((symbol, arguments), [images()], lambda _model: 1.0)


def test_what_cannot_be_hybridized_is_refused() -> None:
    plain = mx.gluon.nn.Sequential()
    with pytest.raises(ModelError, match="is a Block"):
        autotune.Tuner(framework="mxnet").tune(plain, [images()], lambda _model: 1.0)


def test_iterators_of_mx_io_are_refused_with_the_way(tmp_path: Path) -> None:
    batch = mx.io.DataBatch([dense(images())], [dense(np.zeros(8))])
    with pytest.raises(InputError, match="DataLoader"):
        SOURCE.reader(checkpoint(tmp_path))(batch)


@pytest.mark.parametrize("make", MAKERS)
def test_onnx_of_a_model_has_the_names_that_its_ops_have_here(make: Any, tmp_path: Path) -> None:
    source = make(tmp_path)
    content, _ = SOURCE.to_onnx(source, Example([images()]))
    found = [node.name for node in onnx.load_from_string(content).graph.node if node.op_type == "Conv"]
    ops = ADAPTER.load(source, Example([images()])).ops
    assert found == [op.name for op in ops if op.kind == "Convolution"]
