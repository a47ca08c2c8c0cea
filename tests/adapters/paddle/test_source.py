"""Layers as models: how tensors become arrays, what users get back, and training on a candidate's grids."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import onnx
import pytest

import autotune
from autotune.adapter import Example, Execution
from autotune.adapters import get_adapter, source_framework
from autotune.adapters.paddle.framework import paddle
from autotune.adapters.paddle.source import PaddleSource
from autotune.config import QuantizationConfig
from autotune.conversion import ConverterTool
from autotune.criterion import Criterion, Verdict
from autotune.errors import ApplyError, InputError, MissingDependencyError, WorkspaceError
from autotune.host import current_host
from tests.adapters.conversion import names_of
from tests.adapters.paddle.calibrated import ADAPTER, outputs, sqnr_db
from tests.adapters.paddle.networks import Mobile, Residual, Shortcut, batches, filled, images

SOURCE = PaddleSource()


def test_a_layer_belongs_to_paddle() -> None:
    assert source_framework(filled(Residual())).name == "paddle"  # type: ignore[union-attr]
    assert source_framework("model.pdmodel") is None


def test_tensors_of_a_loader_become_arrays() -> None:
    read = SOURCE.reader(filled(Residual()))
    pair: Any = read((paddle.to_tensor(images()), paddle.to_tensor([1])))
    inputs, labels = pair
    np.testing.assert_array_equal(inputs, images())
    assert isinstance(labels, np.ndarray)
    assert set(read({"x": paddle.to_tensor(images()), "surplus": 1})) == {"x"}  # type: ignore[call-overload]


def test_a_layer_is_converted_for_other_runtimes_and_keeps_its_names() -> None:
    layer = filled(Residual())
    try:
        content, notes = SOURCE.to_onnx(layer, Example([images()]))
    except MissingDependencyError as error:
        pytest.skip(str(error))
    run = get_adapter("onnxruntime").runner(get_adapter("onnxruntime").load(content), Execution(threads=1))
    np.testing.assert_allclose(run({"x": images()})[0], layer(paddle.to_tensor(images())).numpy(), rtol=1e-3, atol=1e-4)
    assert "paddle2onnx made ONNX" in notes[-1]
    native = {op.name for op in ADAPTER.space(ADAPTER.load(layer, Example([images()]))).ops}
    assert native <= set(names_of(onnx.load_from_string(content), "Conv"))


def test_without_the_converter_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(tool: ConverterTool) -> Path:
        raise MissingDependencyError(f"Install it with `{tool.command}`")

    monkeypatch.setattr("autotune.conversion.process.interpreter_of", missing)
    with pytest.raises(MissingDependencyError, match="autotune converter install paddle"):
        SOURCE.to_onnx(filled(Residual()), Example([images()]))


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_layer_is_tuned_and_comes_back_as_one(isolation: str, tmp_path: Path) -> None:
    layer = filled(Residual())
    loader = [paddle.to_tensor(batch["x"]) for batch in batches()]
    wanted = [layer(batch).numpy() for batch in loader]

    def agreement(model: Any) -> float:
        found = [model(paddle.to_tensor(batch["x"])).numpy() for batch in batches()]
        return float(np.mean([a.argmax(1) == b.argmax(1) for a, b in zip(found, wanted, strict=True)]))

    tuner = autotune.Tuner(
        framework="paddle",
        criterion=Criterion(relative=0.5),
        strategy="basic",
        objective="size",
        max_trials=2,
        warmup=1,
        latency_max_s=0.1,
        isolation=isolation,
        workspace=tmp_path / "run",
    )
    result = tuner.tune(layer, loader, agreement)
    assert result.verdict is Verdict.MET
    assert not result.best.config.is_fp32
    tuned = result.module()
    assert isinstance(tuned, paddle.nn.Layer)
    assert isinstance(tuned(loader[0]), paddle.Tensor)
    assert isinstance(tuned(batches()[0]["x"]), np.ndarray)
    with pytest.raises(InputError, match="evaluation mode"):
        tuned.train()


@pytest.mark.skipif(
    current_host().saturates_u8s8,
    reason="without VNNI, weights that multiply s8 lose a bit and sums of u8 saturate: no training sees that",
)
@pytest.mark.parametrize("network", [Residual, Mobile, Shortcut])
def test_training_rounds_as_the_kernels_do(network: type) -> None:
    """In evaluation, the layer that is trained computes what the candidate does, sums and outputs apart."""
    layer = filled(network())
    model = ADAPTER.load(layer, Example([images()]))
    statistics = ADAPTER.calibrate(model, batches(), seed=0)
    config = QuantizationConfig(ops=ADAPTER.space(model).preferred.ops, trained=True)
    grids = ADAPTER.fake_quantization(model, config, statistics)
    assert set(grids) == set(config.ops)
    trained, notes = SOURCE.fake_quantized(layer, Example([images()]), grids)
    assert trained.training
    assert not notes
    expected = outputs(ADAPTER.apply(model, config, statistics))
    found = trained(paddle.to_tensor(batches()[0]["x"])).numpy()
    plain = layer(paddle.to_tensor(batches()[0]["x"])).numpy()
    assert sqnr_db(expected, found) > sqnr_db(expected, plain)


def test_gradients_pass_rounding_and_stop_where_values_are_cut_off() -> None:
    layer = filled(Residual())
    model = ADAPTER.load(layer, Example([images()]))
    statistics = ADAPTER.calibrate(model, batches(), seed=0)
    config = QuantizationConfig(ops=ADAPTER.space(model).preferred.ops, trained=True)
    trained, _ = SOURCE.fake_quantized(layer, Example([images()]), ADAPTER.fake_quantization(model, config, statistics))
    x = paddle.to_tensor(images() * 1.0, stop_gradient=False)
    trained(x).sum().backward()
    assert float(np.abs(trained.first.weight.grad.numpy()).max()) > 0
    x = paddle.to_tensor(np.full((1, 3, 16, 16), 1e6, np.float32), stop_gradient=False)
    trained(x).sum().backward()
    assert float(np.abs(x.grad.numpy()).max()) == 0


def test_trained_weights_go_into_a_copy_and_through_a_file(tmp_path: Path) -> None:
    layer = filled(Residual())
    other = filled(Residual(), seed=1)
    copied = SOURCE.trained(layer, other)
    assert SOURCE.changed(layer, copied)
    assert not SOURCE.changed(layer, SOURCE.trained(layer, layer))
    SOURCE.save_weights(copied, tmp_path / "weights")
    again = SOURCE.load_weights(layer, tmp_path / "weights")
    assert not SOURCE.changed(copied, again)
    (tmp_path / "weights").write_bytes(b"damaged")
    with pytest.raises(WorkspaceError, match="cannot be used"):
        SOURCE.load_weights(layer, tmp_path / "weights")


def test_what_cannot_be_a_trained_layer_is_refused() -> None:
    layer = filled(Residual())
    with pytest.raises(ApplyError, match="must train the layer"):
        SOURCE.trained(layer, 17)
    with pytest.raises(ApplyError, match="has shape"):
        SOURCE.trained(layer, filled(Residual(width=16)))
    diverged = filled(Residual())
    diverged.head.bias.set_value(np.full(10, np.nan, np.float32))
    with pytest.raises(ApplyError, match="training diverged"):
        SOURCE.trained(layer, diverged)


def test_a_run_trains_where_nothing_else_keeps_the_target(tmp_path: Path) -> None:
    layer = filled(Residual())
    loader = [batch["x"] for batch in batches()]
    seen: list[Any] = []

    def train(model: Any) -> None:
        seen.append(model)
        optimizer = paddle.optimizer.SGD(learning_rate=1e-4, parameters=model.parameters())
        for batch in loader:
            loss = ((model(paddle.to_tensor(batch)) - layer(paddle.to_tensor(batch)).detach()) ** 2).mean()
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()

    wanted = [layer(paddle.to_tensor(batch)).numpy() for batch in loader]

    def closeness(model: Any) -> float:
        found = [model(paddle.to_tensor(batch)).numpy() for batch in loader]
        return 1.0 - float(np.mean([np.abs(a - b).mean() for a, b in zip(found, wanted, strict=True)]))

    tuner = autotune.Tuner(
        framework="paddle",
        criterion=Criterion(relative=1e-7),
        max_trials=2,
        latency_max_s=0.1,
        workspace=tmp_path / "run",
        train_fn=train,
    )
    result = tuner.tune(layer, loader, closeness)
    assert seen
    assert all(isinstance(each, paddle.nn.Layer) for each in seen)
    assert any(trial.config.trained for trial in result.history)


def test_readers_and_tuned_layers_travel() -> None:
    read = pickle.loads(pickle.dumps(SOURCE.reader(filled(Residual()))))
    assert read == SOURCE.reader(filled(Residual()))
    grid = cloudpickle.dumps(ADAPTER)
    assert cloudpickle.loads(grid).name == "paddle"
