"""Train a small network in PyTorch, and let autotune find the fastest quantized one that is as good.

    pip install '.[pytorch,quickstart]'
    python examples/pytorch/digits.py

The data are the digits that come with scikit-learn. All of it takes less than a minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import autotune

FOLDER = Path(__file__).parent / "runs"
EPOCHS = 8


class Block(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of the same shape."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + x)


class Digits(nn.Module):
    """Pictures of 8 by 8 in ten classes."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.layer1 = nn.Sequential(Block(channels), Block(channels))
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A score per class."""
        return self.fc(self.layer1(functional.relu(self.stem(x))).mean((2, 3)))


def data() -> tuple[TensorDataset, TensorDataset]:
    """The digits to train with, and those to score with."""
    digits = load_digits()
    pictures = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    last = len(labels) // 2
    return TensorDataset(pictures[:last], labels[:last]), TensorDataset(pictures[last:], labels[last:])


def train(dataset: TensorDataset) -> nn.Module:
    """A trained network in evaluation mode, which is how a module is tuned."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a network is slower on several
    module, loader = Digits(), DataLoader(dataset, batch_size=32, shuffle=True)
    optimizer = torch.optim.Adam(module.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=EPOCHS * len(loader))
    for _ in range(EPOCHS):
        for pictures, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(module(pictures), labels).backward()
            optimizer.step()
            rate.step()
    return module.eval()


def main() -> None:
    """Train, tune, and use what was found."""
    known, unseen = data()
    module = train(known)
    scored = DataLoader(unseen, batch_size=128)

    def accuracy(model: Any) -> float:
        """The share of digits that a model gets right; autotune passes it a module that takes and gives tensors."""
        right = 0
        with torch.no_grad():
            for pictures, labels in scored:
                right += int((model(pictures).argmax(1) == labels).sum())
        return right / len(unseen)

    # In a fixed order, so that a run that continues in another process sees the same batches.
    calibration = DataLoader(known, batch_size=32, shuffle=False)
    tuner = autotune.Tuner(criterion=autotune.Criterion(relative=0.01), max_trials=8, timeout_s=60)
    result = tuner.tune(module, calibration, accuracy)

    found = result.best.measurement
    assert found is not None
    print(f"{result.verdict}: {result.reason}")
    if found.speedup is not None:
        print(f"{found.speedup:.2f}x as fast as fp32 on ONNX Runtime; accuracy {found.accuracy:.4f}")
    kept = [name for name in result.op_types if result.best.config[name].precision == "fp32"]
    print(f"Left in fp32: {', '.join(kept) or 'nothing'}")

    tuned = result.module()
    pictures, labels = next(iter(scored))
    agreeing = int((tuned(pictures).argmax(1) == module(pictures).argmax(1)).sum())
    print(f"The tuned module agrees with the one that was trained on {agreeing} of {len(labels)} digits")

    FOLDER.mkdir(exist_ok=True)
    print(f"Wrote {result.save(FOLDER / 'digits.tuned.onnx')}")


if __name__ == "__main__":
    main()
