"""Trains the quickstart's model and writes `digits.onnx` and `digits.json` beside this file.

Nothing in the quickstart runs this; it is how the committed model came to be:

    pip install torch==2.13.0 scikit-learn onnx onnxscript onnxruntime
    python examples/quickstart/train.py

The network is a MobileNet (arXiv 1704.04861) in small, with residual blocks. One thing is borrowed from its big
relatives on purpose. Long training on ImageNet leaves the channels of a MobileNet's early layers with ranges that
differ by orders of magnitude (arXiv 1906.04721, figure 2), and one scale for all of them is what costs int8 its
accuracy. A minute of training on 600 pictures leaves no such spread, so here the stem and the first pointwise layer get
it: a fixed factor for each channel follows their batch normalisation, and the network is trained with it in place.
"""

from __future__ import annotations

import ast
import itertools
import json
import platform
from collections.abc import Container
from pathlib import Path
from typing import Any

import digits
import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

SEED = 1
EPOCHS = 30
BATCH_SIZE = 50
LEARNING_RATE = 5e-3
WEIGHT_DECAY = 0.05
SPREAD_DECADES = 2.2
"""The channel factors of the first two layers lie between 10^-2.2 and 1, spaced evenly on a logarithmic scale."""
BLOCKS = ((128, 2), (128, 1), (128, 1), (256, 2), (256, 1), (256, 1))
"""Output channels and stride of each block."""
FOLDER = Path(__file__).parent


class ChannelFactors(nn.Module):
    """Multiplies each channel by a factor that stays as it is."""

    factors: torch.Tensor

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        order = torch.randperm(channels, generator=generator)
        factors = 10 ** torch.linspace(-SPREAD_DECADES, 0, channels)[order]
        self.register_buffer("factors", factors.reshape(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale (batch, channels, height, width)."""
        return x * self.factors


class ConvNorm(nn.Module):
    """A convolution, its batch normalisation and, where asked, channel factors; one convolution once folded."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        factors: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.scale: nn.Module = ChannelFactors(outputs, factors) if factors is not None else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        return self.scale(self.norm(self.conv(x)))

    @torch.no_grad()
    def fold(self) -> None:
        """Move the normalisation and the factors into the convolution."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return
        self.conv = nn.utils.fuse_conv_bn_eval(self.conv, self.norm)
        if isinstance(self.scale, ChannelFactors) and self.conv.bias is not None:
            self.conv.weight.mul_(self.scale.factors.reshape(-1, 1, 1, 1))
            self.conv.bias.mul_(self.scale.factors.flatten())
        self.norm = self.scale = nn.Identity()


class Block(nn.Module):
    """A depthwise and a pointwise convolution, each with a ReLU, and a shortcut where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, factors: torch.Generator | None) -> None:
        super().__init__()
        self.depthwise = ConvNorm(inputs, inputs, 3, stride=stride, groups=inputs)
        self.pointwise = ConvNorm(inputs, outputs, 1, factors=factors)
        self.shortcut = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        y = functional.relu(self.pointwise(functional.relu(self.depthwise(x))))
        return x + y if self.shortcut else y


class DigitsNet(nn.Module):
    """Enlarges 8 x 8 pictures to 32 x 32 and names the digit."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        channels = 32
        self.stem = ConvNorm(1, channels, 3, factors=generator)
        blocks = []
        for index, (outputs, stride) in enumerate(BLOCKS):
            blocks.append(Block(channels, outputs, stride, generator if index == 0 else None))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images (batch, 1, 8, 8) to logits (batch, 10)."""
        x = functional.interpolate(image, scale_factor=4.0, mode="bilinear")
        x = self.blocks(functional.relu(self.stem(x)))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn each picture by up to 12 degrees, scale it by up to 12 % and move it by up to a tenth."""
    count = len(images)
    angle, scale, right, down = (torch.rand(4, count, generator=generator) * 2 - 1).unbind()
    angle, scale = angle * np.deg2rad(12), 1 + scale * 0.12
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack([cos, -sin, right * 0.2, sin, cos, down * 0.2], dim=1).reshape(count, 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train() -> DigitsNet:
    """Train on the first 600 digits; returns the folded network."""
    torch.set_num_threads(1)  # the order of additions is part of the result
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    network = DigitsNet(generator)
    data = digits.training()
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    steps = len(labels) // BATCH_SIZE
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * steps, pct_start=0.2)
    for epoch in range(EPOCHS):
        for chosen in torch.randperm(len(labels), generator=generator)[: steps * BATCH_SIZE].split(BATCH_SIZE):
            loss = functional.cross_entropy(network(augment(images[chosen], generator)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {loss.item():.4f}")
    network.eval()
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.fold()
    return network


def export(network: DigitsNet, path: Path) -> None:
    """Write the network as ONNX, its nodes named after its modules."""
    torch.onnx.export(
        network,
        (torch.zeros(2, 1, 8, 8),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        opset_version=20,
        external_data=False,
    )
    model = onnx.load(path)
    taken: set[str] = set()
    for node in model.graph.node:
        node.name = node_name(node, taken)
        taken.add(node.name)
    for element in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        del element.metadata_props[:]  # the exporter's notes on the training machine's files
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def node_name(node: onnx.NodeProto, taken: Container[str]) -> str:
    """The module that a node came from, as in ``blocks.0.depthwise.conv``; for a function, its operator is appended."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    *modules, _ = ast.literal_eval(notes["pkg.torch.onnx.name_scopes"]) if notes else [""]
    module, operator = modules[-1] if modules else "", node.op_type.lower()
    name = module if module.endswith(operator) or node.op_type == "Gemm" else f"{module}.{operator}".strip(".")
    candidates = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def measure(path: Path) -> dict[str, Any]:
    """The model's accuracy on the digits that it has not seen, as ONNX Runtime computes it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {
        "samples": len(digits.evaluation().labels),
        "accuracy": digits.accuracy(lambda images: session.run(None, {"image": images})[0]),
        "size_bytes": path.stat().st_size,
        "seed": SEED,
        "packages": {module.__name__: str(module.__version__) for module in (torch, onnx, onnxruntime, np)},
        "machine": platform.machine(),
    }


def main() -> None:
    """Train, export and measure."""
    path = FOLDER / "digits.onnx"
    export(train(), path)
    result = measure(path)
    path.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
