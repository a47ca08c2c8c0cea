from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from autotune.adapters import ADAPTERS, Registration, adapter_names, get_adapter
from autotune.errors import InputError, MissingDependencyError


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
