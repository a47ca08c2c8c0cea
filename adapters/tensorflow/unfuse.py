"""The graph with activations as ops of their own, as calibration observes it and the recipes' algorithms see it."""

from __future__ import annotations

import copy
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from autotune.adapters.tensorflow.graph import Graph

_ACTIVATIONS = {
    schema.ActivationFunctionType.RELU: "RELU",
    schema.ActivationFunctionType.RELU6: "RELU6",
}


class Unfused:
    """A graph in which every Relu and Relu6 that an op carries out behind its own work is an op of its own.

    Args:
        content: Bytes of the model.

    Attributes:
        graph: The graph. Tensors of the model keep their places.
        keys: By place: the name under which calibration and the algorithms know a tensor.
        places: The reverse.
        operators: By place among the model's operators: the one that does the same work here.
    """

    def __init__(self, content: bytes) -> None:
        self.graph = Graph(content)
        tensors = self.graph.main.tensors
        self.keys = {place: tensor_key(place) for place in range(len(tensors))}
        self.operators = dict(enumerate(self.graph.operators))
        operators = []
        for operator in self.graph.operators:
            operators.append(operator)
            function = getattr(operator.builtinOptions, "fusedActivationFunction", None)
            if function is not None and function in _ACTIVATIONS and len(operator.outputs) == 1:
                operators.append(self._split(operator, function))
        self.graph.main.operators = operators
        self.places = {key: place for place, key in self.keys.items()}

    def _split(self, operator: Any, function: int) -> Any:
        """Let an operator write a new tensor; the activation that makes the old one of it."""
        place = int(operator.outputs[0])
        tensors = self.graph.main.tensors
        tensors.append(copy.copy(tensors[place]))
        tensors[-1].name = (tensors[place].name or b"") + b"/linear"
        self.keys[len(tensors) - 1] = linear_key(place)
        operator.outputs = [len(tensors) - 1]
        operator.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.NONE
        made = schema.OperatorT()
        made.opcodeIndex = self.graph.operator_code(_ACTIVATIONS[function])
        made.inputs, made.outputs = [len(tensors) - 1], [place]
        return made


def tensor_key(place: int) -> str:
    """How statistics call a tensor: names of a file may repeat, and differ from one conversion to the next."""
    return f"tensor_{place}"


def linear_key(place: int) -> str:
    """How statistics call what an op computes before the activation that it carries out."""
    return f"{tensor_key(place)}/linear"
