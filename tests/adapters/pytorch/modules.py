"""Modules that the tests export and tune; each has one property that is at stake."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Two convolutions with batch norm and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))) + x)


class Network(nn.Module):
    """A small residual network over ten classes."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.layer1 = nn.Sequential(Block(channels), Block(channels))
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer1(functional.relu(self.stem(x))).mean((2, 3)))


class Text(nn.Module):
    """Reads token ids and a mask by name, as models of Hugging Face do; ``labels`` it would take too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.fc = nn.Linear(8, 3)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> Any:
        hidden = self.embedding(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        logits = self.fc(hidden.mean(1))
        return logits if labels is None else (logits, labels)


class AnyNames(nn.Module):
    """Passes on whatever it is given by name, as a wrapper does that leaves the loss out."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Text()

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**batch)
        return logits


class Returns(nn.Module):
    """Returns something other than one tensor."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        return {"dict": {"logits": x * 2, "hidden": x}, "pair": (x * 2, x), "none": None}[self.kind]


class DependsOnData(nn.Module):
    """Its control flow depends on the values of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x * 2
        return x


class NoTensorOps(nn.Module):
    """Leaves PyTorch half way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() * 2)


class FixedBatch(nn.Module):
    """Bakes the number of samples in."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.fc = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.reshape(self.batch, -1))


class Shared(nn.Module):
    """Calls one module twice, has another of the name that the second call would get, and multiplies by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.fc_1 = nn.Linear(6, 6)
        self.matrix = nn.Parameter(torch.eye(6) * 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(self.fc_1(self.fc(self.fc(x))), self.matrix)


def seeded(module: type[nn.Module], *args: Any) -> nn.Module:
    """A module with the same weights in every process, and batch norms that do something, in evaluation mode."""
    torch.manual_seed(0)
    made = module(*args)
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = torch.linspace(-0.1, 0.1, part.num_features)
            part.running_var = torch.linspace(0.5, 1.5, part.num_features)
    return made.eval()


def images(samples: int, seed: int = 0) -> torch.Tensor:
    """Random pictures of 8 by 8."""
    return torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def tokens(samples: int, length: int) -> dict[str, torch.Tensor]:
    """A batch as Hugging Face's tokenizers and collators make it, with a key that no module here takes."""
    ids = torch.arange(samples * length).reshape(samples, length) % 16
    mask = torch.ones(samples, length)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0, "labels": torch.zeros(samples)}
