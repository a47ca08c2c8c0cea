from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune import data
from autotune.adapter import TensorSpec
from autotune.errors import DataError

IMAGE = (TensorSpec(name="data", dtype=np.dtype(np.float32), shape=("batch", 3, 4, 4)),)
TEXT = (
    TensorSpec(name="ids", dtype=np.dtype(np.int64), shape=("batch", "length")),
    TensorSpec(name="mask", dtype=np.dtype(np.int64), shape=("batch", "length")),
)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, 4, 4), dtype=np.float32)


def test_inputs_come_as_an_array_a_tuple_or_a_dict() -> None:
    batch = images(2)
    for form in (batch, (batch,), [batch], {"data": batch}):
        np.testing.assert_array_equal(data.as_feeds(form, IMAGE, where="here")["data"], batch)


def test_labels_are_told_apart_from_a_second_input() -> None:
    ids = np.ones((2, 5), np.int64)
    unlabelled = next(data.iterate([(ids, ids)], TEXT))
    assert unlabelled.labels is None
    labelled = next(data.iterate([((ids, ids), np.array([0, 1]))], TEXT))
    np.testing.assert_array_equal(labelled.labels, [0, 1])
    pair = next(data.iterate([(images(2), np.array([0, 1]))], IMAGE))
    assert pair.size == 2
    np.testing.assert_array_equal(pair.labels, [0, 1])


def test_double_precision_is_narrowed_and_small_integers_are_widened() -> None:
    assert data.as_feeds(images(1).astype(np.float64), IMAGE, where="here")["data"].dtype == np.float32
    ids = np.ones((1, 2), np.int32)
    assert data.as_feeds((ids, ids), TEXT, where="here")["ids"].dtype == np.int64


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (images(1).astype(np.uint8), "needs dtype float32, but batch 0 of the data loader has uint8"),
        (
            images(1)[0],
            r"needs shape \(batch, 3, 4, 4\), but batch 0 of the data loader has \(3, 4, 4\). It is one sample",
        ),
        (
            images(2).transpose(0, 2, 3, 1),
            r"has \(2, 4, 4, 3\). The model reads channels first: .*transpose\(0, 3, 1, 2\)",
        ),
        (images(2)[:, :2], r"has \(2, 2, 4, 4\)$"),
        (images(1)[:, :2], r"has \(1, 2, 4, 4\)"),
        (images(0), "at least one element"),
        ({"image": images(1)}, r"must name the model's inputs \['data'\], but names \['image'\]"),
        ({"image": images(1)}, r"In the loader, leave out 'image' and add 'data'"),
        ({"dato": images(1)}, r"rename 'dato' \(did you mean 'data'\?\)"),
        ({"data": images(1), "labels": [0]}, r"yield `\(inputs, labels\)`, with 'labels' taken out of the dict"),
        ({"data": images(1), "token_type_ids": [0]}, r"leave out 'token_type_ids'$"),
        ("nonsense", "needs dtype float32"),
        (None, "must be an array of float32, but batch 0 of the data loader has None"),
        (object(), "must be an array of float32, but batch 0 of the data loader has an object"),
    ],
)
def test_a_batch_that_the_model_cannot_read_is_described(inputs: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(data.iterate([inputs], IMAGE))


def test_an_empty_loader_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        list(data.iterate([], IMAGE))


def test_what_is_no_loader_is_an_error() -> None:
    with pytest.raises(DataError, match="iterable of batches, but got 3, an int"):
        list(data.iterate(3, IMAGE))  # type: ignore[arg-type]  # wrong on purpose


def test_a_loader_that_can_be_read_only_once_is_refused_unread() -> None:
    def generate() -> Iterator[np.ndarray]:
        yield images(1)

    once = generate()
    with pytest.raises(DataError, match="a generator can be read only once"):
        data.require_repeatable(once, "dataloader")
    assert next(once).shape == (1, 3, 4, 4)
    data.require_repeatable([images(1)], "dataloader")


def test_limit_stops_with_the_batch_that_reaches_the_number_of_samples() -> None:
    batches = list(data.limit(data.iterate([images(4)] * 10, IMAGE), 10))
    assert [batch.size for batch in batches] == [4, 4, 4]
    assert len(list(data.limit(data.iterate([images(4)] * 10, IMAGE), None))) == 10


def test_one_of_several_inputs_may_be_empty_and_a_batch_may_not() -> None:
    cached = (*TEXT, TensorSpec(name="past", dtype=np.dtype(np.float32), shape=("batch", 2, "past", 8)))
    ids = np.ones((1, 5), np.int64)
    feeds = data.as_feeds((ids, ids, np.zeros((1, 2, 0, 8), np.float32)), cached, where="here")
    assert feeds["past"].shape == (1, 2, 0, 8)
    empty = np.ones((0, 5), np.int64)
    with pytest.raises(DataError, match="at least one element"):
        data.as_feeds((empty, empty), TEXT, where="here")
    rate = (*IMAGE, TensorSpec(name="rate", dtype=np.dtype(np.int64), shape=()))
    with pytest.raises(DataError, match="at least one sample"):
        list(data.iterate([(images(0), 16000)], rate, labelled=False))


def test_a_scalar_may_be_written_as_a_whole_number() -> None:
    scalar = (TensorSpec(name="gain", dtype=np.dtype(np.float32), shape=()),)
    read = data.as_feeds({"gain": 2}, scalar, where="here")["gain"]
    assert (read.dtype, read.shape) == (np.dtype(np.float32), ())
    assert read == 2.0


def test_strings_are_read_as_the_objects_that_models_take() -> None:
    text = (TensorSpec(name="text", dtype=np.dtype(object), shape=("batch", 1)),)
    for form in (np.array([["a"], ["bc"]]), [[["a"], ["bc"]]], {"text": np.array([["a"], ["bc"]], object)}):
        read = data.as_feeds(form, text, where="here")["text"]
        assert read.dtype == object
        assert read.tolist() == [["a"], ["bc"]]
    with pytest.raises(DataError, match="needs dtype object"):
        data.as_feeds(np.ones((2, 1)), text, where="here")


def test_the_fingerprint_follows_the_values_and_nothing_else() -> None:
    one = data.fingerprint(data.iterate([images(4)], IMAGE))
    assert one == data.fingerprint(data.iterate([(images(4), np.zeros(4))], IMAGE))
    changed = images(4)
    changed[3, 2, 1, 0] += 1
    assert one != data.fingerprint(data.iterate([changed], IMAGE))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("data.npz", "got 'data.npz', a str. Read the file first"),
        (Path("data.npz"), "Read the file first"),
        ({"data": images(1)}, "Where it is one batch, put it into a list"),
        (lambda: [images(1)], "Call it and give a list of what it yields"),
        (5, "must be an iterable of batches, but got 5, an int"),
    ],
)
def test_what_is_no_loader_is_refused_with_the_way_out(loader: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(data.iterate(loader, IMAGE))
    with pytest.raises(DataError, match=message):
        data.require_repeatable(loader, "dataloader")
