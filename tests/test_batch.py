from __future__ import annotations

import numpy as np
import pytest

from autotune.adapter import TensorSpec
from autotune.batch import BatchAxes, BatchAxis, Origin, declared_axes, leading_axes
from autotune.errors import InputError

Shape = tuple[int | str | None, ...]


def specs(**shapes: Shape) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype=np.dtype(np.float32), shape=shape) for name, shape in shapes.items())


@pytest.mark.parametrize(
    ("inputs", "outputs", "axes", "origin"),
    [
        ({"x": ("batch", 3)}, {"y": ("batch", 5)}, ({"x": 0}, (0,)), Origin.SYMBOL),
        ({"x": ("time", "batch", 3)}, {"y": ("time", "batch", 5)}, ({"x": 1}, (1,)), Origin.SYMBOL),
        ({"x": ("T", "N", 3)}, {"y": ("T", "N", 5)}, ({"x": 1}, (1,)), Origin.SYMBOL),
        (
            {"x": ("batch", 16), "state": (2, "batch", 8), "sr": ()},
            {"y": ("batch", 1), "n": (2, "batch", 8), "k": ()},
            ({"x": 0, "state": 1}, (0, 1, None)),
            Origin.SYMBOL,
        ),
        ({"x": ("rows", 3)}, {"y": ("rows", 5)}, ({"x": 0}, (0,)), Origin.SHARED),
        ({"x": ("unk__1", 3)}, {"y": ("unk__2", 5)}, ({"x": 0}, (0,)), Origin.POSITION),
        ({"x": (None, 3)}, {"y": (None,), "p": (None, 5)}, ({"x": 0}, (0, 0)), Origin.POSITION),
        ({"x": (1, 3, 8, 8)}, {"y": (1, 5)}, ({"x": 0}, (0,)), Origin.FIXED),
        ({"x": (8, 3), "sr": (1,)}, {"y": (8, 5), "n": (2, 5)}, ({"x": 0}, (0, None)), Origin.FIXED),
        # what counts something else
        ({"x": ("frames", 40), "h": (1, 1, 8)}, {"y": ("frames",), "hn": (1, 1, 8)}, ({}, (None, 0)), Origin.NONE),
        ({"x": ("frames", 40)}, {"y": ("frames", 5)}, ({}, (None,)), Origin.NONE),
        ({"x": ("seq_len", 40)}, {"y": (1, 5)}, ({}, (0,)), Origin.NONE),
        ({"x": (60, 40)}, {"y": (1, 5)}, ({}, (0,)), Origin.NONE),
        # A symbol on two axes of one input is no batch by its name: running the model has the last word.
        ({"x": ("N", 3), "near": ("N", "N")}, {"y": ("N", 5)}, ({"x": 0, "near": 0}, (0,)), Origin.POSITION),
        ({}, {"y": (3,)}, ({}, (None,)), Origin.NONE),
    ],
)
def test_what_shapes_declare(
    inputs: dict[str, Shape],
    outputs: dict[str, Shape],
    axes: tuple[dict[str, int], tuple[int | None, ...]],
    origin: Origin,
) -> None:
    found = declared_axes(specs(**inputs), specs(**outputs))
    assert (dict(found.inputs), found.outputs, found.origin) == (*axes, origin)
    assert found.resizable == (origin not in (Origin.FIXED, Origin.NONE))


@pytest.mark.parametrize(
    ("named", "inputs", "outputs"),
    [
        (1, {"x": 1}, (1, None)),
        (-2, {"x": 1}, (1, 0)),
        ({"x": 1}, {"x": 1}, (1, None)),
        ({"x": -2, "n": 0}, {"x": 1}, (1, 0)),
    ],
)
def test_the_user_has_the_last_word(named: BatchAxis, inputs: dict[str, int], outputs: tuple[int | None, ...]) -> None:
    found = declared_axes(specs(x=("a", "b", 3), sr=()), specs(y=("a", "b", 5), n=(None, 7)), named)
    assert (dict(found.inputs), found.outputs) == (inputs, outputs)
    assert found.origin is Origin.NAMED
    assert found.resizable


def test_a_fixed_axis_may_be_named_and_is_not_resized() -> None:
    found = declared_axes(specs(x=(8, 4, 3)), specs(y=(4, 5)), {"x": 1, "y": 0})
    assert (dict(found.inputs), found.outputs, found.resizable) == ({"x": 1}, (0,), False)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (3, "must name an axis of an input, but 3 is none of x"),
        ({"X": 0}, "there is no 'X'"),
        ({"x": 2}, "gives 'x' axis 2, but it has 2 dimensions"),
        ({"y": 0}, "must name an axis of an input"),
    ],
)
def test_axes_that_the_model_does_not_have(named: BatchAxis, message: str) -> None:
    with pytest.raises(InputError, match=message):
        declared_axes(specs(x=("n", 3)), specs(y=("n", 5)), named)


def test_a_batch_is_repeated_or_cut_along_its_own_axes() -> None:
    feeds = {"x": np.arange(6).reshape(2, 3), "state": np.arange(12).reshape(2, 2, 3), "sr": np.array(16000)}
    axes = BatchAxes(inputs={"x": 0, "state": 1}, outputs=(0, 1), resizable=True, origin=Origin.SYMBOL)
    assert axes.size(feeds) == 2
    one, five = axes.resized(feeds, 1), axes.resized(feeds, 5)
    np.testing.assert_array_equal(one["x"], feeds["x"][:1])
    np.testing.assert_array_equal(one["state"], feeds["state"][:, :1])
    np.testing.assert_array_equal(five["x"][2:4], feeds["x"])
    np.testing.assert_array_equal(five["state"][:, 2:4], feeds["state"])
    assert five["state"].flags.c_contiguous
    assert one["sr"] == five["sr"] == 16000
    fixed = BatchAxes(inputs={"x": 0}, outputs=(0,), origin=Origin.FIXED)
    assert fixed.resized(feeds, 1) is feeds


def test_outputs_have_their_samples_in_front_for_a_metric() -> None:
    out, state, rate = np.zeros((3, 5)), np.zeros((2, 3, 6)), np.zeros(4)
    axes = BatchAxes(inputs={"x": 0}, outputs=(0, 1, None), origin=Origin.SYMBOL)
    assert [each.shape for each in axes.per_sample((out, state, rate))] == [(3, 5), (3, 2, 6), (4,)]
    whole = declared_axes(specs(x=("frames", 8)), specs(y=("frames", 5), label=(1,), score=()))
    assert [each.shape for each in whole.per_sample((out, np.zeros(1), np.array(0.5)))] == [(1, 3, 5), (1,), (1,)]


def test_inputs_alone_say_little() -> None:
    assert dict(leading_axes(specs(x=("n", 3), y=(2, "n"))).inputs) == {"x": 0}
    assert leading_axes(specs(x=(2, 3))).size({"x": np.zeros((2, 3))}) == 2
    assert leading_axes(specs(x=())).size({"x": np.zeros(())}) == 1
