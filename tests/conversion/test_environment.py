"""The interpreter of a converter, and the environment that only a command makes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from autotune.conversion import ConverterTool, convert, install, interpreter_of
from autotune.conversion.environment import InstallationError, environment_folder
from autotune.errors import InputError, MissingDependencyError


def lacking(tool: ConverterTool) -> ConverterTool:
    return dataclasses.replace(tool, modules=("no_such_module_anywhere",))


def made(tool: ConverterTool) -> Path:
    folder = environment_folder(tool)
    assert folder is not None
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return python


def test_this_interpreter_runs_it_where_it_has_the_modules(tool: ConverterTool) -> None:
    assert interpreter_of(tool) == Path(sys.executable)


def test_the_environment_that_the_user_made_comes_before_this_interpreter(tool: ConverterTool) -> None:
    python = made(tool)
    assert interpreter_of(tool) == python
    assert interpreter_of(lacking(tool)) == python


def test_the_variable_comes_first(tool: ConverterTool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made(tool)
    named = tmp_path / "python"
    named.symlink_to(sys.executable)
    monkeypatch.setenv("AUTOTUNE_CONVERTER_TOY", str(named))
    assert interpreter_of(tool) == named
    monkeypatch.setenv("AUTOTUNE_CONVERTER_TOY", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"AUTOTUNE_CONVERTER_TOY.*is no file"):
        interpreter_of(tool)


def test_where_it_is_missing_the_command_is_named_and_nothing_is_installed(tool: ConverterTool) -> None:
    with pytest.raises(MissingDependencyError, match=r"`autotune converter install toy`.*AUTOTUNE_CONVERTER_TOY"):
        convert(lacking(tool), lambda _: {}, None, "model.toy")
    folder = environment_folder(tool)
    assert folder is not None
    assert not folder.parent.exists()


def test_other_requirements_have_another_environment(tool: ConverterTool) -> None:
    newer = dataclasses.replace(tool, requirements=(("no-such-package==1",),))
    assert environment_folder(newer) != environment_folder(tool)


def test_what_is_there_is_not_installed_again(tool: ConverterTool) -> None:
    told: list[str] = []
    assert install(tool, told.append) == Path(sys.executable)
    assert told == [f"toy2onnx is there: {sys.executable}"]


def test_a_failed_installation_says_what_pip_said_and_leaves_nothing(tool: ConverterTool, tmp_path: Path) -> None:
    wanted = dataclasses.replace(lacking(tool), requirements=(("--no-index", str(tmp_path / "missing.whl")),))
    with pytest.raises(InstallationError, match=r"toy2onnx could not be made.*(?s:.*)missing\.whl"):
        install(wanted, lambda _: None)
    folder = environment_folder(wanted)
    assert folder is not None
    assert list(folder.parent.iterdir()) == []


def test_an_environment_that_cannot_import_the_converter_is_none(tool: ConverterTool) -> None:
    tool.program.write_text("import no_such_module_anywhere")
    empty = dataclasses.replace(lacking(tool), requirements=())
    with pytest.raises(InstallationError, match="no_such_module_anywhere"):
        install(empty, lambda _: None)
    with pytest.raises(MissingDependencyError):
        interpreter_of(empty)
