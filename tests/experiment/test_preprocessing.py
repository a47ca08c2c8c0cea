from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from autotune.errors import DataError
from tests.experiment.sections import make_step

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_resize_is_pillows() -> None:
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
        expected = Image.fromarray(PICTURE).resize((5, 4), resample=Image.Resampling[name.upper()])
        got = make_step(resize={"size": [4, 5], "interpolation": name}).operation(PICTURE)
        np.testing.assert_array_equal(got, np.asarray(expected))


@pytest.mark.parametrize(("shape", "expected"), [((6, 9, 3), (4, 6, 3)), ((9, 6, 3), (6, 4, 3)), ((6, 6), (4, 4))])
def test_resize_by_the_shorter_side_keeps_the_aspect(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    got = make_step(resize={"shorter_side": 4}).operation(np.zeros(shape, dtype=np.uint8))
    assert got.shape == expected


def test_center_crop() -> None:
    np.testing.assert_array_equal(make_step(center_crop={"size": 4}).operation(PICTURE), PICTURE[1:5, 2:6])
    np.testing.assert_array_equal(make_step(center_crop={"size": [6, 3]}).operation(PICTURE), PICTURE[:, 3:6])


def test_calculating_steps() -> None:
    np.testing.assert_allclose(make_step(rescale={}).operation(PICTURE), PICTURE / 255, rtol=1e-6)
    normalized = make_step(normalize={"mean": [1, 2, 3], "std": [2]}).operation(PICTURE)
    np.testing.assert_allclose(normalized, (PICTURE - np.array([1.0, 2.0, 3.0])) / 2)
    assert normalized.dtype == np.float32
    first = make_step(normalize={"mean": [1, 2, 3], "std": [2], "channel_axis": 0}).operation(
        PICTURE.transpose(2, 0, 1)
    )
    np.testing.assert_array_equal(first, normalized.transpose(2, 0, 1))


def test_rearranging_steps() -> None:
    np.testing.assert_array_equal(
        make_step(transpose={"order": [2, 0, 1]}).operation(PICTURE), PICTURE.transpose(2, 0, 1)
    )
    np.testing.assert_array_equal(make_step(reshape={"shape": [1, -1]}).operation(PICTURE), PICTURE.reshape(1, -1))
    np.testing.assert_array_equal(make_step(reverse_channels={}).operation(PICTURE), PICTURE[..., ::-1])
    assert make_step(cast={"dtype": "float16"}).operation(PICTURE).dtype == np.float16


@pytest.mark.parametrize(
    ("step", "sample", "message"),
    [
        ({"resize": {"size": 4}}, PICTURE.astype(np.float32), r"needs a uint8 picture .* float32 \(6, 9, 3\)"),
        ({"center_crop": {"size": 7}}, PICTURE, r"at least 7 x 7, but got shape \(6, 9, 3\)"),
        ({"normalize": {"mean": [0, 0], "std": [1]}}, PICTURE, "needs 1 or 3 values of `mean`"),
        ({"normalize": {"mean": [0], "std": [1], "channel_axis": 3}}, PICTURE, "has no axis 3"),
        ({"transpose": {"order": [1, 0]}}, PICTURE, "orders 2 axes"),
        ({"reshape": {"shape": [5, 5]}}, PICTURE, r"cannot make shape \(5, 5\)"),
        ({"reverse_channels": {"channel_axis": 3}}, PICTURE, "has no axis 3"),
    ],
)
def test_steps_say_what_they_cannot_read(step: dict[str, Any], sample: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_step(**step).operation(sample)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({}, "must have one of the keys resize, "),
        ({"rescale": {}, "cast": {"dtype": "uint8"}}, "but has rescale and cast"),
        ({"resize": {}}, "must have one of `size` and `shorter_side`"),
        ({"resize": {"size": [4, 0]}}, "must be positive"),
        ({"transpose": {"order": [0, 0]}}, "must have each axis once"),
        ({"normalize": {"mean": [0], "std": [0]}}, "greater than 0"),
        ({"cast": {"dtype": "int4"}}, "float32"),
    ],
)
def test_steps_that_make_no_sense(step: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_step(**json.loads(json.dumps(step)))
