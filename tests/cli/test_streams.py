"""Standard streams that are closed when the command line starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """\
import sys
from autotune.cli.streams import open_closed_streams
open_closed_streams()
with open(sys.argv[1], "w") as file:
    print("to nowhere", flush=True)
    print("to nowhere", file=sys.stderr, flush=True)
    assert sys.stdin.read() == ""
    file.write(f"{file.fileno() > 2}")
"""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    line = f'"$0" -c "$1" "$2" {closed}'
    arguments = [sys.executable, PROGRAM, str(tmp_path / "file")]
    done = subprocess.run(["sh", "-c", line, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "True"
