"""The walk on the graph protocol alone: what is run, what is given to a correction, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from autotune.adapter import Array, Feeds
from autotune.algorithms import AffineParameters
from autotune.algorithms.affine import representable
from autotune.algorithms.graph import Values
from autotune.algorithms.layerwise import fake_quantizer, walk
from autotune.batch import BatchAxes
from autotune.config import QuantizedType
from tests.algorithms.networks import chain, pictures
from tests.algorithms.numpy_graph import AXES, NumpyGraph


@dataclass
class Watched:
    """A correction that keeps what it was given, and gives other constants."""

    source: str
    given: Mapping[str, Array] = field(default_factory=dict)
    shift: Array | None = None
    read: Values = field(default_factory=list)
    written: Values = field(default_factory=list)
    exact: Values = field(default_factory=list)

    def weights(self, source: Values) -> Mapping[str, Array]:
        self.read = source
        return self.given

    def bias(self, outputs: Values, target: Values) -> tuple[Mapping[str, Array], Array | None]:
        self.written, self.exact = outputs, target
        return {}, self.shift


def rough(array: Array) -> Array:
    return np.asarray(np.rint(array))


def walked(
    graph: NumpyGraph,
    corrections: Mapping[str, Watched],
    quantizers: Mapping[str, Callable[[Array], Array]] | None = None,
    clips: Mapping[str, tuple[float, float]] | None = None,
    examples: Sequence[Feeds] | None = None,
    axes: BatchAxes = AXES,
) -> dict[str, Array]:
    graph.ran.clear()
    return walk(graph, examples or pictures(), quantizers or {}, corrections, clips or {}, axes)


def test_nothing_runs_beyond_the_last_correction() -> None:
    graph = chain()
    walked(graph, {"b": Watched("ra")}, {"x": rough})
    assert graph.ran == ["a", "a", "ra", "ra", "b", "b"]


def test_what_no_quantized_tensor_precedes_runs_once() -> None:
    graph = chain()
    walked(graph, {"c": Watched("rb")}, {"rb": rough})
    assert graph.ran == ["a", "ra", "b", "rb", "c", "c"]


def test_an_op_reads_what_the_ops_before_it_have_become() -> None:
    graph = chain()
    twice = 2.0 * graph.constants["a/w"]
    first, last = Watched("x", {"a/w": twice}), Watched("rb")
    assert walked(graph, {"a": first, "c": last}, {"ra": rough})["a/w"] is twice
    feeds = {"x": np.concatenate([each["x"] for each in pictures()])}
    expected = graph.tensors(feeds, {"a/w": twice}, quantizers={"ra": rough})
    np.testing.assert_allclose(last.read[0], expected["rb"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(last.exact[0], graph.output(feeds), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(last.written[0], expected["c"], rtol=1e-4, atol=1e-4)


def test_outputs_are_lowered_with_their_bias() -> None:
    graph = chain()
    shift = np.arange(6, dtype=np.float32).reshape(-1, 1, 1)
    first, last = Watched("x", shift=shift), Watched("ra")
    walked(graph, {"a": first, "b": last})
    np.testing.assert_allclose(last.read[0], np.maximum(first.written[0] - shift, 0.0), rtol=1e-5, atol=1e-5)


def test_exact_values_are_cut_at_the_ends_too() -> None:
    graph = chain()
    free, cut = Watched("ra"), Watched("ra")
    walked(graph, {"b": free})
    walked(graph, {"b": cut}, clips={"ra": (0.0, 0.5)})
    feeds = {"x": np.concatenate([each["x"] for each in pictures()])}
    least = graph.run(graph.nodes[2], {"ra": [np.clip(graph.tensors(feeds)["ra"], 0.0, 0.5)]})["b"][0]
    np.testing.assert_allclose(cut.exact[0], least, rtol=1e-4, atol=1e-4)
    assert np.abs(free.exact[0] - least).max() > 0.1


@pytest.mark.parametrize(
    ("axes", "sizes", "chunks"),
    [
        (AXES, (8, 8), 1),
        (BatchAxes(inputs={"x": 0}, outputs=(0,), resizable=False), (8, 8), 2),
        (AXES, (8, 9), 2),  # pictures of two shapes
        (BatchAxes(resizable=True), (8, 8), 2),  # an input without an axis of samples
    ],
)
def test_examples_run_as_one_batch_where_they_can(axes: BatchAxes, sizes: tuple[int, int], chunks: int) -> None:
    examples = [{"x": np.ones((2, 3, side, side), np.float32)} for side in sizes]
    watched = Watched("x")
    walked(chain(), {"a": watched}, examples=examples, axes=axes)
    assert len(watched.read) == chunks
    assert sum(len(each) for each in watched.read) == 4


@pytest.mark.parametrize("dtype", list(QuantizedType))
def test_quantized_values_are_those_that_integers_can_say(dtype: QuantizedType) -> None:
    zero = np.asarray(100, np.uint8) if dtype is QuantizedType.U8 else np.asarray(-28, np.int8)
    parameters = AffineParameters(np.asarray(0.1, np.float32), zero)
    values = np.linspace(-50.0, 50.0, 1001, dtype=np.float32)
    rounded = fake_quantizer(parameters, dtype)(values)
    low, high = representable(parameters, dtype)
    assert (low, high) == pytest.approx((-10.0, 15.5))
    assert (rounded.min(), rounded.max()) == pytest.approx((low, high))
    inside = (values > low) & (values < high)
    assert np.abs(rounded - values)[inside].max() <= 0.05 + 1e-5
    assert values[0] == -50.0  # the array that was given is another's
