"""A model on a CPU that is not here: an emulator runs this very interpreter and framework as that CPU would.

QEMU's user mode (Debian's package ``qemu-user``) executes the instructions of a CPU model by its name; what asks the
CPU which instructions it has, as ONNX Runtime does, takes the kernels that it takes there. It is some ten times slower.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.adapter import Array, Execution, Feeds, host_of
from autotune.adapters import get_adapter
from autotune.errors import ApplyError, InputError
from autotune.host import Host, current_host
from autotune.owned_folder import OwnedFolder
from autotune.suggestion import suggestion

EMULATORS = ("qemu-x86_64", "qemu-x86_64-static")
"""Programs that emulate x86 in user mode, the first that is installed is taken."""

ADVICE = "install QEMU's user mode (`apt install qemu-user` on Debian and Ubuntu), which brings qemu-x86_64"
"""How to install an emulator."""

_REQUEST, _ANSWER = "request.pickle", "answer.pickle"
_CPU_LINE = re.compile(r"^(?:x86\s+)?([\w.-]+)(?:\s+\(?[A-Z(].*)?$")
_WARNING = re.compile(r"warning: TCG doesn't support requested feature: \S*?\.(avx512[\w-]*)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class EmulatedRun:
    """The outputs of a model on an emulated CPU.

    Attributes:
        host: The emulated CPU as :func:`~autotune.adapter.host_of` sees it from inside.
        outputs: Outputs of each batch, in graph order.
        without_avx512: Whether the CPU has AVX-512 and the emulator left it out, VNNI with it.
    """

    host: Host
    outputs: tuple[tuple[Array, ...], ...]
    without_avx512: bool


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """A program that runs this interpreter as another CPU.

    Attributes:
        program: Path of the program.
        cpus: The CPU models that it knows.
    """

    program: str
    cpus: tuple[str, ...]

    def require(self, cpu: str) -> None:
        """See that the emulator knows a CPU.

        Raises:
            InputError: It does not; the message names those that it knows.
        """
        if cpu not in self.cpus:
            raise InputError(
                f"A CPU must be one that {Path(self.program).name} knows, but got {cpu!r}{suggestion(cpu, self.cpus)}. "
                f"It knows {', '.join(self.cpus)}"
            )

    def run(
        self,
        model: Path,
        framework: str,
        batches: Sequence[Feeds],
        cpu: str,
        *,
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> EmulatedRun:
        """Run a model on every batch as a CPU would.

        Args:
            model: File of the model.
            framework: The name of the adapter that reads it.
            batches: Inputs by name.
            cpu: Name of one of :attr:`cpus`.
            on_progress: Called with the number of batches that are done.

        Raises:
            InputError: The emulator does not know the CPU.
            ApplyError: The interpreter or the framework does not run on it.
        """
        self.require(cpu)
        with OwnedFolder() as folder:
            request = {"model": str(model.absolute()), "framework": framework, "batches": list(map(dict, batches))}
            Path(folder, _REQUEST).write_bytes(pickle.dumps(request))
            command = [self.program, "-cpu", cpu, sys.executable, "-m", "autotune.emulation", folder]
            errors = self._watch(command, Path(folder), cpu, on_progress)
            answer = pickle.loads(Path(folder, _ANSWER).read_bytes())  # noqa: S301  our own, in a folder of ours
        return EmulatedRun(
            host=answer["host"],
            outputs=tuple(map(tuple, answer["outputs"])),
            without_avx512=_WARNING.search(errors) is not None,
        )

    def _watch(self, command: Sequence[str], folder: Path, cpu: str, on_progress: Callable[[int], None]) -> str:
        """Run the command to its end, and return what it wrote to stderr."""
        package = str(Path(__file__).resolve().parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        with (folder / "errors").open("w+b") as stream:
            process = subprocess.Popen(  # noqa: S603  a program of the system's, the CPU is one that it listed
                command,
                stdout=subprocess.PIPE,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                text=True,
            )
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.strip().isdecimal():
                        on_progress(int(line))
            stream.seek(0)
            errors = stream.read().decode(errors="replace")
        if process.returncode:
            raise ApplyError(_failure(cpu, process.returncode, errors))
        return errors


def find_emulator() -> Emulator | None:
    """The emulator of x86 CPUs; None where there is none, or where this interpreter is not one for x86 on Linux."""
    if sys.platform != "linux" or current_host().architecture != "x86_64":
        return None
    program = next(filter(None, map(shutil.which, EMULATORS)), None)
    if program is None:
        return None
    command = [program, "-cpu", "help"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603  constant
    return Emulator(program=program, cpus=_cpus(listed))


def _cpus(listed: str) -> tuple[str, ...]:
    """The names in what ``-cpu help`` prints, which ends in a list of features."""
    lines = (line.strip() for line in listed.partition("Recognized CPUID flags")[0].splitlines())
    names = (match[1] for line in lines if line and not line.endswith(":") and (match := _CPU_LINE.match(line)))
    return tuple(dict.fromkeys(names))


def _failure(cpu: str, status: int, errors: str) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        reason = f"died of {name}"
        if -status == signal.SIGILL:
            reason += ": this Python, or a library that it loads, needs instructions that the CPU lacks"
    else:
        lines = [line for line in errors.splitlines() if line.strip() and "warning: TCG" not in line]
        reason = lines[-1] if lines else f"ended with status {status}"
    return f"The model must run on an emulated {cpu}, but {reason}. Name a newer CPU, or another model"


def _answer(folder: Path) -> None:
    """Run the model of a request inside of the emulator, and write its outputs."""
    request: dict[str, Any] = pickle.loads((folder / _REQUEST).read_bytes())  # noqa: S301  likewise
    adapter = get_adapter(request["framework"])
    runner = adapter.runner(adapter.load(Path(request["model"])), Execution())
    outputs = []
    for index, feeds in enumerate(request["batches"]):
        outputs.append(tuple(runner(feeds)))
        print(index + 1, flush=True)  # noqa: T201  how the other process learns of it
    (folder / _ANSWER).write_bytes(pickle.dumps({"host": host_of(adapter), "outputs": outputs}))


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
