"""Attribution of an error to ours or the user's code."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest

from autotune.cli.app import _is_users


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
