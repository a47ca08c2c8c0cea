from __future__ import annotations

from collections.abc import Iterator

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
        (images(1)[0], r"needs shape \(batch, 3, 4, 4\), but batch 0 of the data loader has \(3, 4, 4\)"),
        (images(1)[:, :2], r"has \(1, 2, 4, 4\)"),
        (images(0), "at least one element"),
        ({"image": images(1)}, r"must name the model's inputs \['data'\], but names \['image'\]"),
        ("nonsense", "needs dtype float32"),
    ],
)
def test_a_batch_that_the_model_cannot_read_is_described(inputs: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(data.iterate([inputs], IMAGE))


def test_an_empty_loader_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        list(data.iterate([], IMAGE))


def test_what_is_no_loader_is_an_error() -> None:
    with pytest.raises(DataError, match="iterable of batches, but it is a int"):
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


def test_a_batch_is_repeated_or_cut_to_the_size_of_a_latency_measurement() -> None:
    feeds = data.as_feeds(images(2), IMAGE, where="here")
    np.testing.assert_array_equal(data.resize_batch(feeds, IMAGE, 1)["data"], feeds["data"][:1])
    tripled = data.resize_batch(feeds, IMAGE, 5)["data"]
    np.testing.assert_array_equal(tripled[2:4], feeds["data"])
    fixed = (TensorSpec(name="data", dtype=np.dtype(np.float32), shape=(2, 3, 4, 4)),)
    assert data.resize_batch(feeds, fixed, 1)["data"].shape[0] == 2


def test_the_fingerprint_follows_the_values_and_nothing_else() -> None:
    one = data.fingerprint(data.iterate([images(4)], IMAGE))
    assert one == data.fingerprint(data.iterate([(images(4), np.zeros(4))], IMAGE))
    changed = images(4)
    changed[3, 2, 1, 0] += 1
    assert one != data.fingerprint(data.iterate([changed], IMAGE))
