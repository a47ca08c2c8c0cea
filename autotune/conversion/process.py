"""One conversion: a converter in a process, and what it left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotune.adapter import Array, Example
from autotune.conversion.environment import environment_of, interpreter_of
from autotune.conversion.tool import ConverterTool
from autotune.errors import DataError, DeadlineReached, MissingDependencyError, ModelError
from autotune.owned_folder import OwnedFolder

_PROGRAM = Path(__file__).with_name("program.py")
_MESSAGE_LINES = 3
"""Lines of a converter's message that an error shows."""
_DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """An ONNX file as a converter made it.

    Attributes:
        onnx: The file.
        inputs: Names of the inputs, in the order in which the framework has them.
        outputs: Names of the outputs, in the same way.
        feeds: The first batch by the names of inputs; None without data.
        expected: The framework's own outputs for it; None without data.
        notes: Notes for the user, a line each.
    """

    onnx: bytes
    inputs: Sequence[str]
    outputs: Sequence[str]
    feeds: Mapping[str, Array] | None
    expected: Sequence[Array] | None
    notes: Sequence[str]


@contextlib.contextmanager
def until(deadline: float | None) -> Iterator[None]:
    """Convert no longer than this inside of the ``with`` block, where converters are called that know no deadline.

    Args:
        deadline: A ``time.monotonic()`` value; None where there is no limit.
    """
    token = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def convert(
    tool: ConverterTool, request: Callable[[Path], Mapping[str, Any]], example: Example | None, what: str
) -> Converted:
    """Convert a model, and run it once in its own framework.

    Args:
        tool: The converter.
        request: Gives what the converter's program is asked, for a temporary folder that it may write files to.
        example: The first batches of the user's data; without them nothing is run.
        what: The model in the words of an error, such as its path.

    Raises:
        MissingDependencyError: The converter is not installed.
        ModelError: The model cannot be converted.
        DataError: The model does not take the first batch.
        DeadlineReached: The converter was not done in the time that :func:`until` gives it, and was ended.
    """
    python = interpreter_of(tool)
    with OwnedFolder() as name:
        folder = Path(name)
        asked = request(folder)
        (folder / "request.json").write_text(json.dumps(asked), encoding="utf-8")
        _write_example(folder, example)
        _run(python, tool, folder, what)
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        inputs = answer["inputs"]
        ran = (folder / "outputs.npz").is_file()
        return Converted(
            onnx=(folder / "model.onnx").read_bytes(),
            inputs=inputs,
            outputs=answer["outputs"],
            feeds=dict(zip(inputs, _arrays(folder / "feeds.npz"), strict=True)) if ran else None,
            expected=_arrays(folder / "outputs.npz") if ran else None,
            notes=answer["notes"],
        )


def _write_example(folder: Path, example: Example | None) -> None:
    """Write the first batch in both ways in which it can be read; the process knows how many inputs there are."""
    if example is None:
        return
    for file, inputs in (("one", 1), ("more", 2)):
        arrays = example.arrays(inputs)
        names = list(arrays) if isinstance(arrays, Mapping) else None
        values = list(arrays.values()) if isinstance(arrays, Mapping) else arrays
        # Numbered, since not every name of an input can be the name of a keyword.
        numbered: Any = {f"_{place}": each for place, each in enumerate(values)}
        np.savez(folder / f"{file}.npz", **numbered)
        (folder / f"{file}.json").write_text(json.dumps(names), encoding="utf-8")


def _arrays(path: Path) -> Sequence[Array]:
    with np.load(path, allow_pickle=False) as archive:
        return [archive[f"_{place}"] for place in range(len(archive.files))]


def _run(python: Path, tool: ConverterTool, folder: Path, what: str) -> None:
    command = [str(python), str(_PROGRAM), str(tool.program), str(folder)]
    # Output goes into a file: what a converter starts may hold a pipe open after its end.
    with (folder / "said.txt").open("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(  # noqa: S603  the interpreter is the user's own
            command,
            env=environment_of(python, tool),
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,  # a group of its own, so that what it starts can be ended with it
        )
        status = _ended(process, tool, what)
        failure = folder / "error.json"
        if failure.is_file():
            raise _error(json.loads(failure.read_text(encoding="utf-8")), python, tool, what)
        if status:
            said.seek(0)
            raise ModelError(
                f"{tool.title} must make an ONNX file of {what}, but its process ended with {_status(status)}: "
                f"{_last_line(said.read())}. Convert the model by hand, and tune the .onnx file"
            )


def _ended(process: subprocess.Popen[bytes], tool: ConverterTool, what: str) -> int:
    """Wait for a converter; whatever ends the waiting ends it too.

    Raises:
        DeadlineReached: Its time was up.
    """
    deadline = _DEADLINE.get()
    try:
        return process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise DeadlineReached(f"{tool.title} had not made an ONNX file of {what} when its time was up") from None
    finally:
        if process.poll() is None:
            _kill(process)
        if process.stdin is not None:
            process.stdin.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a converter and all that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _error(failure: Mapping[str, str], python: Path, tool: ConverterTool, what: str) -> Exception:
    message = " ".join(line.strip() for line in failure["message"].strip().splitlines()[:_MESSAGE_LINES]).rstrip(". ")
    if failure["kind"] == "import":
        return MissingDependencyError(
            f"{tool.title} must be importable by {python}, but: {message}. Install it with `{tool.command}`, which "
            f"makes an environment for it, or name the interpreter of one in {tool.variable}"
        )
    if failure["kind"] == "data":
        return DataError(f"The first batch of the data loader must be one that {what} reads, but {message}")
    return ModelError(
        f"{what} must consist of ops that {tool.title} converts to ONNX, which this runtime reads, but it says: "
        f"{message}. Replace the op, or tune the model with `framework: {tool.name}`"
    )


def _status(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"
