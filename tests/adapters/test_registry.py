from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.adapters import ADAPTERS, Registration, adapter_names, converter_name, get_adapter, get_converter
from autotune.errors import InputError, MissingDependencyError, ModelError


def test_known_names() -> None:
    assert adapter_names()[0] == "onnxruntime"
    assert get_adapter("onnxruntime").name == "onnxruntime"


def test_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(InputError, match=r"onnxruntime.*'onnxrutime'.*Did you mean 'onnxruntime'\?"):
        get_adapter("onnxrutime")


def test_missing_framework_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        ADAPTERS, "imaginary", Registration(module="imaginary_framework.adapter", attribute="A", extra="imaginary")
    )
    with pytest.raises(
        MissingDependencyError, match=r"'imaginary_framework'.*pip install 'autotune-quantization\[imaginary\]'"
    ):
        get_adapter("imaginary")


def test_openvino_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if f"{name}.".startswith(("openvino.", "autotune.adapters.openvino."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"'openvino'.*pip install 'autotune-quantization\[openvino\]'"):
        get_adapter("openvino")


def test_a_bug_in_an_adapter_is_not_taken_for_a_missing_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ADAPTERS, "broken", Registration(module="autotune.adapters.no_such_module", attribute="A"))
    with pytest.raises(ModuleNotFoundError):
        get_adapter("broken")


def test_third_parties_come_in_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint(
        name="third", value="tests.adapters.test_registry:ThirdParty", group="autotune.adapters"
    )
    missing = importlib.metadata.EntryPoint(name="absent", value="absent_package:A", group="autotune.adapters")
    points = importlib.metadata.EntryPoints([point, missing])
    monkeypatch.setattr(importlib.metadata, "entry_points", points.select)
    assert get_adapter("third").name == "third"
    assert adapter_names() == (*ADAPTERS, "absent", "third")
    with pytest.raises(MissingDependencyError, match="absent_package"):
        get_adapter("absent")


def test_no_framework_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, autotune.adapters; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class ThirdParty:
    name = "third"


@pytest.mark.parametrize(
    ("files", "path", "name"),
    [
        (["m.tflite"], "m.tflite", "tensorflow"),
        (["m.keras"], "m.keras", "tensorflow"),
        (["m/saved_model.pb"], "m", "tensorflow"),
        (["m.pdmodel"], "m.pdmodel", "paddle"),
        (["m.pdmodel"], "m", "paddle"),
        (["m.json", "m.pdiparams"], "m.json", "paddle"),
        (["m-symbol.json"], "m-symbol.json", "mxnet"),
        (["m-symbol.json"], "m", "mxnet"),
        (["m.onnx"], "m.onnx", None),
        (["m.xml", "m.bin"], "m.xml", None),
        (["m.json"], "m.json", None),
        ([], "m", None),
    ],
)
def test_a_model_is_told_by_its_files(tmp_path: Path, files: list[str], path: str, name: str | None) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert converter_name(tmp_path / path) == name
    assert converter_name(str(tmp_path / path)) == name


def test_an_object_that_no_converter_reads_is_nobodys() -> None:
    assert converter_name(b"onnx") is None
    assert converter_name(None) is None


def test_an_unknown_converter_names_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'paddle'"):
        get_converter("padle")


def test_a_class_in_place_of_a_model_says_to_make_an_object() -> None:
    class Stranger:
        pass

    with pytest.raises(ModelError, match=r"the class Stranger: give an object of it"):
        get_adapter("onnxruntime").load(Stranger)
