from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest

from autotune.adapter import Execution
from autotune.adapters.openvino import session
from autotune.cores import usable_cores
from autotune.errors import ApplyError
from tests.adapters.onnx.graphs import build, node, normal
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, wide


@pytest.fixture
def compiled_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first input's shape of every model that is compiled."""
    seen: list[str] = []
    compile_model = session.compiled

    def watched(graph: ov.Model, *arguments: Any, **options: Any) -> ov.CompiledModel:
        seen.append(str(graph.inputs[0].get_partial_shape()))
        return compile_model(graph, *arguments, **options)

    monkeypatch.setattr(session, "compiled", watched)
    return seen


def test_threads_are_those_of_the_execution_and_fp32_is_fp32() -> None:
    # OpenVINO takes no more threads than there are cores.
    for threads in (1, 2)[: len(usable_cores())]:
        made = session.compiled(wide().model.graph, Execution(threads=threads))
        assert made.get_property("INFERENCE_NUM_THREADS") == threads
        assert made.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
        assert made.get_property("NUM_STREAMS") == 1


def test_two_shapes_are_compiled_each_for_itself_and_all_others_together(compiled_for: list[str]) -> None:
    run = ADAPTER.runner(wide().model, ONE_THREAD)
    images = normal(8, 3, 8, 8, scale=1.0)
    whole = run({"x": images})[0]
    for size in (1, 3, 5, 1, 3, 8):
        np.testing.assert_allclose(run({"x": images[:size]})[0], whole[:size], rtol=1e-4, atol=1e-5)
    assert compiled_for == ["[8,3,8,8]", "[1,3,8,8]", "[?,3,8,8]"]


def test_what_a_call_gave_stays_when_the_next_is_made() -> None:
    run = ADAPTER.runner(wide().model, ONE_THREAD)
    first = normal(2, 3, 8, 8, scale=1.0)
    before = run({"x": first})[0]
    kept = before.copy()
    other = run({"x": first + 1})[0]
    np.testing.assert_array_equal(before, kept)
    assert not np.array_equal(before, other)


def test_values_changed_in_place_are_seen() -> None:
    run = ADAPTER.runner(wide().model, ONE_THREAD)
    images = normal(2, 3, 8, 8, scale=1.0)
    before = run({"x": images})[0]
    images += 1
    np.testing.assert_array_equal(run({"x": images})[0], ADAPTER.runner(wide().model, ONE_THREAD)({"x": images})[0])
    assert not np.array_equal(run({"x": images})[0], before)


def test_arrays_of_another_order_or_type_are_converted_each_time() -> None:
    run = ADAPTER.runner(wide().model, ONE_THREAD)
    images = normal(2, 3, 8, 8, scale=1.0)
    expected = run({"x": images})[0]
    strided = np.asfortranarray(images)
    np.testing.assert_array_equal(run({"x": strided})[0], expected)
    strided += 1
    np.testing.assert_array_equal(run({"x": strided})[0], run({"x": images + 1})[0])
    np.testing.assert_array_equal(run({"x": images.astype(np.float64)})[0], expected)


def test_integers_and_several_outputs_keep_their_order_and_types() -> None:
    proto = build(
        [node("Relu", "x", "b"), node("ArgMax", "x", "a", axis=1, keepdims=0)],
        {"x": ("N", 4)},
        {"b": None},
        {},
    )
    proto.graph.output.add().name = "a"
    proto.graph.output[1].type.tensor_type.elem_type = 7
    model = ADAPTER.load(proto)
    values, place = ADAPTER.runner(model, ONE_THREAD)({"x": np.array([[1, 3, 2, 0]], np.float32)})
    assert [spec.name for spec in model.outputs] == ["b", "a"]
    assert values.tolist() == [[1, 3, 2, 0]]
    assert place.tolist() == [1]
    assert [spec.dtype for spec in model.outputs] == [values.dtype, place.dtype]


def test_what_openvino_refuses_is_an_apply_error() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Exception from src/a.cpp:1:\nno kernel\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ov.Core, "compile_model", refuse)
        with pytest.raises(ApplyError, match="OpenVINO refuses the model: no kernel"):
            ADAPTER.runner(wide().model, ONE_THREAD)(wide().batches[0])


def test_an_input_may_be_a_single_number() -> None:
    proto = build([node("Mul", "x factor", "y")], {"x": ("N", 4), "factor": ()}, {"y": None}, {})
    values = normal(2, 4)
    (scaled,) = ADAPTER.runner(ADAPTER.load(proto), ONE_THREAD)({"x": values, "factor": np.array(2, np.float32)})
    np.testing.assert_array_equal(scaled, 2 * values)
