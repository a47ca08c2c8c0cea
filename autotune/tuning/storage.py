"""The place where a study is kept: its opening, patience with it, and what its errors mean."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from autotune.errors import MissingDependencyError, WorkspaceError
from autotune.notes import counted
from autotune.regular_file import require_regular
from autotune.tuning.bulk import BulkCache, BulkStorage

DATABASE = "study.db"
STUDY_NAME = "autotune"

PATIENCE_S = 30.0
"""Seconds for which a server that is gone, or a lock that another process holds, is waited for."""
_PAUSE_S = (0.1, 1.0)

_JOURNAL, _GRPC, _POSTGRESQL = "journal://", "grpc://", "postgresql"
_DRIVERS = ("psycopg2", "psycopg")

_PASSING = (
    "is locked",
    "connection refused",
    "closed the connection",
    "connection already closed",
    "connection is closed",
    "connection is lost",
    "connection has been closed",
    "could not receive data",
    "could not send data",
    "consuming input failed",
    "broken pipe",
    "timeout expired",
    "no route to host",
    "network is unreachable",
    "accepting connections",  # not yet, of a server that reads its log, or not at all, of one on standby
    "connection slots are reserved",
    "could not connect",
    "terminating connection",
    "is shutting down",
    "is starting up",
    "in recovery mode",
    "too many clients",
    "connection reset",
    "connection timed out",
    "statuscode.unavailable",
    "statuscode.deadline_exceeded",
)
"""Parts of the messages of errors that pass by themselves."""
_RACES = ("already exists", "unique constraint")
"""Parts of those where two processes create the same tables, or rows of them."""

_GONE = "its file or folder is gone"

_MEANINGS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("disk is full", "no space left", "disk full", "quota"), "the disk is full", "Free some space"),
    (("readonly", "read-only", "permission denied"), "it may not be written", "See who may write there"),
    (("is locked",), "another process has locked it", "See which, and end it"),
    (
        ("password", "no pg_hba.conf entry", "authentication"),
        "the server refuses the user or the password",
        "Give the password in PGPASSWORD or ~/.pgpass",
    ),
    (
        ("does not exist", "unknown database"),
        "the server has no such database, user or table",
        "Create it, or correct the URL",
    ),
    (
        ("not a database", "malformed", "corrupt", "expecting value", "extra data", "unterminated", "recursion depth"),
        "it is damaged, or no history",
        "Choose another workspace, or delete that one",
    ),
    (
        ("compatible with the table schema", "can't locate revision", "no such column"),
        "another version of Optuna wrote it",
        "Use that version, or choose another workspace",
    ),
    (
        (*_PASSING, "could not translate host name", "name or service not known"),
        "the server does not answer",
        "See that it runs, and that the URL is right",
    ),
    (("unable to open", "disk i/o error", "no such file"), _GONE, "Nothing of it is left there"),
    (("is a directory",), "it is a folder", "Name a file in it"),
)
"""Parts of messages, their meaning, and the way out."""


def is_shared(storage: Path | str | None) -> bool:
    """Whether other machines may use a storage too."""
    return isinstance(storage, str) and not storage.startswith("sqlite")


def open_storage(storage: Path | str | None) -> BaseStorage:
    """The Optuna storage of a workspace folder, of a URL, or in memory only.

    URLs are those of SQLAlchemy (``sqlite:///FILE``, ``postgresql://USER@HOST/DATABASE``), ``journal://FILE`` for
    Optuna's journal and ``grpc://HOST:PORT`` for its proxy.

    Raises:
        WorkspaceError: The URL is none, or holds a password.
        MissingDependencyError: The driver of this database is not installed.
    """
    if storage is None:
        return InMemoryStorage()
    if isinstance(storage, Path):
        storage.mkdir(parents=True, exist_ok=True)
        return _patient(lambda: BulkStorage(f"sqlite:///{storage / DATABASE}"))
    if storage.startswith(_JOURNAL):
        journal = storage.removeprefix(_JOURNAL)
        require_regular(Path(journal), "A journal", WorkspaceError)
        return _patient(lambda: JournalStorage(JournalFileBackend(journal)))
    if storage.startswith(_GRPC):
        return _patient(lambda: _proxy(storage))
    url = _checked_url(storage).render_as_string(hide_password=False)
    options = {} if storage.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return _patient(lambda: BulkStorage(url, engine_kwargs=options))
    except ImportError as error:
        raise MissingDependencyError(
            f"The storage {name_of(storage)} needs a driver that is not installed: {error.__cause__ or error}. Install "
            "it, or use PostgreSQL: `pip install 'autotune-quantization[postgresql]'`"
        ) from error


def _proxy(storage: str) -> BaseStorage:
    if importlib.util.find_spec("grpc") is None:
        raise MissingDependencyError("A storage behind grpc:// needs gRPC. Install it: `pip install grpcio protobuf`")
    address = urlsplit(storage)
    if address.hostname is None or address.port is None:
        raise WorkspaceError(f"A storage behind Optuna's proxy must be grpc://HOST:PORT, but got {storage}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return GrpcStorageProxy(host=address.hostname, port=address.port)


def _checked_url(storage: str) -> URL:
    try:
        url = make_url(storage)
        url.get_driver_name()
    except (ArgumentError, ValueError, SQLAlchemyError):
        raise WorkspaceError(
            "`storage` must be a URL such as postgresql://USER@HOST/DATABASE, sqlite:///FILE, journal://FILE or "
            "grpc://HOST:PORT, and SQLAlchemy does not know the one that was given"
        ) from None
    if not url.drivername.startswith(_POSTGRESQL):
        return url
    if url.password is not None:
        raise WorkspaceError(
            f"The URL of a storage must hold no password, since files, logs and lists of processes show it: got "
            f"{name_of(storage)}. Leave it out, and give it in the environment (PGPASSWORD) or in ~/.pgpass"
        )
    # Which driver SQLAlchemy takes for a plain URL depends on its version: take one that is there.
    _, _, named = url.drivername.partition("+")
    drivers = (named,) if named else _DRIVERS
    driver = next((each for each in drivers if importlib.util.find_spec(each) is not None), None)
    if driver is None:
        raise MissingDependencyError(
            f"The storage {name_of(storage)} needs {drivers[0]}. Install it: "
            "`pip install 'autotune-quantization[postgresql]'`"
        )
    return url.set(drivername=f"{_POSTGRESQL}+{driver}")


def name_of(storage: Path | str | None) -> str:
    """A storage in words, without a password."""
    if storage is None:
        return "in memory"
    if isinstance(storage, Path) or "@" not in storage:
        return str(storage)
    try:
        return make_url(storage).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "in a URL that is none"


def _patient(make: Callable[[], BaseStorage]) -> BaseStorage:
    """A storage that waits for its server or its lock; opening it does so too."""
    made = _patiently(make, opening=True)
    storage: BaseStorage = _Patient()
    storage._made = made  # type: ignore[attr-defined]
    storage._inner = BulkCache(made) if isinstance(made, BulkStorage) else made  # type: ignore[attr-defined]  # its methods, made below, read it
    return storage


def running_trials(study: Study) -> Sequence[FrozenTrial]:
    """The running trials of a study; a database is not asked for the others."""
    made = getattr(study._storage, "_made", None)
    if isinstance(made, BulkStorage):
        found: Sequence[FrozenTrial] = _patiently(lambda: made.running(study._study_id))
        return found
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def open_study(storage: Path | str | None, *, multi_objective: bool) -> Study:
    """The study of a history; made where there is none.

    Raises:
        WorkspaceError: It has another number of objectives.
    """
    directions = [optuna.study.StudyDirection.MINIMIZE] * (3 if multi_objective else 1)
    study = optuna.create_study(
        storage=open_storage(storage), study_name=STUDY_NAME, directions=directions, load_if_exists=True
    )
    if len(study.directions) != len(directions):
        raise WorkspaceError(
            f"{name_of(storage)} holds a study of {counted(len(study.directions), 'objective')}, but this strategy "
            f"needs {len(directions)}. Choose another workspace"
        )
    return study


def add_trials(study: Study, trials: Sequence[FrozenTrial]) -> None:
    """Append trials that have ended to a study that no other process writes to; a database gets them all at once."""
    made = getattr(study._storage, "_made", None)
    if isinstance(made, BulkStorage):
        _patiently(lambda: made.add_trials(study._study_id, trials))
    else:
        study.add_trials(trials)


def remove_study(name: str, storage: BaseStorage) -> None:
    """Remove a study that no other process works on; a database removes its trials all at once."""
    made = getattr(storage, "_made", None)
    if isinstance(made, BulkStorage):
        study_id = storage.get_study_id_from_name(name)
        _patiently(lambda: made.remove_trials(study_id))
    optuna.delete_study(study_name=name, storage=storage)


def _patiently(action: Callable[[], Any], *, opening: bool = False) -> Any:
    """Repeat what fails in a way that passes, for :data:`PATIENCE_S`."""
    begun, pause_s = time.monotonic(), _PAUSE_S[0]
    while True:
        try:
            return action()
        except Exception as error:
            text = _text_of(error)
            passes = any(each in text for each in _PASSING) or (opening and any(each in text for each in _RACES))
            if not passes or time.monotonic() - begun > PATIENCE_S:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_S[1])


def _waiting(name: str) -> Callable[..., Any]:
    """A method that hands a call on to the storage and is patient with it."""

    def call(self: Any, *args: Any, **options: Any) -> Any:
        attempts = [0]

        def attempt() -> Any:
            attempts[0] += 1
            try:
                return getattr(self._inner, name)(*args, **options)
            except optuna.exceptions.UpdateFinishedTrialError:
                # The answer alone may have been lost: the trial ended as it was told to.
                if attempts[0] > 1 and name == "set_trial_state_values":
                    trial_id, state = args[0], options.get("state", args[1] if len(args) > 1 else None)
                    if self._inner.get_trial(trial_id).state == state:
                        return True
                raise

        return _patiently(attempt)

    return call


_METHODS = {
    name: _waiting(name) for name, member in vars(BaseStorage).items() if callable(member) and not name.startswith("_")
}
_Patient: Any = type("_Patient", (BaseStorage,), _METHODS)
"""A storage that hands every call on to another one, and is patient with it."""


@contextmanager
def storage_errors(storage: Path | str | None) -> Iterator[None]:
    """Turn the errors of a storage into ones that name it, what is the matter with it, and what to do.

    Raises:
        WorkspaceError: The storage failed.
    """
    try:
        yield
    except (WorkspaceError, MissingDependencyError, optuna.exceptions.UpdateFinishedTrialError):
        raise
    except Exception as error:
        text = _text_of(error)
        found = next(((what, way) for words, what, way in _MEANINGS if any(word in text for word in words)), None)
        if found is None and not isinstance(error, _KINDS) and "grpc" not in type(error).__module__:
            raise
        if _was_removed(storage, text):
            raise WorkspaceError(
                f"The history {name_of(storage)} was removed while it was in use ({_first_line(error)}), and what was "
                "measured is lost with it. Leave the workspace in place; the same command begins anew"
            ) from error
        what, way = found or ("it failed", "What its own message says may help")
        where = f" {name_of(storage)}" if storage is not None else ""
        raise WorkspaceError(
            f"The history{where} cannot be read or written: {what} ({_first_line(error)}). {way}. "
            f"{_kept(storage, what)}the same command continues"
        ) from error


_KINDS = (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError, json.JSONDecodeError, RecursionError)


def _was_removed(storage: Path | str | None, text: str) -> bool:
    """Whether a database is gone of which an error speaks that no missing one causes when it is opened."""
    gone = isinstance(storage, Path) and not (storage / DATABASE).exists()
    return gone and any(words in text for words in ("readonly", "disk i/o error", "no such table"))


def _kept(storage: Path | str | None, what: str) -> str:
    gone = not (storage / DATABASE).exists() if isinstance(storage, Path) else what == _GONE
    return "After that, " if gone else "What was measured before is kept; after that, "


def _text_of(error: BaseException) -> str:
    """All that an error and its causes say, in lower case."""
    texts, at = [], error
    seen: set[int] = set()
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        texts.append(f"{type(at).__name__} {at}")
        at = at.__cause__ or at.__context__  # type: ignore[assignment]
    return "\n".join(texts).lower()


def _first_line(error: BaseException) -> str:
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def forget(storage: Path | str) -> None:
    """Remove a history, so that a run begins anew in its place; nothing where there is none.

    Raises:
        WorkspaceError: The storage cannot be used.
    """
    if isinstance(storage, Path):
        # Also where it cannot be read: damaged, or of another version.
        with storage_errors(storage):
            for file in (DATABASE, *(f"{DATABASE}-{kind}" for kind in ("journal", "wal", "shm"))):
                (storage / file).unlink(missing_ok=True)
        return
    with storage_errors(storage), contextlib.suppress(KeyError):
        optuna.delete_study(study_name=STUDY_NAME, storage=open_storage(storage))


def require_writable(folder: Path) -> None:
    """See that files can be made in a folder, before hours are spent.

    Raises:
        WorkspaceError: The files cannot be written.
    """
    probe = folder / ".autotune-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"x")
        finally:  # on a full disk it is there too, and empty
            probe.unlink(missing_ok=True)  # that of another run was the same file
    except OSError as error:
        raise WorkspaceError(
            f"The workspace {folder} must be a folder that can be written, but {error.strerror or error}"
        ) from error
