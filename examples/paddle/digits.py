"""Train a small network in PaddlePaddle, and let autotune find the fastest quantized one that is as good.

    pip install '.[paddle,quickstart]'
    python examples/paddle/digits.py

The data are the digits that come with scikit-learn. All of it takes less than a minute.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import autotune

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of compilers that Paddle looks for, and that nothing here needs
    import paddle
    from paddle import nn
    from paddle.io import DataLoader, TensorDataset
    from paddle.nn import functional

FOLDER = Path(__file__).parent / "runs"
EPOCHS = 8


class Block(nn.Layer):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, channels, 3, padding=1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(channels)
        self.conv2 = nn.Conv2D(channels, channels, 3, padding=1, bias_attr=False)
        self.bn2 = nn.BatchNorm2D(channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features of the same shape."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + x)


class Digits(nn.Layer):
    """Pictures of 8 by 8 in ten classes."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2D(1, channels, 3, padding=1)
        self.layer1 = nn.Sequential(Block(channels), Block(channels))
        self.pool = nn.AdaptiveAvgPool2D(1)
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """A score per class."""
        return self.fc(paddle.flatten(self.pool(self.layer1(functional.relu(self.stem(x)))), 1))


def data() -> tuple[TensorDataset, TensorDataset]:
    """The digits to train with, and those to score with."""
    digits = load_digits()
    pictures = (digits.images / 16).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    last = len(labels) // 2
    return tuple(
        TensorDataset([paddle.to_tensor(pictures[part]), paddle.to_tensor(labels[part])])
        for part in (slice(None, last), slice(last, None))
    )


def train(dataset: TensorDataset) -> nn.Layer:
    """A trained network in evaluation mode."""
    paddle.seed(0)
    np.random.seed(0)  # Paddle's loader shuffles by it
    layer, loader = Digits(), DataLoader(dataset, batch_size=32, shuffle=True)
    rate = paddle.optimizer.lr.OneCycleLR(max_learning_rate=1e-2, total_steps=EPOCHS * len(loader) + 1)
    optimizer = paddle.optimizer.Adam(learning_rate=rate, parameters=layer.parameters())
    for _ in range(EPOCHS):
        for pictures, labels in loader:
            functional.cross_entropy(layer(pictures), labels).backward()
            optimizer.step()
            optimizer.clear_grad()
            rate.step()
    layer.eval()
    return layer


def main() -> None:
    """Train, tune, and use what was found."""
    warnings.filterwarnings("ignore", "When training, we now always track")
    paddle.set_device("cpu")
    known, unseen = data()
    layer = train(known)
    scored = DataLoader(unseen, batch_size=128)

    def accuracy(model: Any) -> float:
        """The share of digits that a model gets right; autotune passes it a layer that takes and gives tensors."""
        right = 0
        for pictures, labels in scored:
            right += int((model(pictures).argmax(1) == labels.flatten()).sum())
        return right / len(unseen)

    # In a fixed order, so that a run that continues in another process sees the same batches.
    calibration = DataLoader(known, batch_size=32, shuffle=False)
    tuner = autotune.Tuner(
        framework="paddle", criterion=autotune.Criterion(relative=0.01), batch_size=16, max_trials=8, timeout_s=60
    )
    result = tuner.tune(layer, calibration, accuracy)

    found = result.best.measurement
    assert found is not None
    print(f"{result.verdict}: {result.reason}")
    if found.speedup is not None:
        print(f"{found.speedup:.2f}x as fast as fp32 in Paddle at batch 16; accuracy {found.accuracy:.4f}")
    kept = [name for name in result.op_types if result.best.config[name].precision == "fp32"]
    print(f"Left in fp32: {', '.join(kept) or 'nothing'}")

    tuned = result.module()
    pictures, _ = next(iter(scored))
    agreeing = int((tuned(pictures).argmax(1) == layer(pictures).argmax(1)).sum())
    print(f"The tuned layer agrees with the one that was trained on {agreeing} of {len(pictures)} digits")

    FOLDER.mkdir(exist_ok=True)
    print(f"Wrote {result.save(FOLDER / 'digits.tuned.pdmodel')}")


if __name__ == "__main__":
    main()
