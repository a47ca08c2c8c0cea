from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotune.adapter import TensorSpec
from autotune.batch import BatchAxes, declared_axes
from autotune.errors import DataError
from autotune.evaluation.accuracy.records import Records, concatenate
from autotune.evaluation.accuracy.samples import SampleStore


def specs(**shapes: tuple[int | str | None, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype=np.dtype(np.float32), shape=shape) for name, shape in shapes.items())


def store(
    batches: list[Any], inputs: tuple[TensorSpec, ...], axes: BatchAxes, *, labelled: bool = False
) -> SampleStore:
    return SampleStore(batches, inputs, labelled=labelled, memory_bytes=None, axes=axes)


VOICE = specs(x=("batch", 4), state=(2, "batch", 3), sr=())
VOICE_AXES = declared_axes(VOICE, specs(y=("batch", 1), n=(2, "batch", 3)))


def voice(samples: range, sr: float = 16000.0) -> dict[str, Any]:
    return {
        "x": np.array([[sample] * 4 for sample in samples], np.float32),
        "state": np.stack([np.full((2, 3), sample, np.float32) for sample in samples], axis=1),
        "sr": np.float32(sr),
    }


def test_samples_are_picked_along_their_own_axes() -> None:
    held = store([voice(range(3)), voice(range(3, 5))], VOICE, VOICE_AXES)
    assert (held.total, held.by_sample) == (5, True)
    first, second = held.chunks(np.array([4, 0, 3, 1]))
    assert first.feeds["x"][:, 0].tolist() == [4, 0, 3]
    assert first.feeds["state"].shape == (2, 3, 3)
    assert first.feeds["state"][1, :, 2].tolist() == [4, 0, 3]
    assert first.feeds["sr"] == second.feeds["sr"] == 16000
    assert second.feeds["state"][0, :, 0].tolist() == [1]


def test_calls_that_differ_as_a_whole_are_not_mixed() -> None:
    held = store([voice(range(3)), voice(range(3, 5), sr=8000.0)], VOICE, VOICE_AXES)
    assert (held.total, held.by_sample) == (5, False)
    assert [chunk.feeds["sr"] for chunk in held.chunks(np.array([1, 0]))] == [8000, 16000]


@pytest.mark.parametrize(("hashed", "memory_bytes"), [(True, None), (False, None), (False, 0), (True, 0)])
def test_the_hash_is_that_of_the_data_whenever_it_is_computed(hashed: bool, memory_bytes: int | None) -> None:
    def batches(label: int) -> list[Any]:
        return [(voice(range(3)), np.arange(3)), (voice(range(3, 5)), np.array([label, 1]))]

    def fingerprint(label: int) -> str:
        options: dict[str, Any] = {"labelled": True, "memory_bytes": memory_bytes, "hashed": hashed}
        return SampleStore(batches(label), VOICE, axes=VOICE_AXES, **options).fingerprint

    whole = store(batches(7), VOICE, VOICE_AXES, labelled=True)
    assert fingerprint(7) == whole.fingerprint
    assert fingerprint(8) != whole.fingerprint


def test_a_batch_that_cannot_be_resized_stays_whole() -> None:
    inputs = specs(x=(2, 4))
    axes = declared_axes(inputs, specs(y=(2, 3)))
    held = store([np.zeros((2, 4), np.float32)] * 3, inputs, axes)
    assert (held.total, held.by_sample, len(held.units)) == (6, False, 3)


FRAMES = specs(x=("frames", 4))


@pytest.mark.parametrize(
    ("label", "seen"),
    [
        (7, [7]),
        (np.int64(7), [7]),
        (np.array(7), [7]),
        (np.array([7]), [7]),
        ("word", ["word"]),
        ([1, 2, 3], [[1, 2, 3]]),
        (np.array([1, 2, 3]), [[1, 2, 3]]),
        ({"a": np.array([1, 2]), "b": 3}, {"a": [[1, 2]], "b": [3]}),
    ],
)
def test_a_call_that_is_one_sample_has_one_label_of_any_form(label: Any, seen: Any) -> None:
    axes = declared_axes(FRAMES, specs(y=("frames", 5)))
    held = store([(np.zeros((6, 4), np.float32), label)], FRAMES, axes, labelled=True)
    (chunk,) = held.chunks(np.array([0]))
    assert held.total == 1

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        return np.asarray(value).tolist()

    assert plain(chunk.labels) == seen


def test_labels_come_one_for_each_sample_where_an_axis_counts_them() -> None:
    axes = declared_axes(specs(x=("n", 4)), specs(y=("n", 5)))
    with pytest.raises(DataError, match="has 6 samples, but 5 labels"):
        store([(np.zeros((6, 4), np.float32), np.zeros(5))], specs(x=("n", 4)), axes, labelled=True)


def test_references_of_any_length_come_back_as_the_arrays_they_were() -> None:
    def part(sample: int, length: int) -> Records:
        reference = np.full((1, length, 2), sample, np.float32)
        return Records(
            samples=np.array([sample]), records={"m": np.zeros((1, 1))}, references={"m": reference}, difficulty=None
        )

    both = concatenate([part(0, 3), part(1, 5)])
    assert both.references_of(np.array([1]))["m"].shape == (1, 5, 2)
    assert both.references_of(np.array([0]))["m"].shape == (1, 3, 2)
    assert both.sorted().references_of(np.array([1]))["m"].max() == 1
    alike = concatenate([part(0, 3), part(1, 3)])
    assert alike.references_of(np.array([0, 1]))["m"].shape == (2, 3, 2)
