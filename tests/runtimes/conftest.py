from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.runtimes.toys import TOYS


@pytest.fixture(scope="session", autouse=True)
def toy_distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Makes the toys known by an entry point each."""
    folder = tmp_path_factory.mktemp("site")
    information = folder / "toys-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    lines = [f"{name} = tests.runtimes.toys:{toy.__name__}" for name, toy in TOYS.items()]
    lines.append("missing = a_framework_that_is_not_installed:Adapter")
    (information / "entry_points.txt").write_text("\n".join(["[autotune.adapters]", *lines, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        yield
