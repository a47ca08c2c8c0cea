"""Find the fastest quantized form of a TensorFlow Lite model that is as good as the model itself.

    pip install '.[tensorflow,quickstart]'
    python examples/tensorflow/digits.py

The data are the digits that come with scikit-learn. `digits.tflite` was trained by `train.py` beside it, so that
nothing here needs TensorFlow. With TensorFlow installed, a SavedModel's folder, a `.keras` file or a `keras.Model` can
stand in its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import autotune

FOLDER = Path(__file__).parent

Batches = list[tuple[Any, Any]]


def data(batch: int = 32) -> tuple[Batches, Batches]:
    """The digits to train and to calibrate with, and those to score with, in batches of images and labels."""
    digits = load_digits()
    images, labels = (digits.images[..., np.newaxis] / 16).astype(np.float32), digits.target
    batches = [(images[i : i + batch], labels[i : i + batch]) for i in range(0, len(labels), batch)]
    middle = len(batches) // 2
    return batches[:middle], batches[middle:]


def main() -> None:
    """Tune, and use what was found."""
    known, unseen = data()

    def accuracy(model: Any) -> float:
        """The share of digits that a model gets right."""
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in unseen)
        return right / sum(len(labels) for _, labels in unseen)

    tuner = autotune.Tuner(
        framework="tensorflow", criterion=autotune.Criterion(relative=0.01), max_trials=8, timeout_s=60
    )
    result = tuner.tune(FOLDER / "digits.tflite", known, accuracy)

    found = result.best.measurement
    assert found is not None
    print(f"{result.verdict}: {result.reason}")
    if found.speedup is not None:
        print(f"{found.speedup:.2f}x as fast as fp32 on LiteRT; accuracy {found.accuracy:.4f}")
    kept = [name for name in result.op_types if result.best.config[name].precision == "fp32"]
    print(f"Left in fp32: {', '.join(kept) or 'nothing'}")

    (FOLDER / "runs").mkdir(exist_ok=True)
    print(f"Wrote {result.save(FOLDER / 'runs' / 'digits.tuned.tflite')}")


if __name__ == "__main__":
    main()
