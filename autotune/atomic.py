"""Files that replace others at once: a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place when the block ends; see :func:`replacing_all`."""
    with replacing_all([path], durable=durable) as (temporary,):
        yield temporary


@contextlib.contextmanager
def replacing_all(paths: Sequence[Path], *, durable: bool = True) -> Iterator[list[Path]]:
    """A temporary path beside each of ``paths``; all take their places when the block ends, in the order given.

    The block writes a file or a folder to every temporary path. Where it raises, or a disk is full, the temporary ones
    are removed, and what was there before stays. Each file is replaced at once, several are not replaced together: put
    the one last that says of the others where they are. A temporary name ends as the final one does, since frameworks
    choose a format by it, and those of one call begin alike, since some name a second file after the first.

    Args:
        paths: Final paths of the files.
        durable: Whether a file is on the disk before it takes its place, so that it survives a loss of power.

    Raises:
        OSError: A file cannot be written or cannot take its place.
    """
    for path in paths:
        _require_replaceable(path)
    mark = f".{uuid.uuid4().hex[:12]}."
    temporaries = [path.with_name(f"{mark}{path.name}") for path in paths]
    try:
        yield temporaries
        if durable:
            for temporary in temporaries:
                _sync(temporary)
        for temporary, path in zip(temporaries, paths, strict=True):
            _replace(temporary, path)
    finally:
        for temporary in temporaries:
            remove(temporary)


def _require_replaceable(path: Path) -> None:
    """See that a path is a name, and not that of a device or a FIFO: root would replace ``/dev/null`` by a file."""
    if path.name in ("", ".."):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "It is a FIFO, a socket or a device", str(path))


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that it holds; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or all files of a folder, are on the disk."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())


def _replace(temporary: Path, path: Path) -> None:
    if not (temporary.is_dir() and path.is_dir()):
        temporary.replace(path)
        return
    # No system replaces a folder that holds something: the old one steps aside for the moment.
    aside = temporary.with_name(f"{temporary.name}.old")
    path.replace(aside)
    try:
        temporary.replace(path)
    except OSError:
        aside.replace(path)
        raise
    shutil.rmtree(aside)
