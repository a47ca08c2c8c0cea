"""Models that are a framework's own objects, of a toy framework that has tensors and modules."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.adapter import Array, BatchReader, Example, Gradients, SourceFramework
from autotune.adapters import CONVERTERS, FRAMEWORKS, ModelKinds, Registration, source_framework
from autotune.errors import DataError, DeadlineReached, InputError, MissingDependencyError, ModelError
from autotune.source import (
    ArrayLoader,
    ArraySequence,
    Convertible,
    OwnSource,
    as_convertible,
    as_source,
    source_for,
)
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel

Score = Callable[[Any], float]


@dataclass
class Tensor:
    """The tensor of the toy framework; not an array, so that nothing takes it for one by chance."""

    values: Array


@dataclass
class Module:
    """The toy framework's model."""

    model: NumpyModel


class OwnModule(Module):
    """A user's class, which is in a package of theirs."""


@dataclass
class Reader:
    name: str

    def __call__(self, item: object) -> object:
        return (self.inputs(item[0]), item[1]) if isinstance(item, tuple) else self.inputs(item)

    def inputs(self, inputs: object) -> object:
        if isinstance(inputs, Mapping):
            return {self.name: self.inputs(inputs[self.name])}
        return inputs.values if isinstance(inputs, Tensor) else inputs


@dataclass
class TensorModel:
    """A tuned model of the toy framework."""

    call: Callable[[object], Any]
    read: BatchReader

    def __call__(self, inputs: object) -> Tensor:
        return Tensor(self.call(self.read.inputs(inputs)))


class ToyFramework:
    name = "numpy"
    converted = 0

    def owns(self, source: object) -> bool:
        return isinstance(source, Module)

    def to_onnx(self, source: Any, example: Example | None) -> tuple[bytes, Sequence[str]]:  # noqa: ARG002
        type(self).converted += 1
        return b"onnx", ("The toy was converted",)

    def gradients(self, source: Any, example: Example | None) -> Gradients | None:  # noqa: ARG002
        return None

    def reader(self, source: Any) -> Reader:
        return Reader(source.model.inputs[0].name)

    def module(self, call: Callable[[object], Any], read: BatchReader) -> TensorModel:
        return TensorModel(call, read)


class Unwrapping(NumpyAdapter):
    """Reads the toy framework's modules themselves."""

    def load(self, source: object, example: Example | None = None) -> NumpyModel:
        return super().load(source.model if isinstance(source, Module) else source, example)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Module.__module__.partition(".")[0]
    monkeypatch.setitem(FRAMEWORKS, package, Registration(module=__name__, attribute="ToyFramework", extra="toy"))
    monkeypatch.setattr("autotune.tuning.tuner.get_adapter", lambda _name: Unwrapping())
    ToyFramework.converted = 0


def tensors(images: Sequence[Array]) -> list[Any]:
    return [(Tensor(batch), None) for batch in images]


def on_tensors(score: Score) -> Score:
    """The score of a user who works with tensors."""

    def evaluate(model: Any) -> float:
        assert isinstance(model, TensorModel)
        return score(lambda batch: model(Tensor(batch)).values)

    return evaluate


def tuner(**options: Any) -> autotune.Tuner:
    return autotune.Tuner(framework="numpy", objective="size", max_trials=2, strategy="basic", **options)


def test_an_object_belongs_to_the_framework_of_its_class_or_of_a_class_above(network: NumpyModel) -> None:
    assert isinstance(source_framework(Module(network)), SourceFramework)
    assert isinstance(source_framework(OwnModule(network)), SourceFramework)
    for other in (network, "model.onnx", b"", None, Tensor(np.zeros(1))):
        assert source_framework(other) is None


def test_a_framework_that_is_not_installed_names_its_extra(
    network: NumpyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Module.__module__.partition(".")[0]
    monkeypatch.setitem(FRAMEWORKS, package, Registration(module="no_such_package", attribute="A", extra="toy"))
    with pytest.raises(MissingDependencyError, match=r"'no_such_package'.*autotune-quantization\[toy\]"):
        source_framework(Module(network))


def test_a_run_takes_tensors_and_gives_them(network: NumpyModel, images: Sequence[Array], score: Score) -> None:
    result = tuner().tune(OwnModule(network), tensors(images), on_tensors(score))
    assert result.best.number > 0
    output = result.module()(Tensor(images[0]))
    assert isinstance(output, Tensor)
    np.testing.assert_array_equal(output.values, result.model(images[0]))
    assert ToyFramework.converted == 0


def test_a_run_of_an_object_finds_what_one_of_the_model_finds(
    network: NumpyModel, images: Sequence[Array], score: Score
) -> None:
    of_object = tuner().tune(Module(network), tensors(images), on_tensors(score))
    of_model = tuner().tune(network, [(batch, None) for batch in images], score)
    assert [trial.config for trial in of_object.history] == [trial.config for trial in of_model.history]


def test_the_module_can_be_pickled(network: NumpyModel, images: Sequence[Array], score: Score) -> None:
    result = tuner().tune(Module(network), tensors(images), on_tensors(score))
    module = result.module()
    before = module(Tensor(images[0])).values  # opened, so that there is something not to be pickled
    again = pickle.loads(pickle.dumps(module))
    np.testing.assert_array_equal(again(Tensor(images[0])).values, before)


def test_other_runtimes_get_onnx_that_is_made_once(network: NumpyModel) -> None:
    source = as_source(Module(network))
    assert source is not None

    class Other(NumpyAdapter):
        name = "other"

    assert isinstance(source_for(NumpyAdapter(), source, None), Module)
    assert ToyFramework.converted == 0
    assert [source_for(Other(), source, None) for _ in range(2)] == [b"onnx", b"onnx"]
    assert ToyFramework.converted == 1
    assert list(source.notes) == ["The toy was converted"]
    assert source_for(Other(), "model.onnx", None) == "model.onnx"


def test_what_the_model_does_not_take_is_left_out_with_a_note(
    network: NumpyModel, images: Sequence[Array], score: Score
) -> None:
    name = network.inputs[0].name
    loader = [({name: Tensor(batch), "labels": Tensor(batch)}, None) for batch in images]
    result = tuner().tune(Module(network), loader, on_tensors(score))
    assert "The model does not take labels of the data loader's batches: left out" in result.notes


def test_batches_that_can_be_read_in_any_order_still_can(network: NumpyModel, images: Sequence[Array]) -> None:
    source = OwnSource(ToyFramework(), Module(network))
    wrapped = source.loader(tensors(images))
    assert isinstance(wrapped, ArraySequence)
    assert len(wrapped) == len(images)
    np.testing.assert_array_equal(wrapped[1][0], images[1])

    class Loader:
        def __iter__(self) -> Iterator[object]:
            return iter(tensors(images))

    again = source.loader(Loader())
    assert isinstance(again, ArrayLoader)
    assert len(list(again)) == len(list(again)) == len(images)


@pytest.mark.parametrize("loader", [iter([1]), 5])
def test_a_loader_that_cannot_be_read_again(network: NumpyModel, loader: Iterable[object], score: Score) -> None:
    with pytest.raises(DataError):
        tuner().tune(Module(network), loader, on_tensors(score))
    with pytest.raises(DataError):
        tuner().tune(Module(network), [1], metric="topk", eval_dataloader=loader)


class ToyConverter:
    """Counts how often it is asked; refuses what is named so."""

    asked = 0

    def to_onnx(self, source: Any, example: Example | None) -> tuple[bytes, Sequence[str]]:
        del example
        ToyConverter.asked += 1
        if source == "refused.toy":
            raise ModelError("an op has no form in ONNX")
        if source == "hanging.toy":
            raise DeadlineReached("toy2onnx had not made an ONNX file when its time was up")
        return f"onnx of {source}".encode(), ["The file was converted"]


@pytest.fixture
def toy_files(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ModelKinds(module=__name__, attribute="ToyConverter", extra="toy", endings=(".toy",))
    monkeypatch.setitem(CONVERTERS, "numpy", kinds)
    ToyConverter.asked = 0


class OtherRuntime(NumpyAdapter):
    name = "other"


@pytest.mark.usefixtures("toy_files")
def test_a_file_goes_to_its_own_framework_as_it_is_and_to_others_as_onnx_made_once() -> None:
    source = as_convertible("model.toy")
    assert isinstance(source, Convertible)
    assert source_for(NumpyAdapter(), source, None) == "model.toy"
    assert ToyConverter.asked == 0
    assert [source_for(OtherRuntime(), source, None) for _ in range(2)] == [b"onnx of model.toy"] * 2
    assert (ToyConverter.asked, list(source.notes)) == (1, ["The file was converted"])


@pytest.mark.usefixtures("toy_files")
def test_what_cannot_be_converted_is_tried_once_and_told_to_every_runtime() -> None:
    source = as_convertible("refused.toy")
    for _ in range(2):
        with pytest.raises(ModelError, match="no form in ONNX"):
            source_for(OtherRuntime(), source, None)
    assert ToyConverter.asked == 1


@pytest.mark.usefixtures("toy_files")
def test_what_no_converter_reads_stays_as_it_is(network: NumpyModel) -> None:
    for model in ("model.onnx", b"onnx", network):
        assert as_convertible(model) is model


@pytest.mark.usefixtures("toy_files")
def test_a_conversion_that_takes_all_the_time_ends_the_run_with_what_to_do(
    images: Sequence[Array], score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.tuning.tuner.get_adapter", lambda _name: OtherRuntime())
    with pytest.raises(ModelError, match=r"within the time given to the run, but toy2onnx.*`--timeout`"):
        tuner(timeout_s=600).tune("hanging.toy", images, score)


@pytest.mark.usefixtures("toy_files")
@pytest.mark.parametrize("file", ["refused.toy", "hanging.toy"])
def test_a_conversion_that_fails_is_told_once_for_all_runtimes(
    file: str, network: NumpyModel, images: Sequence[Array], score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reading(NumpyAdapter):
        def load(self, source: object, example: Example | None = None) -> NumpyModel:
            return super().load(network if source == file else source, example)

    def made(name: str) -> NumpyAdapter:
        adapter = Reading() if name == "numpy" else OtherRuntime()
        adapter.name = name
        return adapter

    monkeypatch.setattr("autotune.tuning.tuner.get_adapter", made)
    run = autotune.Tuner(
        runtimes=("onnxruntime", "numpy", "openvino"), objective="size", max_trials=1, strategy="basic", timeout_s=600
    )
    result = run.tune(file, images, score)
    told = [note for note in result.notes if "left out" in note]
    assert len(told) == 1
    assert told[0].startswith("onnxruntime and openvino are left out: ")
    assert ToyConverter.asked == 1
    assert ("half of the time" in told[0]) == (file == "hanging.toy")
    monkeypatch.setattr("autotune.tuning.tuner.get_adapter", lambda name: made(name) if name != "numpy" else made("x"))
    with pytest.raises(InputError, match=r"onnxruntime, openvino: ") as caught:
        dataclasses.replace(run, runtimes=("onnxruntime", "openvino")).tune(file, images, score)
    assert str(caught.value).count("toy2onnx" if file == "hanging.toy" else "no form in ONNX") == 1
