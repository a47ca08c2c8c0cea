"""Models of one op, to run or to time it by itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from autotune.adapter import Array
from autotune.adapters.tensorflow.graph import Graph


def single_op(graph: Graph, operator: Any, constants: Mapping[int, Array] | None = None) -> bytes:
    """The bytes of a model of one operator; it reads what is no constant, each tensor once, and writes its outputs.

    Args:
        graph: The graph that holds the operator.
        operator: The operator.
        constants: By place: other values for constants that it reads.
    """
    model, main = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [main], [schema.BufferT()]
    model.operatorCodes = [copy.copy(graph.model.operatorCodes[operator.opcodeIndex])]
    main.name, main.tensors = b"main", []
    places: dict[int, int] = {}
    for place in dict.fromkeys(int(each) for each in (*operator.inputs, *operator.outputs) if each >= 0):
        tensor = copy.copy(graph.tensors[place])
        values = (constants or {}).get(place)
        data = graph.model.buffers[tensor.buffer].data
        buffer = schema.BufferT()
        if values is not None:
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        elif data is not None and len(data) and place not in graph.inputs:
            buffer.data = data
        tensor.buffer = 0
        if buffer.data is not None:
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        places[place] = len(main.tensors)
        main.tensors.append(tensor)
    made = copy.copy(operator)
    made.opcodeIndex = 0
    made.inputs = [places[int(each)] if each >= 0 else -1 for each in operator.inputs]
    made.outputs = [places[int(each)] for each in operator.outputs]
    main.operators = [made]
    main.inputs = [new for old, new in places.items() if main.tensors[new].buffer == 0 and new not in made.outputs]
    main.outputs = list(made.outputs)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
