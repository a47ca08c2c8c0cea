"""Small networks for the tests of the MXNet adapter, and their files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from autotune.adapter import Array, Feeds
from autotune.adapters.mxnet.framework import dense, mx


def residual(width: int = 32) -> Any:
    """A convolutional network with batch normalizations, a residual sum, max pooling and a linear head."""
    sym = mx.sym
    x = sym.var("data")
    first = sym.Convolution(x, name="first", num_filter=width, kernel=(3, 3), pad=(1, 1), no_bias=True)
    first = sym.Activation(sym.BatchNorm(first, name="norm", fix_gamma=False), act_type="relu", name="relu1")
    second = sym.Convolution(first, name="second", num_filter=width, kernel=(3, 3), pad=(1, 1))
    second = sym.Activation(sym.elemwise_add(second, first, name="sum"), act_type="relu", name="relu2")
    pooled = sym.Pooling(second, kernel=(2, 2), stride=(2, 2), pool_type="max", name="pool")
    third = sym.Convolution(pooled, name="third", num_filter=2 * width, kernel=(3, 3), pad=(1, 1))
    third = sym.Activation(third, act_type="relu", name="relu3")
    mean = sym.Pooling(third, global_pool=True, pool_type="avg", kernel=(1, 1), name="mean")
    return sym.FullyConnected(sym.Flatten(mean, name="flat"), name="head", num_hidden=10)


def mobile(width: int = 16) -> Any:
    """An inverted bottleneck as MobileNetV2 has it: pointwise, depthwise with Relu6, and a linear sum."""
    sym = mx.sym
    stem = sym.Convolution(sym.var("data"), name="stem", num_filter=width, kernel=(3, 3), pad=(1, 1), stride=(2, 2))
    stem = sym.clip(stem, a_min=0, a_max=6, name="act1")
    wide = sym.clip(sym.Convolution(stem, name="expand", num_filter=4 * width, kernel=(1, 1)), a_min=0, a_max=6)
    deep = sym.Convolution(wide, name="depthwise", num_filter=4 * width, num_group=4 * width, kernel=(3, 3), pad=(1, 1))
    narrow = sym.Convolution(sym.clip(deep, a_min=0, a_max=6), name="project", num_filter=width, kernel=(1, 1))
    last = sym.Convolution(sym.elemwise_add(narrow, stem, name="sum"), name="last", num_filter=10, kernel=(1, 1))
    return sym.Flatten(sym.Pooling(last, global_pool=True, pool_type="avg", kernel=(1, 1), name="mean"), name="flat")


def shortcut(width: int = 16) -> Any:
    """A residual block whose way past it is a convolution, as ResNets begin each stage with."""
    sym = mx.sym

    def conv(x: Any, name: str, size: int, outputs: int, stride: int = 1) -> Any:
        half = (size // 2, size // 2)
        return sym.Convolution(x, name=name, num_filter=outputs, kernel=(size, size), pad=half, stride=(stride, stride))

    def relu(x: Any, name: str) -> Any:
        return sym.Activation(x, act_type="relu", name=name)

    stem = relu(conv(sym.var("data"), "stem", 3, width), "relu1")
    inside = conv(relu(conv(stem, "first", 3, 2 * width, 2), "relu2"), "second", 3, 2 * width)
    total = sym.elemwise_add(inside, conv(stem, "past", 1, 2 * width, 2), name="sum")
    return sym.Flatten(conv(relu(total, "relu3"), "last", 3, 10), name="flat")


def saved(symbol: Any, folder: Path | None = None, size: int = 16, seed: int = 0) -> Path:
    """The path of a symbol whose parameters are random, as ``save_checkpoint`` writes both files."""
    rng = np.random.default_rng(seed)
    shapes, _, states = symbol.infer_shape(data=(1, 3, size, size))
    arguments, auxiliary = {}, {}
    for name, shape in zip(symbol.list_arguments(), shapes, strict=True):
        if name != "data":
            deviation = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
            array = rng.uniform(0.5, 1.5, shape) if name.endswith("gamma") else rng.normal(0, deviation, shape)
            arguments[name] = dense(array.astype(np.float32))
    for name, shape in zip(symbol.list_auxiliary_states(), states, strict=True):
        array = rng.uniform(0.5, 1.5, shape) if name.endswith("var") else rng.normal(0, 0.1, shape)
        auxiliary[name] = dense(array.astype(np.float32))
    prefix = (folder or Path(tempfile.mkdtemp(prefix="autotune-tests-"))) / "network"
    mx.model.save_checkpoint(str(prefix), 0, symbol, arguments, auxiliary)
    return prefix.with_name("network-symbol.json")


def images(count: int = 8, size: int = 16, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 3, size, size)).astype(np.float32)


def batches() -> list[Feeds]:
    return [{"data": images(seed=seed)} for seed in range(1, 5)]
