"""Small networks for the tests of the Paddle adapter, and their files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from autotune.adapter import Array, Feeds
from autotune.adapters.paddle.framework import old_representation, paddle, quiet


class Residual(paddle.nn.Layer):
    """A wide convolutional network with batch normalizations, a residual sum, max pooling and a linear head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = paddle.nn.Conv2D(3, width, 3, padding=1, bias_attr=False)
        self.norm = paddle.nn.BatchNorm2D(width)
        self.relu = paddle.nn.ReLU()
        self.second = paddle.nn.Conv2D(width, width, 3, padding=1)
        self.pool = paddle.nn.MaxPool2D(2)
        self.third = paddle.nn.Conv2D(width, 2 * width, 3, padding=1)
        self.flat = paddle.nn.Flatten()
        self.mean = paddle.nn.AdaptiveAvgPool2D(1)
        self.head = paddle.nn.Linear(2 * width, 10)

    def forward(self, x: Any) -> Any:
        first = self.relu(self.norm(self.first(x)))
        second = self.relu(self.second(first) + first)
        third = self.relu(self.third(self.pool(second)))
        return self.head(self.flat(self.mean(third)))


class Mobile(paddle.nn.Layer):
    """An inverted bottleneck as MobileNetV2 has it: pointwise, depthwise with Relu6, and a linear sum."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = paddle.nn.Conv2D(3, width, 3, stride=2, padding=1)
        self.expand = paddle.nn.Conv2D(width, 4 * width, 1)
        self.depthwise = paddle.nn.Conv2D(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        self.project = paddle.nn.Conv2D(4 * width, width, 1)
        self.act = paddle.nn.ReLU6()
        self.last = paddle.nn.Conv2D(width, 10, 1)
        self.mean = paddle.nn.AdaptiveAvgPool2D(1)
        self.flat = paddle.nn.Flatten()

    def forward(self, x: Any) -> Any:
        stem = self.act(self.stem(x))
        inside = self.act(self.depthwise(self.act(self.expand(stem))))
        return self.flat(self.mean(self.last(self.project(inside) + stem)))


class Shortcut(paddle.nn.Layer):
    """A residual block whose way past it is a convolution, as ResNets begin each stage with."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = paddle.nn.Conv2D(3, width, 3, padding=1)
        self.first = paddle.nn.Conv2D(width, 2 * width, 3, stride=2, padding=1)
        self.second = paddle.nn.Conv2D(2 * width, 2 * width, 3, padding=1)
        self.past = paddle.nn.Conv2D(width, 2 * width, 1, stride=2)
        self.last = paddle.nn.Conv2D(2 * width, 10, 3)
        self.relu = paddle.nn.ReLU()

    def forward(self, x: Any) -> Any:
        stem = self.relu(self.stem(x))
        inside = self.relu(self.second(self.relu(self.first(stem))) + self.past(stem))
        return self.last(inside)


class Pooled(paddle.nn.Layer):
    """Two branches behind max pooling, joined, and a linear head behind average pooling."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = paddle.nn.Conv2D(3, width, 3, padding=1)
        self.pool = paddle.nn.MaxPool2D(2)
        self.left = paddle.nn.Conv2D(width, width, 1)
        self.right = paddle.nn.Conv2D(width, width, 3, padding=1)
        self.head = paddle.nn.Linear(2 * width, 10)
        self.relu = paddle.nn.ReLU()
        self.mean = paddle.nn.AdaptiveAvgPool2D(1)
        self.swish = paddle.nn.Hardswish()

    def forward(self, x: Any) -> Any:
        pooled = self.pool(self.relu(self.stem(x)))
        both = paddle.concat([self.relu(self.left(pooled)), self.swish(self.right(pooled))], axis=1)
        return self.head(paddle.flatten(self.mean(both), 1))


def filled(layer: Any, seed: int = 0) -> Any:
    """A layer whose weights are random and whose normalizations do something, in evaluation mode."""
    rng = np.random.default_rng(seed)
    for name, value in layer.state_dict().items():
        shape = tuple(value.shape)
        if name.endswith("_variance") or (len(shape) == 1 and name.endswith("weight")):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, 1 / np.sqrt(max(1, np.prod(shape[1:]))) if len(shape) > 1 else 0.1, shape)
        value.set_value(array.astype(np.float32))
    layer.eval()
    return layer


def images(count: int = 8, size: int = 16, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 3, size, size)).astype(np.float32)


def batches() -> list[Feeds]:
    return [{"x": images(seed=seed)} for seed in range(1, 5)]


def saved(layer: Any, folder: Path | None = None, shape: tuple[int | None, ...] = (None, 3, 16, 16)) -> Path:
    """The path of the program that Paddle itself makes of a layer."""
    prefix = (folder or Path(tempfile.mkdtemp(prefix="autotune-tests-"))) / "network"
    with quiet(), old_representation():
        paddle.jit.save(layer, str(prefix), input_spec=[paddle.static.InputSpec(list(shape), "float32", "x")])
    return prefix.with_suffix(".pdmodel")
