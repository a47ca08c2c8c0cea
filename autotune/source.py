"""A model of a framework of its own: what each runtime reads of it, and its user's tensors as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autotune.adapter import Adapter, BatchReader, Example, Gradients, SourceFramework
from autotune.adapters import converter_name, get_converter, source_framework
from autotune.errors import AutotuneError
from autotune.evaluation import LabelledData, UserFunction


class Convertible:
    """A model that other runtimes read as ONNX, for one run: a file or an object of some framework.

    Args:
        name: Name of the adapter that reads the model itself.
        source: The path or the object.
    """

    def __init__(self, name: str, source: object) -> None:
        self.name = name
        self.source = source
        self._onnx: bytes | None = None
        self._failure: AutotuneError | None = None
        self._notes: list[str] = []

    @property
    def notes(self) -> Sequence[str]:
        """Notes for the user on how the model was read and their data taken, a line each."""
        return tuple(self._notes)

    def onnx(self, example: Example | None) -> bytes:
        """The model as an ONNX file; it is converted once, and what cannot be converted is not tried again.

        Raises:
            MissingDependencyError: The converter is not installed.
            ModelError: It cannot be converted.
            DataError: There is no example, or one that it does not take.
        """
        if self._failure is not None:
            raise self._failure
        if self._onnx is None:
            try:
                self._onnx, notes = self._convert(example)
            except AutotuneError as error:
                self._failure = error
                raise
            self._notes += notes
        return self._onnx

    def _convert(self, example: Example | None) -> tuple[bytes, Sequence[str]]:
        return get_converter(self.name).to_onnx(self.source, example)


class OwnSource(Convertible):
    """A model that is an object of some framework, whose tensors its user's data and functions work with.

    Args:
        framework: The framework.
        source: The object.
    """

    def __init__(self, framework: SourceFramework, source: object) -> None:
        super().__init__(framework.name, source)
        self.framework = framework
        self._read = framework.reader(source)

    def _convert(self, example: Example | None) -> tuple[bytes, Sequence[str]]:
        return self.framework.to_onnx(self.source, example)

    def gradients(self, example: Example | None) -> Gradients | None:
        """Derivatives of the object; None where its framework has none."""
        return self.framework.gradients(self.source, example)

    def loader(self, loader: Iterable[object]) -> Iterable[object]:
        """A data loader of the user's that yields arrays, and no inputs that the model does not take."""
        if isinstance(loader, Sequence) and not isinstance(loader, (str, bytes)):
            return ArraySequence(loader, self._read)
        return ArrayLoader(loader, self._read)

    def accuracy(self, source: UserFunction | LabelledData) -> UserFunction | LabelledData:
        """Where accuracy comes from, for a user's function that works with tensors, or data that are such."""
        if isinstance(source, LabelledData):
            return replace(source, loader=self.loader(source.loader))
        return replace(source, function=ModuleFunction(source.function, self.framework, self._read))

    def module(self, call: Callable[[object], Any]) -> Callable[..., Any]:
        """A tuned model as a model of the framework.

        Args:
            call: Runs it on one batch of arrays.
        """
        return self.framework.module(call, self._read)

    def note_surplus(self, loader: Iterable[object]) -> None:
        """Note the inputs of the first batch that the model does not take."""
        surplus = [name for name in _names(Example(loader)) if name not in _names(Example(self.loader(loader)))]
        if surplus:
            self._notes.append(f"The model does not take {', '.join(surplus)} of the data loader's batches: left out")


class ArrayLoader:
    """A data loader whose batches are read as arrays.

    Args:
        loader: The user's.
        read: Makes arrays of one item.
    """

    def __init__(self, loader: Iterable[object], read: BatchReader) -> None:
        self._loader = loader
        self._read = read

    def __iter__(self) -> Iterator[object]:
        return map(self._read, self._loader)


class ArraySequence(Sequence[object]):
    """The same where batches can be read in any order.

    Args:
        loader: The user's.
        read: Makes arrays of one item.
    """

    def __init__(self, loader: Sequence[object], read: BatchReader) -> None:
        self._loader = loader
        self._read = read

    def __len__(self) -> int:
        return len(self._loader)

    def __getitem__(self, index: Any) -> Any:
        return self._read(self._loader[index])


class ModuleFunction:
    """An ``eval_fn`` that is given a model of the user's framework.

    Args:
        function: The user's.
        framework: Theirs.
        read: Makes arrays of a batch.
    """

    def __init__(self, function: Callable[[Any], Any], framework: SourceFramework, read: BatchReader) -> None:
        self._function = function
        self._framework = framework
        self._read = read

    def __call__(self, model: Callable[[object], Any]) -> Any:
        """The value of the user's function for a model that takes arrays."""
        return self._function(self._framework.module(model, self._read))


def as_source(model: object) -> OwnSource | None:
    """The model as a framework's own object; None where it is a path, bytes or what an adapter reads itself.

    Raises:
        MissingDependencyError: A package that reads the object is not installed.
    """
    framework = source_framework(model)
    return None if framework is None else OwnSource(framework, model)


def as_convertible(model: object) -> object:
    """A model that a converter reads as :class:`Convertible`; any other as it is. Nothing is imported or converted."""
    name = converter_name(model)
    return model if name is None else Convertible(name, model)


def source_for(adapter: Adapter[Any], source: object, example: Example | None) -> object:
    """The source that an adapter loads: a framework's model for the framework's own adapter, ONNX for all others.

    Args:
        adapter: Adapter of the runtime.
        source: The user's model, or a :class:`Convertible` of it.
        example: The first batches of the user's data.

    Raises:
        MissingDependencyError: The model is to be converted, and the converter is not installed.
        ModelError: The model cannot be converted.
        DataError: There is no example, or one that it does not take.
    """
    if not isinstance(source, Convertible):
        return source
    return source.source if adapter.name == source.name else source.onnx(example)


def _names(example: Example) -> list[str]:
    """The keys of the first batch, where it is a dict."""
    (item,) = example.items(1)
    inputs = item[0] if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], Mapping) else item
    return [str(name) for name in inputs] if isinstance(inputs, Mapping) else []
