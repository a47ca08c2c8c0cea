"""Trains the example's model and writes `digits.tflite` beside this file.

Nothing in the example runs this; it is how the committed model came to be:

    pip install tensorflow scikit-learn
    python examples/tensorflow/train.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

SEED = 1
EPOCHS = 20


def network(channels: int = 64) -> Any:
    """A stem, two residual blocks of a depthwise and a pointwise convolution, and a head over ten classes."""
    layers = keras.layers
    entry = keras.Input((8, 8, 1), name="images")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(channels, 3, padding="same")(entry)))
    for _ in range(2):
        y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
        y = layers.BatchNormalization()(layers.Conv2D(channels, 3, padding="same")(y))
        x = layers.ReLU()(layers.Add()([x, y]))
    scores = layers.Dense(10, name="scores")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(entry, scores, name="digits")


def main() -> None:
    """Train, convert and tell the accuracy."""
    keras.utils.set_random_seed(SEED)
    digits = load_digits()
    images, labels = (digits.images[..., np.newaxis] / 16).astype(np.float32), digits.target
    middle = 32 * (len(images) // 64)  # as digits.py parts them
    unseen, answers = images[middle:], labels[middle:]
    images, labels = images[:middle], labels[:middle]
    model = network()
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, EPOCHS * len(images) // 32)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(images, labels, batch_size=32, epochs=EPOCHS, verbose=0)
    print(f"accuracy {(model.predict(unseen, verbose=0).argmax(1) == answers).mean():.4f}")
    target = Path(__file__).with_name("digits.tflite")
    target.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


if __name__ == "__main__":
    main()
