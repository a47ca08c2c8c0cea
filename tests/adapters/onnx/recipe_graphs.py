"""Random graphs that recipes act on: chains of convolutions, residual streams, a normalization before products."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.adapters.onnx.graphs import build, node, normal

CHANNELS = 8
LAYERS = st.lists(
    st.tuples(st.sampled_from(["dense", "pointwise", "depthwise"]), st.sampled_from(["none", "relu", "relu6"])),
    min_size=2,
    max_size=5,
)
SPREADS = np.exp(np.linspace(-2.5, 2.5, CHANNELS)).reshape(-1, 1, 1, 1)


def chain(layers: list[tuple[str, str]], seed: int, *, bias: bool = True, spread: float = 1.5) -> onnx.ModelProto:
    """Convolutions whose channels differ in range by orders of magnitude, each followed by an activation."""
    random = np.random.default_rng(seed)
    constants = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    nodes, source, width = [], "x", 3
    for index, (kind, activation) in enumerate(layers):
        depthwise = kind == "depthwise" and width == CHANNELS
        size = 1 if kind == "pointwise" else 3
        weight = random.standard_normal((CHANNELS, 1 if depthwise else width, size, size))
        weight *= np.exp(spread * random.standard_normal((CHANNELS, 1, 1, 1))) / np.sqrt(weight[0].size)
        constants[f"w{index}"] = weight.astype(np.float32)
        inputs = f"{source} w{index}"
        if bias:
            constants[f"b{index}"] = random.standard_normal(CHANNELS).astype(np.float32)
            inputs += f" b{index}"
        pads = [size // 2] * 4
        nodes.append(node("Conv", inputs, f"c{index}", pads=pads, group=CHANNELS if depthwise else 1))
        source, width = f"c{index}", CHANNELS
        if activation == "relu":
            nodes.append(node("Relu", source, f"a{index}"))
        elif activation == "relu6":
            nodes.append(node("Clip", f"{source} zero six", f"a{index}"))
        source = nodes[-1].output[0]
    return build(nodes, {"x": ("N", 3, 8, 8)}, {source: None}, constants)


def residual(blocks: int, seed: int, *, rectified: bool = True) -> onnx.ModelProto:
    """Blocks of an expanding and a projecting convolution around an identity, with channels of many ranges."""
    random = np.random.default_rng(seed)
    spreads = random.permutation(SPREADS)
    constants: dict[str, np.ndarray] = {}

    def conv(name: str, source: str, outputs: int, inputs: int, scale: np.ndarray | float = 1.0) -> onnx.NodeProto:
        weight = random.standard_normal((outputs, inputs, 1, 1)) / np.sqrt(inputs) * scale
        constants[f"{name}/w"] = weight.astype(np.float32)
        constants[f"{name}/b"] = (0.1 * random.standard_normal(outputs) * np.ravel(scale)).astype(np.float32)
        return node("Conv", f"{source} {name}/w {name}/b", name)

    nodes = [conv("stem", "x", CHANNELS, 3, spreads)]
    source = "stem"
    for block in range(blocks):
        expand = conv(f"expand{block}", source, 2 * CHANNELS, CHANNELS, 0.3)
        project = conv(f"project{block}", f"relu{block}", CHANNELS, 2 * CHANNELS, 0.3 * spreads)
        nodes += [expand, node("Relu", f"expand{block}", f"relu{block}"), project]
        nodes.append(node("Add", f"{source} project{block}", f"add{block}"))
        source = f"add{block}"
        if rectified and block % 2:
            nodes.append(node("Relu", source, f"rectified{block}"))
            source = f"rectified{block}"
    nodes.append(conv("head", source, CHANNELS, CHANNELS, 1.0 / spreads.reshape(1, -1, 1, 1)))
    constants["head/b"] = np.zeros(CHANNELS, np.float32)
    return build(nodes, {"x": ("N", 3, 8, 8)}, {"head": None}, constants)


def pre_norm(seed: int = 0, *, large: float = 30.0, channels: int = 24, norm: str = "layer") -> onnx.ModelProto:
    """A normalization with some large channels, read by two products, as before the block of a transformer."""
    rng = np.random.default_rng(seed)
    scale = np.where(rng.random(channels) < 0.1, large, 1.0).astype(np.float32)
    scale[0] = large
    first = node("LayerNormalization", "x g b", "n", axis=-1) if norm == "layer" else node("Mul", "x g", "n")
    nodes = [first, node("MatMul", "n w1", "m"), node("MatMul", "n w2", "k"), node("Add", "m k", "y")]
    constants = {
        "g": scale * (1 + normal(channels, seed=seed + 1)),
        "b": normal(channels, seed=seed + 2),
        "w1": normal(channels, 16, seed=seed + 3),
        "w2": normal(channels, 16, seed=seed + 4),
    }
    if norm != "layer":
        del constants["b"]
    return build(nodes, {"x": ("N", 10, channels)}, {"y": ("N", 10, 16)}, constants)
