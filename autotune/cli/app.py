"""The commands by name, and the messages of their errors."""

from __future__ import annotations

import errno
import sys
import sysconfig
import traceback
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from autotune.cli.commands import LazyCommands, add_commands
from autotune.cli.exit_status import ExitStatus
from autotune.cli.streams import open_closed_streams, write_any_text
from autotune.errors import AutotuneError, InputError

_EPILOG = (
    "Exit status: 0 target met, 1 a failure of the run, 2 bad input, 3 finished but the target was missed, or target "
    "or speed are undecided, 4 target met, but the config that the run started from is not confirmed, "
    "130 ended by Ctrl-C."
)

_INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Names of folders that hold installed packages."""

_OF_PATHS = frozenset(
    {errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EROFS}
)
"""Errors of the system that speak of a path which the user gave."""

app = typer.Typer(
    name="autotune",
    cls=LazyCommands,
    help="Find the fastest quantized model whose accuracy loss stays under a target, on this machine.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
add_commands(app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"autotune {version('autotune-quantization')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line and end the process with its exit status."""
    open_closed_streams()
    write_any_text()
    try:
        app()
    except KeyboardInterrupt:  # while modules are imported: what takes longer says by itself what is kept
        Console(stderr=True).print("Interrupted.")
        sys.exit(ExitStatus.INTERRUPTED)
    except AutotuneError as error:
        Console(stderr=True).print(
            Text("Error: ", style="bold red") + Text(str(error), style="default"), soft_wrap=True
        )
        sys.exit(ExitStatus.BAD_INPUT if isinstance(error, InputError) else ExitStatus.FAILED)
    except OSError as error:
        if _users_frames(error.__traceback__) is not None or error.errno not in _OF_PATHS:
            traceback.print_exception(type(error), error, _from_users_code(error.__traceback__))
            sys.exit(ExitStatus.FAILED)
        named = "" if error.filename is None else f": {str(error.filename)[:200]}"
        Console(stderr=True).print(
            Text("Error: ", style="bold red")
            + Text(f"A path must be one that this system can use, but: {error.strerror}{named}", style="default"),
            soft_wrap=True,
        )
        sys.exit(ExitStatus.BAD_INPUT)
    except Exception as error:
        traceback.print_exception(type(error), error, _from_users_code(error.__traceback__))
        sys.exit(ExitStatus.FAILED)
    sys.exit(ExitStatus.MET)


def _from_users_code(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from where the user's own code begins; all of it where no such code took part.

    Our frames above a user's function say nothing about what is wrong in it.
    """
    users = _users_frames(frames)
    return frames if users is None else users


def _users_frames(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from where the user's own code begins; None where no such code took part."""
    ours_seen, at = False, frames
    while at is not None:
        ours = str(at.tb_frame.f_globals.get("__name__")).partition(".")[0] == "autotune"
        if ours_seen and not ours and _is_users(at.tb_frame.f_code.co_filename):
            return at
        # The script that pip makes to start the command is no code of the user's either: ours comes first.
        ours_seen = ours_seen or ours
        at = at.tb_next
    return None


def _is_users(filename: str) -> bool:
    """Whether a source file is neither Python's own nor that of an installed package.

    Packages may lie outside of this interpreter's own folders: a virtual environment that sees those of another one,
    Debian's ``dist-packages``, a user's site.
    """
    if filename.startswith("<"):
        return False
    path = Path(filename)
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return _INSTALLED.isdisjoint(path.parts) and not any(path.is_relative_to(place) for place in places)
