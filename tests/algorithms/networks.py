"""Small networks on :class:`~tests.algorithms.numpy_graph.NumpyGraph`, whose channels differ in range by far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotune.adapter import Array, Feeds
from autotune.config import Granularity, QuantizedType, TensorScheme
from tests.algorithms.numpy_graph import NumpyGraph, add, conv, relu

CHANNELS = 6
PER_CHANNEL, PER_TENSOR = (
    TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=each)
    for each in (Granularity.PER_CHANNEL, Granularity.PER_TENSOR)
)


def pictures(count: int = 4, *, size: int = 4, scale: float = 1.0) -> list[Feeds]:
    random = np.random.default_rng(7)
    return [{"x": (scale * random.standard_normal((size, 3, 8, 8))).astype(np.float32)} for _ in range(count)]


def uneven(random: np.random.Generator, *shape: int) -> Array:
    """Weights whose output channels differ by orders of magnitude."""
    weight = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return np.asarray(weight * np.exp(1.5 * random.standard_normal((shape[0], *[1] * (len(shape) - 1)))))


def chain(seed: int = 0, *, high: float = np.inf, bias: bool = True) -> NumpyGraph:
    """Dense, depthwise and pointwise convolutions, a Relu or ReLU6 after the first two; the last one writes ``c``."""
    random = np.random.default_rng(seed)
    constants = {
        "a/w": uneven(random, CHANNELS, 3, 3, 3),
        "b/w": uneven(random, CHANNELS, 1, 3, 3),
        "c/w": uneven(random, 4, CHANNELS, 1, 1),
        "a/b": random.standard_normal(CHANNELS),
        "b/b": random.standard_normal(CHANNELS),
        "c/b": random.standard_normal(4),
    }
    nodes = [
        conv("a", "x", pads=1, bias=bias),
        relu("ra", "a", high),
        conv("b", "ra", groups=CHANNELS, pads=1, bias=bias),
        relu("rb", "b", high),
        conv("c", "rb", bias=bias),
    ]
    return NumpyGraph(nodes, constants)


def residual(seed: int = 0, *, between: Sequence[str] = ()) -> NumpyGraph:
    """A stem, a block of two convolutions around an identity, and a head that reads the sum."""
    random = np.random.default_rng(seed)
    spread = np.exp(np.linspace(-2.5, 2.5, CHANNELS)).reshape(-1, 1, 1, 1)
    constants = {
        "stem/w": spread * random.standard_normal((CHANNELS, 3, 1, 1)),
        "up/w": random.standard_normal((CHANNELS, CHANNELS, 1, 1)) / CHANNELS,
        "down/w": spread * random.standard_normal((CHANNELS, CHANNELS, 1, 1)) / CHANNELS,
        "head/w": random.standard_normal((4, CHANNELS, 1, 1)),
        **{f"{name}/b": np.zeros(CHANNELS) for name in ("stem", "up", "down")},
        "head/b": np.zeros(4),
        "shift": np.ones((CHANNELS, 1, 1)),
    }
    nodes = [
        conv("stem", "x"),
        conv("up", "stem"),
        relu("ru", "up"),
        conv("down", "ru"),
        add("sum", "stem", "down", *between),
        conv("head", "sum"),
    ]
    return NumpyGraph(nodes, constants)
