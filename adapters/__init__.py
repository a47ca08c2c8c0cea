"""The frameworks whose models can be tuned, by the name that a user gives."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from autotune.adapter import Adapter, SourceFramework
from autotune.arguments import shown
from autotune.conversion import Converter
from autotune.errors import InputError, MissingDependencyError
from autotune.suggestion import nearest

__all__ = [
    "ADAPTERS",
    "CONVERTERS",
    "ENTRY_POINT_GROUP",
    "FRAMEWORKS",
    "ModelKinds",
    "Registration",
    "adapter_names",
    "converter_name",
    "get_adapter",
    "get_converter",
    "source_framework",
]

ENTRY_POINT_GROUP = "autotune.adapters"
"""Other distributions register an adapter class under this group of entry points."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """Where an adapter lives.

    Attributes:
        module: Imported only when the adapter is asked for.
        attribute: The adapter's class, constructed without arguments.
        extra: The extra of this distribution that brings the framework; None where the core depends on it.
    """

    module: str
    attribute: str
    extra: str | None = None


ADAPTERS: dict[str, Registration] = {
    "onnxruntime": Registration(module="autotune.adapters.onnxruntime", attribute="OnnxRuntimeAdapter"),
    "mxnet": Registration(module="autotune.adapters.mxnet.adapter", attribute="MxnetAdapter"),
    "openvino": Registration(module="autotune.adapters.openvino", attribute="OpenVinoAdapter", extra="openvino"),
    "paddle": Registration(module="autotune.adapters.paddle.adapter", attribute="PaddleAdapter", extra="paddle"),
    "pytorch": Registration(module="autotune.adapters.pytorch.adapter", attribute="PytorchAdapter", extra="pytorch"),
    "tensorflow": Registration(
        module="autotune.adapters.tensorflow", attribute="TensorFlowAdapter", extra="tensorflow"
    ),
}


FRAMEWORKS: dict[str, Registration] = {
    "mxnet": Registration(module="autotune.adapters.mxnet.source", attribute="MxnetSource"),
    "paddle": Registration(module="autotune.adapters.paddle.source", attribute="PaddleSource", extra="paddle"),
    "torch": Registration(module="autotune.adapters.pytorch.source", attribute="TorchSource", extra="pytorch"),
}
"""Frameworks whose own objects can be given as models, by the package that the classes of these objects come from."""


@dataclass(frozen=True, kw_only=True)
class ModelKinds(Registration):
    """Where a converter to ONNX lives, and how the models that it reads are told without an import.

    Attributes:
        endings: Endings of files; a path that lacks one of them, and becomes a file's with it, is a model's too.
        member: Name of a file that makes a folder a model.
        beside: Pairs of an ending and the ending of a second file that must lie beside such a file.
        packages: The packages that classes of models come from.
    """

    endings: tuple[str, ...] = ()
    member: str | None = None
    beside: tuple[tuple[str, str], ...] = ()
    packages: tuple[str, ...] = ()

    def has(self, path: Path) -> bool:
        """Whether a path is that of a model of these kinds."""
        if path.name.endswith(self.endings) or any(Path(f"{path}{ending}").is_file() for ending in self.endings):
            return True
        if self.member is not None and (path / self.member).is_file():
            return True
        pairs = ((Path(f"{path}".removesuffix(first)), first, second) for first, second in self.beside)
        return any(
            Path(f"{stem}{first}").is_file() and Path(f"{stem}{second}").is_file() for stem, first, second in pairs
        )


CONVERTERS: dict[str, ModelKinds] = {
    "tensorflow": ModelKinds(
        module="autotune.adapters.tensorflow.onnx",
        attribute="TensorFlowConverter",
        extra="tensorflow",
        endings=(".tflite", ".keras", ".h5"),
        member="saved_model.pb",
        packages=("keras", "tf_keras"),
    ),
    "paddle": ModelKinds(
        module="autotune.adapters.paddle.onnx",
        attribute="PaddleConverter",
        extra="paddle",
        endings=(".pdmodel",),
        beside=((".json", ".pdiparams"),),
        packages=("paddle",),
    ),
    "mxnet": ModelKinds(
        module="autotune.adapters.mxnet.onnx",
        attribute="MxnetConverter",
        endings=("-symbol.json",),
        packages=("mxnet",),
    ),
}
"""By name of an adapter: what makes ONNX, for other runtimes, of the models that it reads."""


def adapter_names() -> tuple[str, ...]:
    """All names that :func:`get_adapter` knows: those built in, then those of other distributions."""
    others = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
    return (*ADAPTERS, *sorted(others - set(ADAPTERS)))


def get_adapter(name: str) -> Adapter[Any]:
    """The adapter of that name; its framework is imported now.

    Raises:
        InputError: No adapter has this name.
        MissingDependencyError: Its framework is not installed.
    """
    if not isinstance(name, str):
        raise InputError(
            f"An adapter must be named, as one of {', '.join(adapter_names())}, but got {shown(name)}. "
            "`runtimes` takes several names"
        )
    registration = ADAPTERS.get(name)
    if registration is None:
        return _from_entry_point(name)
    return cast("Adapter[Any]", _made(registration, f"The adapter {name!r}"))


def source_framework(source: object) -> SourceFramework | None:
    """The framework that an object is a model of; None for paths, bytes and what no framework here knows.

    Raises:
        MissingDependencyError: A package that reads the object is not installed.
    """
    for package in _packages(source) & set(FRAMEWORKS):
        made = _made(FRAMEWORKS[package], f"A model of {package!r}")
        assert isinstance(made, SourceFramework)
        if made.owns(source):
            return made
    return None


def converter_name(source: object) -> str | None:
    """The name of the converter that makes ONNX of a model; None for ONNX and for what none reads. Imports nothing."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return next((name for name, kinds in CONVERTERS.items() if kinds.has(path)), None)
    packages = _packages(source)
    return next((name for name, kinds in CONVERTERS.items() if packages & set(kinds.packages)), None)


def _packages(source: object) -> set[str]:
    """The packages that an object's classes come from; of a tuple, such as a graph with its weights, its first item."""
    first = source[0] if isinstance(source, tuple) and source else source
    return {base.__module__.partition(".")[0] for base in type(first).__mro__}


def get_converter(name: str) -> Converter:
    """The converter of that name.

    Raises:
        InputError: There is none.
        MissingDependencyError: A package that reads the framework's models is not installed.
    """
    kinds = CONVERTERS.get(name)
    if kinds is None:
        near = nearest(name, CONVERTERS)
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(f"A converter must be one of {', '.join(CONVERTERS)}, but got {name!r}.{hint}")
    return cast("Converter", _made(kinds, f"The converter of {name}'s models"))


def _made(registration: Registration, what: str) -> object:
    """An object of a registered class; what it imports is imported now."""
    try:
        module = importlib.import_module(registration.module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "autotune":
            raise
        extra = f"[{registration.extra}]" if registration.extra else ""
        raise MissingDependencyError(
            f"{what} needs the package {error.name!r}, which is not installed. "
            f"Install it with `pip install 'autotune-quantization{extra}'`"
        ) from error
    made: object = getattr(module, registration.attribute)()
    return made


def _from_entry_point(name: str) -> Adapter[Any]:
    points = list(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not points:
        known = adapter_names()
        near = nearest(name, known)
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(f"An adapter must be one of {', '.join(known)}, but got {name!r}.{hint}")
    try:
        adapter = points[0].load()
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"The adapter {name!r} ({points[0].value}) needs the package {error.name!r}, which is not installed. "
            f"Install it with `pip install {error.name}`"
        ) from error
    return cast("Adapter[Any]", adapter())
