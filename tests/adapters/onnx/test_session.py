from __future__ import annotations

import numpy as np
import onnx
import pytest

from autotune.adapter import Execution
from autotune.adapters.onnx.session import session_options
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.errors import ApplyError, DataError
from tests.adapters.onnx.graphs import build, image_batches, node, normal, small_cnn

ADAPTER = OnnxRuntimeAdapter()


def test_options_keep_threads_from_disturbing_each_other() -> None:
    options = session_options(Execution(threads=2))
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


def test_outputs_come_in_graph_order() -> None:
    proto = build([node("Relu", "x", "b"), node("Neg", "x", "a")], {"x": ("N", 2)}, {"b": ("N", 2), "a": ("N", 2)}, {})
    b, a = ADAPTER.runner(ADAPTER.load(proto), Execution())({"x": np.array([[-1, 2]], np.float32)})
    np.testing.assert_array_equal(b, [[0, 2]])
    np.testing.assert_array_equal(a, [[1, -2]])


def test_failure_while_running_is_a_failure_of_the_candidate() -> None:
    run = ADAPTER.runner(ADAPTER.load(small_cnn()), Execution())
    feeds = image_batches(1, shape=(3, 8, 8))[0]
    with pytest.raises(ApplyError, match="failed to run"):
        run({"x": feeds["x"][:, :2]})


def test_nothing_is_logged_that_an_exception_says_too(capfd: pytest.CaptureFixture[str]) -> None:
    """Made-up inputs do not fit this model: to users that is no error, and not one to be printed in red."""
    nodes = [node("Reshape", "x shape", "r"), node("Relu", "r", "y")]
    proto = build(nodes, {"x": ("N", "M")}, {"y": None}, {"shape": np.array([-1, 17])})
    run = ADAPTER.runner(ADAPTER.load(proto), Execution())
    with pytest.raises(ApplyError, match="Reshape"):
        run({"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(DataError, match="Reshape"):
        ADAPTER.calibrate(ADAPTER.load(with_product()), [{"x": np.zeros((2, 3), np.float32)}], seed=0)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def with_product() -> onnx.ModelProto:
    nodes = [node("Reshape", "x shape", "r"), node("MatMul", "r w", "y")]
    constants = {"shape": np.array([-1, 17]), "w": normal(17, 4)}
    return build(nodes, {"x": ("N", "M")}, {"y": None}, constants)
