"""The interpreter that runs a converter, and environments made for converters.

Versions clash: a converter may ask for an older ONNX than the runtimes do. So it runs in a process, with this
interpreter where that has the converter, else with that of an environment in the user's cache folder. Nothing makes
such an environment but the user's own command.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from autotune.atomic import replacing
from autotune.cache import CACHE_VARIABLE, cache_folder
from autotune.conversion.tool import ConverterTool
from autotune.errors import AutotuneError, InputError, MissingDependencyError

_FOLDER = "converters"
_ERROR_LINES = 15
"""Last lines of pip's output that an error shows."""


class InstallationError(AutotuneError):
    """The environment of a converter could not be made."""


def interpreter_of(tool: ConverterTool) -> Path:
    """The interpreter that a converter runs with.

    It is the one that the environment variable :attr:`ConverterTool.variable` names, else that of the environment that
    :func:`install` made, else this one where it has the converter's modules.

    Raises:
        InputError: The environment variable names no file.
        MissingDependencyError: There is none; the message names the command that installs the converter.
    """
    if named := os.environ.get(tool.variable):
        if not Path(named).is_file():
            raise InputError(f"{tool.variable} must name the interpreter of an environment, but {named} is no file")
        return Path(named)
    folder = environment_folder(tool)
    if folder is not None and _python(folder).is_file():
        return _python(folder)
    if all(importlib.util.find_spec(module) is not None for module in tool.modules):
        return Path(sys.executable)
    raise MissingDependencyError(
        f"{tool.title} makes ONNX of {tool.name}'s models and must be installed, but is not. Install it with "
        f"`{tool.command}`, which makes an environment for it, or name the interpreter of one in {tool.variable}"
    )


def install(tool: ConverterTool, tell: Callable[[str], None]) -> Path:
    """Make the environment of a converter, where no interpreter has it yet.

    Args:
        tool: The converter.
        tell: Is told what is done, a line at a time.

    Returns:
        The interpreter.

    Raises:
        InputError: There is no folder to keep it in.
        InstallationError: Python or pip failed; nothing is left behind.
    """
    with contextlib.suppress(MissingDependencyError, InstallationError):
        found = interpreter_of(tool)
        _run(_trial(found, tool), tool)
        tell(f"{tool.title} is there: {found}")
        return found
    folder = environment_folder(tool)
    if folder is None:
        raise InputError(
            f"There must be a folder for the environment, but no home was found. Name one in {CACHE_VARIABLE}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Only an environment that was made to its end takes the final name: it works under another one by its interpreter.
    with replacing(folder, durable=False) as temporary:
        _run([sys.executable, "-m", "venv", str(temporary)], tool)
        for arguments in tool.requirements:
            tell(f"pip install {' '.join(arguments)}")
            _run([str(_python(temporary)), "-m", "pip", "install", "--quiet", *arguments], tool)
        _run(_trial(_python(temporary), tool), tool)
    tell(f"{tool.title} is installed in {folder}")
    return _python(folder)


def environment_folder(tool: ConverterTool) -> Path | None:
    """The folder that the converter's environment is kept in; None where there is no cache folder."""
    cache = cache_folder()
    return None if cache is None else cache / _FOLDER / tool.key


def _trial(python: Path, tool: ConverterTool) -> list[str]:
    """The command that runs a converter's program as far as its imports go."""
    return [str(python), "-c", "import runpy, sys; runpy.run_path(sys.argv[1])", str(tool.program)]


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _run(command: list[str], tool: ConverterTool) -> None:
    environment = environment_of(Path(command[0]), tool)
    done = subprocess.run(  # noqa: S603  interpreters, and requirements that stand in this package
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-_ERROR_LINES:]
        raise InstallationError(
            f"The environment of {tool.title} could not be made. `{' '.join(command)}` failed:\n" + "\n".join(lines)
        )


def environment_of(python: Path, tool: ConverterTool) -> dict[str, str]:
    """The environment variables of a process: another interpreter gets none that add this one's modules to its own."""
    variables = {**os.environ, **tool.variables}
    if python == Path(sys.executable):
        return variables
    return {name: value for name, value in variables.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
