"""Running a model tells its batch: small graphs of the kinds that shapes alone do not tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from autotune import data
from autotune.adapter import Execution, Feeds
from autotune.batch import BatchAxes, BatchAxis, Origin, axes_of, declared_axes, without_axes
from autotune.calls import latency_calls, told_batch_axes
from autotune.errors import InputError
from tests import functions
from tests.functions import FunctionAdapter, FunctionModel, normal

ADAPTER: Any = FunctionAdapter()


def settle(
    model: FunctionModel, feeds: object, named: BatchAxis | None = None, size: int = 1
) -> tuple[BatchAxes, str | None]:
    told, note = told_batch_axes(ADAPTER, model, [feeds], named, size, Execution())
    return axes_of(told), note


@pytest.mark.parametrize("symbol", ["batch", "rows", None])
def test_samples_that_do_not_depend_on_each_other_are_a_batch_by_any_name(symbol: str | None) -> None:
    for count in (1, 2, 7):
        axes, note = settle(functions.classifier(symbol, symbol), normal(count, 8))
        assert (dict(axes.inputs), axes.resizable, note) == ({"x": 0}, True, None)


def test_a_time_major_recurrence_has_its_batch_in_the_middle() -> None:
    for time, batch in (("time", "batch"), ("T", "N")):
        axes, note = settle(functions.time_major_recurrence(time, batch), normal(50, 3, 8))
        assert (dict(axes.inputs), axes.outputs, note) == ({"x": 1}, (1,), None)


@pytest.mark.parametrize("count", [1, 2, 60])
@pytest.mark.parametrize("symbol", [None, "rows", "dim_0"])
def test_steps_of_a_recurrence_are_no_samples_whatever_they_are_called(symbol: str | None, count: int) -> None:
    axes, note = settle(functions.utterance(symbol), normal(count, 8))
    assert axes.origin is Origin.NONE
    assert axes.size({"x": normal(count, 8)}) == 1
    assert note is not None
    assert "other results than among the rest" in note
    assert "batch_axis" in note


@pytest.mark.parametrize("nodes", ["N", "n_rows", None])
def test_nodes_of_a_graph_are_no_samples(nodes: str | None) -> None:
    edges = np.stack([np.arange(34), (np.arange(34) + 5) % 34])
    axes, note = settle(functions.graph_network(nodes, None), (normal(34, 8), edges))
    assert axes.origin is Origin.NONE
    assert note is not None


def test_indices_into_another_input_are_no_samples() -> None:
    axes, note = settle(functions.pointers(), (normal(6, 8), np.array([5, 0, 3])))
    assert axes.origin is Origin.NONE
    assert note is not None
    assert "x 6, index 3" in note


@pytest.mark.parametrize(
    ("size", "said"), [(2, "batch 2, which the model fixes"), (3, "not `batch_size=3`. To measure")]
)
def test_the_batch_that_a_model_fixes_is_named_with_the_way_out(size: int, said: str) -> None:
    inputs, outputs = (functions.spec("x", 2, 4),), (functions.spec("y", 2, 5),)
    batches = [data.Batch(feeds={"x": normal(2, 4)}, labels=None, size=2)]
    calls = latency_calls(batches, inputs, declared_axes(inputs, outputs), size)
    assert calls.feeds[0]["x"].shape == (2, 4)
    assert said in calls.note
    assert ("free batch axis" in calls.note) is (size != 2)


def test_a_batch_size_that_no_axis_counts_is_named() -> None:
    inputs = (functions.spec("x", None, 4),)
    batches = [data.Batch(feeds={"x": normal(6, 4)}, labels=None, size=1)]
    notes = [latency_calls(batches, inputs, without_axes(()), size).note for size in (1, 3)]
    assert ["`batch_size=3` needs an axis" in note for note in notes] == [False, True]


def test_a_batch_in_a_reshape_is_measured_as_the_loader_gives_it() -> None:
    feeds = normal(4, 2, 4)
    for size in (1, 4):
        axes, note = settle(functions.baked_batch(4), feeds, size=size)
        assert not axes.resizable
        assert axes.size({"x": feeds}) == 4
        assert note is not None
        assert "batch of 4 alone" in note
    batches = [data.Batch(feeds={"x": feeds}, labels=None, size=4)]
    calls = latency_calls(batches, functions.baked_batch().inputs, axes, 1)
    assert [each["x"].shape for each in calls.feeds] == [(4, 2, 4)]
    assert "batch 4, which the model fixes, not `batch_size=1`" in calls.note


@pytest.mark.parametrize("count", [1, 3])
def test_states_without_names_of_axes_have_their_batch_where_a_run_shows_it(count: int) -> None:
    feeds = {"input": normal(count, 16), "state": np.zeros((2, count, 6), np.float32), "sr": 16000}
    axes, note = settle(functions.voice_detector(None), feeds)
    assert note is None
    assert (dict(axes.inputs), axes.outputs, axes.resizable) == ({"input": 0, "state": 1}, (0, 1), True)


def test_the_user_names_the_axis() -> None:
    axes, note = settle(functions.time_major_recurrence(None, None), normal(50, 3, 8), named=1)
    assert (dict(axes.inputs), axes.outputs, axes.resizable, note) == ({"x": 1}, (1,), True, None)
    with pytest.raises(InputError, match="there is no 'y0'"):
        settle(functions.time_major_recurrence(), normal(50, 3, 8), named={"y0": 0})


def test_an_adapter_that_reads_no_axes_keeps_its_model() -> None:
    class Plain:
        name = "plain"

    plain: Any = Plain()
    model: Any = object()
    assert told_batch_axes(plain, model, [], None, 1, Execution()) == (model, None)
    with pytest.raises(InputError, match="needs an adapter that reads it, but 'plain' does not"):
        told_batch_axes(plain, model, [], 0, 1, Execution())


def calls_of(model: FunctionModel, batches: Sequence[Any], size: int = 1) -> tuple[list[Feeds], str]:
    model, _ = told_batch_axes(ADAPTER, model, batches, None, size, Execution())
    axes = axes_of(model)
    calls = latency_calls(data.iterate(batches, model.inputs, axes=axes), model.inputs, axes, size)
    assert any(calls.typical is each for each in calls.feeds)
    return list(calls.feeds), calls.note


def test_a_batch_is_resized_along_the_axis_that_counts_samples() -> None:
    (feeds,), note = calls_of(functions.time_major_recurrence(), [normal(50, 3, 8)], size=2)
    assert feeds["x"].shape == (50, 2, 8)
    assert note == "Latency is of calls with x (50, 2, 8): batch 2"
    (feeds,), note = calls_of(functions.classifier(), [normal(20, 8), normal(3, 8)])
    assert feeds["x"].shape == (1, 8)
    assert note == "Latency is of calls with x (1, 8): batch 1"


def test_a_sequence_is_measured_whole() -> None:
    (feeds,), note = calls_of(functions.utterance("frames"), [normal(60, 8)] * 3)
    assert feeds["x"].shape == (60, 8)
    assert note == "Latency is of calls with x (60, 8). A call is one sample, as the data loader gives it"


def test_lengths_that_differ_are_measured_over_their_distribution() -> None:
    lengths = np.random.default_rng(0).permutation(np.arange(13, 88))
    feeds, note = calls_of(functions.utterance("frames"), [normal(length, 8) for length in lengths])
    measured = [each["x"].shape[0] for each in feeds]
    assert measured == sorted(measured)
    assert len(measured) == 5
    seen = np.sort(lengths[:64])
    for have, want in zip(measured, np.quantile(seen, [0.1, 0.3, 0.5, 0.7, 0.9]), strict=True):
        assert abs(have - want) <= 2
    assert note.startswith("Latency is the mean over calls of 5 shapes that the data has: x (")


def test_lengths_differ_beside_a_batch_too() -> None:
    batches = [normal(length, 4, 8) for length in (10, 30, 20)]
    feeds, note = calls_of(functions.time_major_recurrence(), batches)
    assert [each["x"].shape for each in feeds] == [(10, 1, 8), (20, 1, 8), (30, 1, 8)]
    assert note.endswith(": batch 1")


def test_a_plain_batch_costs_one_batch_of_the_loader() -> None:
    class Counting(list[Any]):
        read = 0

        def __iter__(self) -> Any:
            for item in super().__iter__():
                Counting.read += 1
                yield item

    loader = Counting([normal(4, 8)] * 10)
    model = functions.classifier()
    axes = axes_of(model)
    latency_calls(data.iterate(loader, model.inputs, axes=axes), model.inputs, axes, 1)
    assert Counting.read == 1
