"""The committed model is what its description says, and int8 costs it what the quickstart is about."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from autotune.host import current_host

MODEL = Path(__file__).parents[2] / "examples" / "quickstart" / "digits.onnx"
TARGET = 0.01

# Two u8 x s8 products overflow 16 bits on CPUs without VNNI, so that accuracies differ there.
needs_vnni = pytest.mark.skipif(current_host().saturates_u8s8, reason="figures are those of CPUs with VNNI")


class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
    """The first 200 training samples, as ONNX Runtime's own quantizer reads them."""

    def __init__(self, digits: ModuleType) -> None:
        self._batches: Iterator[Any] = iter(list(digits.training(batch_size=20))[:10])

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch[0]}


@pytest.fixture
def plain_int8(tmp_path: Path, digits: ModuleType) -> Callable[[bool, Sequence[str]], Path]:
    """ONNX Runtime's own static quantization: u8 activations, s8 weights, min-max."""

    def quantize(per_channel: bool, fp32: Sequence[str]) -> Path:
        path = tmp_path / "int8.onnx"
        quantize_static(
            MODEL,
            path,
            Reader(digits),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            nodes_to_exclude=list(fp32),
        )
        return path

    return quantize


@pytest.fixture(scope="module")
def fp32_accuracy(accuracy_of: Callable[[Path], float]) -> float:
    return accuracy_of(MODEL)


def convolutions() -> list[str]:
    return [node.name for node in onnx.load(MODEL).graph.node if node.op_type == "Conv"]


def test_accuracy_and_size_are_those_that_are_stated(digits: ModuleType, fp32_accuracy: float) -> None:
    stated = json.loads(MODEL.with_suffix(".json").read_text())
    assert stated["samples"] == len(digits.evaluation().labels) == 1197
    assert stated["size_bytes"] == MODEL.stat().st_size < 1_000_000
    # Another CPU adds in another order, which may turn a picture that is on the edge.
    assert abs(stated["accuracy"] - fp32_accuracy) <= 1.5 / stated["samples"]


def test_training_and_evaluation_share_no_sample(digits: ModuleType) -> None:
    seen = {image.tobytes() for image in digits.training().images}
    assert not seen & {image.tobytes() for image in digits.evaluation().images}


def test_batches_can_be_read_twice(digits: ModuleType) -> None:
    batches = digits.evaluation(batch_size=500)
    first, second = list(batches), list(batches)
    assert len(first) == len(batches) == 3
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


def test_every_node_is_named_after_its_module() -> None:
    names = [node.name for node in onnx.load(MODEL).graph.node]
    assert len(set(names)) == len(names)
    assert convolutions()[:3] == ["stem.conv", "blocks.0.depthwise.conv", "blocks.0.pointwise.conv"]


@needs_vnni
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
def test_plain_int8_misses_the_target(
    plain_int8: Callable[[bool, Sequence[str]], Path],
    accuracy_of: Callable[[Path], float],
    fp32_accuracy: float,
    per_channel: bool,
) -> None:
    loss = 1 - accuracy_of(plain_int8(per_channel, [])) / fp32_accuracy
    assert loss > TARGET


@needs_vnni
def test_two_convolutions_in_fp32_meet_it_and_one_alone_does_not(
    plain_int8: Callable[[bool, Sequence[str]], Path], accuracy_of: Callable[[Path], float], fp32_accuracy: float
) -> None:
    def loss(fp32: Sequence[str]) -> float:
        return 1 - accuracy_of(plain_int8(True, fp32)) / fp32_accuracy

    stem, depthwise = convolutions()[:2]
    assert loss([stem, depthwise]) < TARGET < min(loss([stem]), loss([depthwise]))
