"""The user's model on each runtime: what they must have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array, Execution, Feeds, TensorSpec
from autotune.batch import BatchAxes, axes_of
from autotune.errors import DeadlineReached, InputError
from autotune.restriction import SpaceRestriction
from autotune.runtimes import RuntimesAdapter
from autotune.runtimes.opening import open_all
from autotune.space import TuningSpace
from autotune.tuning.loading import Loaded

ROWS = [np.arange(12, dtype=np.float32).reshape(4, 3)]
FREE = BatchAxes(inputs={"x": 0}, outputs=(0,), resizable=True)
WHOLE = dataclasses.replace(FREE, resizable=False)


def spec(name: str, dtype: Any = np.float32) -> TensorSpec:
    return TensorSpec(name=name, dtype=np.dtype(dtype), shape=("batch", 3))


@dataclass(frozen=True, kw_only=True, eq=False)
class Function:
    """A model that is a function of its input."""

    function: Callable[[Array], Array] = lambda x: x
    batch_axes: BatchAxes = FREE
    inputs: tuple[TensorSpec, ...] = (spec("x"),)
    outputs: tuple[TensorSpec, ...] = (spec("y"),)


class Functions:
    """An adapter whose models are functions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.suffix = ""

    def with_batch_axes(self, model: Function, axes: BatchAxes) -> Function:
        return dataclasses.replace(model, batch_axes=axes)

    def runner(self, model: Function, execution: Execution) -> Callable[[Feeds], tuple[Array, ...]]:  # noqa: ARG002
        return lambda feeds: (model.function(feeds["x"]),)


def opened(**models: Function | Exception) -> tuple[Sequence[Loaded], Any]:
    adapters: Any = {name: Functions(name) for name in models}

    def load(name: str, adapter: Any) -> Loaded:
        model = models[name]
        if isinstance(model, Exception):
            raise model
        return Loaded(runtime=name, adapter=adapter, model=model, space=TuningSpace(ops=()))

    return open_all(RuntimesAdapter(adapters, {}), load, ROWS, SpaceRestriction(), Execution())


def names(loaded: Sequence[Loaded]) -> list[str | None]:
    return [each.runtime for each in loaded]


def test_all_count_samples_along_the_axes_of_the_first() -> None:
    other = dataclasses.replace(FREE, outputs=(None,))
    loaded, left_out = opened(a=Function(), b=Function(batch_axes=other))
    assert [axes_of(each.model) for each in loaded] == [FREE, FREE]
    assert not left_out


def test_where_one_takes_a_single_batch_size_all_do() -> None:
    loaded, _ = opened(a=Function(), b=Function(batch_axes=WHOLE))
    assert [axes_of(each.model) for each in loaded] == [WHOLE, WHOLE]


def test_what_most_compute_is_believed_and_else_the_first() -> None:
    one, other = Function(), Function(function=lambda x: x + 1)
    assert names(opened(a=other, b=one, c=one)[0]) == ["b", "c"]
    loaded, left_out = opened(a=one, b=other)
    assert names(loaded) == ["a"]
    assert left_out["b"].startswith("its fp32 outputs are not those of a on the first batch: they differ by 0.29 of")


@pytest.mark.parametrize(("difference", "same"), [(1e-5, True), (1e-1, False)])
def test_the_order_of_sums_may_differ_and_no_more(difference: float, same: bool) -> None:
    loaded, _ = opened(a=Function(), b=Function(function=lambda x: x * np.float32(1 + difference)))
    assert names(loaded) == (["a", "b"] if same else ["a"])


def test_outputs_of_another_shape_or_that_are_not_finite() -> None:
    _, left_out = opened(
        a=Function(),
        b=Function(function=lambda x: x[:, :2]),
        c=Function(),
        d=Function(function=lambda x: x * np.float32("nan")),
    )
    assert "shapes [(4, 2)] instead of [(4, 3)]" in left_out["b"]
    assert left_out["d"].endswith("output 'y' is not finite in other places")


def test_integer_outputs_are_compared_one_by_one() -> None:
    integers = (spec("y", np.int64),)
    one = Function(function=lambda x: x.astype(np.int64), outputs=integers)
    other = Function(function=lambda x: (x > 5).astype(np.int64), outputs=integers)
    _, left_out = opened(a=one, b=one, c=other)
    assert list(left_out) == ["c"]
    assert "of the values of output 'y' differ" in left_out["c"]


def test_other_inputs_are_another_model() -> None:
    _, left_out = opened(a=Function(), b=Function(inputs=(spec("z"),)))
    assert left_out == {"b": "All runtimes must read the same inputs, but here they are z, and x on a"}


def test_the_end_of_the_time_is_no_fault_of_a_runtime() -> None:
    with pytest.raises(DeadlineReached):
        opened(a=DeadlineReached("the time was up"), b=Function())


def test_none_is_left() -> None:
    with pytest.raises(
        InputError, match="One of the runtimes a, b must be able to tune the model, but none is"
    ) as caught:
        opened(a=InputError("no"), b=RuntimeError("neither"))
    assert str(caught.value).endswith("a: no; b: RuntimeError: neither")
    with pytest.raises(RuntimeError, match=r"^the user's own$"):
        opened(a=RuntimeError("the user's own"), b=RuntimeError("the user's own"))
