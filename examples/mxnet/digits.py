"""Train a small Gluon network, and let autotune find the fastest quantized one that is as good.

    pip install 'autotune-quantization[quickstart]'
    pip install --no-deps mxnet==1.9.1 graphviz && pip install requests
    python examples/mxnet/digits.py

The data are the digits that come with scikit-learn. All of it takes less than a minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import autotune
from autotune.adapters.mxnet.framework import dense, mx  # MXNet beside NumPy 2

FOLDER = Path(__file__).parent / "runs"
EPOCHS = 6


def network(channels: int = 32) -> Any:
    """Pictures of 8 by 8 in ten classes."""
    layers = mx.gluon.nn
    made = layers.HybridSequential()
    with made.name_scope():
        for _ in range(3):
            made.add(layers.Conv2D(channels, 3, padding=1, use_bias=False), layers.BatchNorm())
            made.add(layers.Activation("relu"))
        made.add(layers.GlobalAvgPool2D(), layers.Flatten(), layers.Dense(10))
    made.initialize(mx.init.Xavier())
    return made


def train(block: Any, pictures: Any, labels: Any) -> None:
    """Train a network."""
    trainer = mx.gluon.Trainer(block.collect_params(), "adam", {"learning_rate": 1e-2})
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    order = np.random.default_rng(0)
    for _ in range(EPOCHS):
        for part in np.array_split(order.permutation(len(labels)), len(labels) // 32):
            with mx.autograd.record():
                found = loss(block(dense(pictures[part])), dense(labels[part]))
            found.backward()
            trainer.step(len(part))


def main() -> None:
    """Train, tune, and use what was found."""
    mx.random.seed(0)
    digits = load_digits()
    pictures, labels = (digits.images / 16).astype(np.float32)[:, None], digits.target.astype(np.int64)
    half = len(labels) // 2
    block = network()
    train(block, pictures[:half], labels[:half].astype(np.float32))
    calibration = [pictures[place : place + 32] for place in range(0, half, 32)]
    scored = [(pictures[place : place + 64], labels[place : place + 64]) for place in range(half, len(labels), 64)]

    tuner = autotune.Tuner(
        framework="mxnet", criterion=autotune.Criterion(relative=0.01), batch_size=16, max_trials=6, timeout_s=60
    )
    result = tuner.tune(block, calibration, metric="topk", eval_dataloader=scored)

    found = result.best.measurement
    assert found is not None
    print(f"{result.verdict}: {result.reason}")
    if found.speedup is not None:
        print(f"{found.speedup:.2f}x as fast as fp32 in MXNet at batch 16; accuracy {found.accuracy:.4f}")
    FOLDER.mkdir(exist_ok=True)
    print(f"Wrote {result.save(FOLDER / 'digits.tuned-symbol.json')}")


if __name__ == "__main__":
    main()
