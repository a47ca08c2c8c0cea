"""Who writes and reads what, and that no algorithm needs a framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

from autotune.algorithms.graph import Clip, Connections, Convolution, Node

NODES = [
    Node(name="first", reads=("x", "w"), writes=("a", "b")),
    Node(name="second", reads=("a", "w"), writes=("c",)),
    Node(name="third", reads=("a", "b"), writes=("d",)),
]


def test_writers_and_readers() -> None:
    connections = Connections(NODES, {"c", "d"})
    assert {name: node.name for name, node in connections.writers.items()} == {
        "a": "first",
        "b": "first",
        "c": "second",
        "d": "third",
    }
    assert [node.name for node in connections.readers["a"]] == ["second", "third"]
    assert [name for name in "xwabcd" if connections.read_once(name)] == ["x", "b"]
    assert not Connections(NODES, {"b", "d"}).read_once("b"), "the model returns it"


@pytest.mark.parametrize(("pads", "padded"), [((0, 0, 0, 0), False), ((0, 0, 0, 1), True), (None, True)])
def test_unknown_pads_may_be_there(pads: tuple[int, ...] | None, padded: bool) -> None:
    assert Convolution(strides=(1, 1), dilations=(1, 1), pads=pads).padded == padded


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.0, float("inf"), True), (0.0, 6.0, False), (float("nan"), float("nan"), False)]
)
def test_a_relu_lets_through_what_is_positive(low: float, high: float, expected: bool) -> None:
    assert Clip(name="r", reads=("a",), writes=("r",), low=low, high=high).is_relu == expected


def test_algorithms_load_no_framework() -> None:
    script = """
import importlib, pkgutil, sys
import autotune.algorithms as package
for module in pkgutil.walk_packages(package.__path__, "autotune.algorithms."):
    importlib.import_module(module.name)
print(*sorted({name.split(".")[0] for name in sys.modules} & {"onnx", "onnxruntime", "openvino", "torch"}))
print(*sorted(name for name in sys.modules if name.startswith("autotune.adapters.")))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not found.stdout.split()
