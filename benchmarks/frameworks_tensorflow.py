"""``tune`` on LiteRT against TensorFlow Lite's own converter with representative data.

Run from the root of the repository, where TensorFlow and the extra ``tensorflow`` are installed:
``python benchmarks/frameworks_tensorflow.py --json result.json``. Both ways get the same Keras model, made of the ONNX
file's weights, and the same images; the seconds of ``tune`` include its evaluations. ``frameworks.py`` describes the
file that is written.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from framework_race import FP32, PEER, TARGET, Entry, compare, parser
from shared import Batches, Subject, write_result

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from keras_models import keras_model

from autotune.host import current_host


def data(subject: Subject, part: str, count: int, batch: int) -> Batches:
    """Preprocessed images with channels last, as TensorFlow reads them."""
    return [
        (np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels)
        for images, labels in subject.batches(part, count, batch)
    ]


def by_converter(model: Any, calibration: Batches) -> tuple[bytes, float]:
    """The converter's model with representative data and float inputs and outputs, and its seconds."""

    def images() -> Iterator[list[Any]]:
        for batch, _ in calibration:
            for image in batch:
                yield [image[np.newaxis]]

    began = time.perf_counter()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    return bytes(converter.convert()), time.perf_counter() - began


def enter(subject: Subject, options: argparse.Namespace, folder: Path) -> Entry:
    """The ``.tflite`` file of a model, and what the converter makes of it with representative data."""
    calibration = data(subject, "calibration", options.calibration, 10)
    evaluation = data(subject, "evaluation", options.images, 50)
    model = keras_model(subject.path, subject.size)
    fp32, peer = (folder / f"{way}.tflite" for way in (FP32, PEER))
    fp32.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    content, seconds = by_converter(model, calibration)
    peer.write_bytes(content)
    return Entry(fp32=fp32, peer=peer, seconds=seconds, calibration=calibration, evaluation=evaluation)


def main() -> None:
    """Parse the command line and run."""
    options = parser(__doc__).parse_args()
    print(current_host(("ai-edge-litert",)))
    result = {
        "framework": "tensorflow",
        "version": version("ai-edge-litert"),
        "peer": f"tf.lite.TFLiteConverter {tf.__version__} with representative data",
        "target": TARGET,
        "rows": compare("tensorflow", enter, options),
        "seeds": [],
    }
    write_result(options.json, "frameworks_tensorflow", options.seed, result)


if __name__ == "__main__":
    main()
