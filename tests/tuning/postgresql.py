"""A PostgreSQL server of a test's own, on loopback, with a password that is in the environment alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "hush-hush"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that can be stopped and started.

    Attributes:
        url: Its URL, without the password.
        data: Folder of its data.
        port: Port on loopback.
    """

    url: str
    data: Path
    port: int

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.data}"
        _as_postgres("pg_ctl", "-D", self.data, "-w", "-l", self.data / "log", "-o", options, "start")

    def stop(self) -> None:
        _as_postgres("pg_ctl", "-D", self.data, "-m", "immediate", "stop")


@contextlib.contextmanager
def postgresql(_folder: Path) -> Iterator[Server]:
    """Start a server; skipped by name where Debian's package is not installed."""
    pytest.importorskip("psycopg2")
    if _programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # Not below the test's folder, which belongs to root: the server runs as another user.
    data = Path(tempfile.mkdtemp(prefix="postgresql-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(url=f"postgresql://tuner@127.0.0.1:{port}/postgres", data=data, port=port)
    secret = data / "password"
    secret.write_text(PASSWORD)
    if os.getuid() == 0:
        for path in (data, secret):
            shutil.chown(path, "postgres")
    cluster = data / "cluster"
    _as_postgres("initdb", "-D", cluster, "-U", "tuner", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
    server = Server(url=server.url, data=cluster, port=port)
    server.start()
    before = os.environ.get("PGPASSWORD")
    os.environ["PGPASSWORD"] = PASSWORD
    try:
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()
        shutil.rmtree(data, ignore_errors=True)
        if before is None:
            del os.environ["PGPASSWORD"]
        else:
            os.environ["PGPASSWORD"] = before


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return None if initdb is None else Path(initdb).parent


def _as_postgres(program: str, *arguments: object) -> None:
    """Run one of its programs, which refuse to run as root."""
    programs = _programs()
    assert programs is not None
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    subprocess.run(
        [*user, str(programs / program), *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
