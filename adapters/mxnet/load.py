"""Read a model from what a user gives: the two files of a symbol, or a Gluon block."""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotune.adapter import Array, Example, TensorSpec
from autotune.adapters.mxnet.files import SYMBOL, symbol_files
from autotune.adapters.mxnet.framework import FAILURES, dense, mx, reason
from autotune.adapters.mxnet.graph import Graph, graph_of
from autotune.adapters.mxnet.model import MxnetModel
from autotune.arguments import kind_of
from autotune.errors import DataError, ModelError
from autotune.notes import counted

_ACCEPTED = (
    "the path of a -symbol.json file with its -0000.params beside it, the two files' common prefix, a Gluon "
    "HybridBlock, or a tuple of symbol, arguments and auxiliary states, as `mx.model.load_checkpoint` returns it"
)


def read_model(source: object, example: Example | None) -> MxnetModel:
    """The model as it stands.

    Raises:
        ModelError: It is missing, corrupt, without parameters, or a block that has no symbol.
        DataError: The shapes of its inputs are those of the data, and there are none or they do not fit.
    """
    if isinstance(source, MxnetModel):
        return source
    if isinstance(source, mx.gluon.HybridBlock):
        return _of_block(source, example)
    if isinstance(source, mx.gluon.Block):
        raise ModelError(
            f"A Gluon model must be a HybridBlock, which has a symbol, but {type(source).__name__} is a Block. Derive "
            "it from `gluon.HybridBlock`"
        )
    if isinstance(source, mx.sym.Symbol):
        raise ModelError(
            "A symbol has no parameters, so that it is no model by itself. Give a tuple of symbol, arguments and "
            "auxiliary states, as `mx.model.load_checkpoint` returns it"
        )
    if isinstance(source, tuple) and source and isinstance(source[0], mx.sym.Symbol):
        return _of_symbol(source, example)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(Path(source), example)
    raise ModelError(f"A model must be {_ACCEPTED}, but got {kind_of(source)}")


def _read_path(path: Path, example: Example | None) -> MxnetModel:
    if path.is_dir() and not path.with_name(f"{path.name}{SYMBOL}").is_file():
        raise ModelError(f"A model must be {_ACCEPTED}, but {path} is a folder. Give the file in it")
    symbol, parameters = symbol_files(path)
    try:
        text = symbol.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"The model file {symbol} cannot be read: {error}") from error
    return _checked(_parsed(text, symbol), *_arrays(parameters, symbol), str(symbol), example)


def _parsed(text: str, path: Path) -> Graph:
    try:
        mx.sym.load_json(text)
        return Graph(text)
    except (*FAILURES, KeyError) as error:
        raise ModelError(
            f"{path} must be a symbol that MXNet {mx.__version__} reads, but it is corrupt, cut off or has an op that "
            f"it does not know: {reason(error)}. Export it again"
        ) from error


def _arrays(path: Path, symbol: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    try:
        stored = mx.nd.load(str(path))
        if not isinstance(stored, dict):
            raise ValueError("its arrays have no names")
    except FAILURES as error:
        raise ModelError(
            f"{path} must hold the parameters of {symbol.name}, but it is corrupt, cut off or of another format: "
            f"{reason(error)}. Copy both files of one export"
        ) from error
    return _by_kind(stored)


def _by_kind(stored: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Arguments and auxiliary states, which files tell apart by a prefix of their names."""
    arrays = {kind: {} for kind in ("arg", "aux")}  # type: dict[str, dict[str, Array]]
    for name, value in stored.items():
        kind, _, own = name.partition(":")
        arrays.get(kind, arrays["arg"])[own or name] = value.asnumpy()
    return arrays["arg"], arrays["aux"]


def _of_symbol(source: tuple[Any, ...], example: Example | None) -> MxnetModel:
    """The model of a symbol and its parameters, in one dict or in two."""
    symbol, *parameters = source
    values = [value for each in parameters if isinstance(each, Mapping) for value in each.values()]
    if not 1 <= len(parameters) <= 2 or not values or not all(isinstance(each, mx.nd.NDArray) for each in values):
        raise ModelError(
            "A symbol must come with its parameters, `(symbol, arguments, auxiliary states)` as "
            "`mx.model.load_checkpoint` returns it, each a dict of NDArrays by name, but got "
            f"({', '.join(type(each).__name__ for each in source)}) with "
            f"{counted(len(values), 'parameter')}. Give these"
        )
    states = set(symbol.list_auxiliary_states())
    both = {name: array for each in parameters for part in _by_kind(each) for name, array in part.items()}
    arguments = {name: array for name, array in both.items() if name not in states}
    return _checked(graph_of(symbol), arguments, {k: v for k, v in both.items() if k in states}, "The symbol", example)


def block_inputs(block: Any) -> tuple[str, ...]:
    """Names of the inputs of a block, as its ``hybrid_forward`` has them; one where that does not say."""
    if isinstance(block, mx.gluon.SymbolBlock):
        return tuple(block._cached_graph[0][i].name for i in range(len(block._cached_graph[0])))
    parameters = list(inspect.signature(block.hybrid_forward).parameters.values())[1:]
    named = [
        each.name
        for each in parameters
        if each.kind is each.POSITIONAL_OR_KEYWORD and each.default is each.empty and each.name not in block._reg_params
    ]
    return tuple(named) or ("data",)


def _of_block(block: Any, example: Example | None) -> MxnetModel:
    """The model of a Gluon block in inference; the block stays as it is."""
    if example is None:
        raise ModelError(
            "A Gluon block is traced with a batch of data, and there is none here. Give the data loader, or save the "
            "block with `block.export(prefix)` and give the files"
        )
    count = len(block_inputs(block))
    batch = example.arrays(count)
    arrays = [_narrow(array) for array in (batch.values() if isinstance(batch, Mapping) else batch)]
    names = (
        list(batch) if isinstance(batch, Mapping) else ["data"] if count == 1 else [f"data{i}" for i in range(count)]
    )
    try:
        block(*(dense(array[:1]) for array in arrays))  # what is not initialized yet is now
        traced = block(*(mx.sym.var(name) for name in names))
    except Exception as error:  # whatever the user's own code raises when it is traced
        raise ModelError(
            f"A block must be one that MXNet can trace, but {type(block).__name__} cannot be: {reason(error)}. Call "
            "`initialize()` or load its parameters, and rewrite what depends on values of arrays with ops of `F`"
        ) from error
    symbol = mx.sym.Group(list(traced)) if isinstance(traced, (tuple, list)) else traced
    short = {name: name.removeprefix(block.prefix) for name in symbol.list_inputs() if name not in names}
    text = graph_of(symbol).renamed(block.prefix)
    states = set(symbol.list_auxiliary_states())
    values = {name: value.data().asnumpy() for name, value in block.collect_params().items() if name in short}
    arguments = {short[name]: array for name, array in values.items() if name not in states}
    auxiliary = {short[name]: array for name, array in values.items() if name in states}
    return _checked(text, arguments, auxiliary, f"The {type(block).__name__}", example)


def _narrow(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _checked(
    graph: Graph, arguments: dict[str, Array], states: dict[str, Array], name: str, example: Example | None
) -> MxnetModel:
    """The model of a symbol that can be executed."""
    said = graph.said()
    graph = graph.saying("", None).without_labels()
    known = {*arguments, *states}
    inputs = [variable for variable in graph.variables() if variable not in known]
    if not inputs:
        raise ModelError(f"{name} must have inputs, but all of its variables have values. Export it again")
    if said:
        specs = tuple(_spec(each) for each in said["inputs"])
        outputs = tuple(_spec(each) for each in said["outputs"])
    else:
        specs = _input_specs(graph, inputs, name, example)
        outputs = _output_specs(graph, specs, arguments, name)
    wanted = set(graph.variables())
    return MxnetModel(
        text=graph.text,
        arguments={each: array for each, array in arguments.items() if each in wanted},
        states={each: array for each, array in states.items() if each in wanted},
        inputs=specs,
        outputs=outputs,
        asked=tuple(said.get("asked", ())),
        at_risk=tuple(said.get("at_risk", ())),
        told=tuple(said.get("told", ())),
    )


def _spec(said: Sequence[Any]) -> TensorSpec:
    name, dtype, shape = said
    return TensorSpec(name=name, dtype=np.dtype(dtype), shape=tuple(shape))


def _input_specs(graph: Graph, inputs: Sequence[str], name: str, example: Example | None) -> tuple[TensorSpec, ...]:
    """The inputs' shapes, as the symbol declares them or as the data have them; the first axis counts samples."""
    declared = {
        node["name"]: tuple(ast.literal_eval(node["attrs"]["__shape__"]))
        for node in graph.nodes
        if node["name"] in inputs and node.get("attrs", {}).get("__shape__", "None") != "None"
    }
    if all(len(declared.get(each, ())) > 1 for each in inputs) and all(0 not in declared[e][1:] for e in inputs):
        return tuple(
            TensorSpec(name=each, dtype=np.dtype(np.float32), shape=("batch", *declared[each][1:])) for each in inputs
        )
    if example is None:
        raise ModelError(
            f"{name} declares no shape of {', '.join(inputs)}, and there is no data to tell it. Give the data, or "
            "declare it in the symbol with `mx.sym.var(name, shape=...)`"
        )
    batch = example.arrays(len(inputs))
    if isinstance(batch, Mapping):
        if missing := [each for each in inputs if each not in batch]:
            raise ModelError(
                f"{name} has no value for {', '.join(missing)}: neither the parameters nor the batches have one. Give "
                "the parameters of the same export"
            )
        arrays = [batch[each] for each in inputs]
    else:
        arrays = list(batch)
    if len(arrays) != len(inputs):
        raise DataError(
            f"A batch must have {counted(len(inputs), 'input')}, but has {len(arrays)}: {name} has no parameters for "
            f"{', '.join(inputs[:5])}. Give these, or the parameters of the same export"
        )
    return tuple(
        TensorSpec(name=each, dtype=_narrow(array).dtype, shape=("batch", *array.shape[1:]))
        for each, array in zip(inputs, arrays, strict=True)
    )


def _output_specs(
    graph: Graph, inputs: Sequence[TensorSpec], arguments: Mapping[str, Array], name: str
) -> tuple[TensorSpec, ...]:
    """The outputs' shapes, inferred for one and for two samples."""
    shapes = []
    for samples in (1, 2):
        given = {spec.name: (samples, *spec.shape[1:]) for spec in inputs}
        given |= {each: array.shape for each, array in arguments.items() if each in set(graph.variables())}
        try:
            _, found, _ = graph.symbol.infer_shape(**given)
        except FAILURES as error:
            raise ModelError(
                f"The parameters of {name} and its data must fit its symbol, but they do not: {reason(error)}. Copy "
                "both files of one export, and give batches of the shape that it takes"
            ) from error
        shapes.append(found)
    return tuple(
        TensorSpec(
            name=output.removesuffix("_output"),
            dtype=np.dtype(np.float32),
            shape=tuple("batch" if one != two else one for one, two in zip(single, double, strict=True)),
        )
        for output, single, double in zip(graph.symbol.list_outputs(), *shapes, strict=True)
    )
