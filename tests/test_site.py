"""The documentation site has every page, and its reference of experiment files every key."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import autotune

ROOT = Path(__file__).parents[1]


def _pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for each in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _pages(each)


def test_every_page_has_a_place_in_the_navigation() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {*_pages(site["nav"])} == written
    assert site["strict"] is True


def test_the_reference_of_experiment_files_is_made_of_the_schema() -> None:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    schema = json.loads((ROOT / "autotune" / "experiment" / "schema.json").read_text(encoding="utf-8"))
    text = hooks.schema_reference()
    for section in schema["$defs"].values():
        assert all(f"| `{key}` |" in text for key in section.get("properties", {}))
    assert "See [Tuning](#tuning)." in text
    assert "`{" not in text.partition("## Accuracy")[0], "a section has no default beside those of its keys"


def test_the_reference_of_python_has_every_public_name() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    listed = {line.removeprefix("::: autotune.") for line in text.splitlines() if line.startswith("::: autotune.")}
    assert {*autotune.__all__} - {"AutotuneError"} <= listed
    assert "errors" in listed  # with the tree of them


def test_the_notebook_is_kept_without_outputs() -> None:
    for path in (ROOT / "examples" / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path
