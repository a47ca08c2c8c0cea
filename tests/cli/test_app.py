"""Attribution of an error to ours or the user's code."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from autotune.cli.app import _is_users, main
from autotune.cli.commands import COMMANDS, command_function
from autotune.cli.exit_status import ExitStatus


@pytest.mark.parametrize(
    "filename",
    [
        "<frozen importlib._bootstrap>",
        os.__file__,
        f"{sysconfig.get_path('purelib')}/typer/main.py",
        "/opt/another/venv/lib/python3.11/site-packages/typer/main.py",
        "/usr/lib/python3/dist-packages/typer/main.py",
        "/home/me/.local/lib/python3.11/site-packages/click/core.py",
    ],
)
def test_installed_code_is_not_the_users(filename: str) -> None:
    assert not _is_users(filename)


@pytest.mark.parametrize("folder", ["/home/me/project", f"{sysconfig.get_path('stdlib')}-of-mine", "."])
def test_other_code_is_the_users(folder: str) -> None:
    assert _is_users(str(Path(folder) / "eval.py"))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_is_that_of_its_function(name: str) -> None:
    """Help lists commands without importing them, so that it has their summaries from a table."""
    found = command_function(name)
    described = found.info.help if isinstance(found, typer.Typer) else inspect.getdoc(found)
    summary = (described or "").partition("\n\n")[0]
    assert COMMANDS[name] == " ".join(summary.split())


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["autotune", "--version"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == ExitStatus.MET
    assert capsys.readouterr().out.split() == ["autotune", version("autotune-quantization")]


def test_ctrl_c_while_a_command_is_imported_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autotune.cli.commands.command_function", interrupted)
    monkeypatch.setattr("sys.argv", ["autotune", "schema"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == ExitStatus.INTERRUPTED
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("words", "found"), [("autotune expl", "explain"), ("autotune run --max-t", "--max-trials")])
def test_the_shell_completes_commands_and_their_options(words: str, found: str) -> None:
    environment = {
        **os.environ,
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_AUTOTUNE_COMPLETE": "complete_bash",
    }
    program = "import sys; from autotune.cli import main; sys.argv = ['autotune']; main()"
    call = [sys.executable, "-c", program]
    completed = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert completed.stdout.split() == [found], completed.stderr
