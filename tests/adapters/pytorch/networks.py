"""Small modules with random weights, and programs that are exported of them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from autotune.adapters.pytorch.quiet import quiet

BATCH = 4


class Block(nn.Module):
    """Two convolutions with batch normalization, and what goes past them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(y)) + x)


class SmallCnn(nn.Module):
    """A stem, a residual block, a depthwise convolution, a wide one and a head."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.block = Block(width)
        self.depthwise = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width)
        self.wide = nn.Conv2d(width, 16 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(16 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(functional.relu(self.stem(x)))
        x = functional.relu6(self.depthwise(x))
        x = functional.relu(self.wide(x))
        return self.head(x.mean((2, 3)))


class Encoder(nn.Module):
    """Products with constant matrices around a normalization, and one between two activations."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        scores = torch.softmax(self.query(y) @ self.key(y).transpose(-1, -2), -1)
        return self.out(scores @ self.value(y)) + x


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in evaluation mode, with weights and statistics that are the same in every process."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(module.state_dict().items()):
            if value.is_floating_point():
                spread = torch.randn(value.shape, generator=generator)
                fan_in = max(1, value[0].numel()) if value.ndim > 1 else 1
                value.copy_(1 + 0.1 * spread if "bn" in name or "norm" in name else spread / fan_in**0.5)
                if name.endswith("running_var"):
                    value.abs_()
    return module.eval()


def exported(module: nn.Module, *shape: int) -> torch.export.ExportedProgram:
    """The program of a module, with a free number of samples of ``shape`` each."""
    generator = torch.Generator().manual_seed(1)
    example = torch.randn((BATCH, *shape), generator=generator)
    with quiet():  # PyTorch warns of its own LSTM
        return torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


def exported_cnn() -> torch.export.ExportedProgram:
    """A network for pictures of 16 x 16."""
    return exported(seeded(SmallCnn()), 3, 16, 16)
