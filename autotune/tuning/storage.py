"""The place where a study is kept: its opening, and what its errors say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from autotune.errors import WorkspaceError

DATABASE = "study.db"


def open_storage(storage: Path | str | None) -> BaseStorage:
    """The Optuna storage of a workspace folder, of a URL, or in memory only."""
    if storage is None:
        return InMemoryStorage()
    if isinstance(storage, Path):
        storage.mkdir(parents=True, exist_ok=True)
        return RDBStorage(f"sqlite:///{storage / DATABASE}")
    return RDBStorage(storage)


@contextmanager
def storage_errors(storage: Path | str | None) -> Iterator[None]:
    """Turn the errors of a storage into ones that name it."""
    try:
        yield
    except (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError, json.JSONDecodeError) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        where = f" {storage}" if storage is not None else ""
        raise WorkspaceError(
            f"The history{where} cannot be read or written ({cause}). "
            "Is the disk full, or the folder read-only? What was measured before is kept"
        ) from error


def require_writable(folder: Path) -> None:
    """See that files can be made in a folder, before hours are spent.

    Raises:
        WorkspaceError: The files cannot be written.
    """
    probe = folder / ".autotune-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise WorkspaceError(
            f"The workspace {folder} must be a folder that can be written, but {error.strerror or error}"
        ) from error
