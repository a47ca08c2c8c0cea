"""Hooks of the documentation site: links that leave it, and the reference of the experiment file's keys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "autotune" / "experiment" / "schema.json"
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./(?!reference/|tutorials/)[^)]*\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called for each page: links to files of the repository become text, and the schema's page is written."""
    if page.file.src_uri == "reference/schema.md":
        return f"{markdown}\n{schema_reference()}"
    return _OUTSIDE.sub(r"`\1`", markdown) if "/" not in page.file.src_uri else markdown


def schema_reference() -> str:
    """A table of keys for each section of an experiment file, from its JSON Schema."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    sections = {"Experiment": schema, **schema["$defs"]}
    parts = []
    for name, section in sections.items():
        if "properties" not in section:
            continue
        rows = [
            f"| `{key}` | {_default(value)} | {_cell(value.get('description') or _section(value, sections))} |"
            for key, value in section["properties"].items()
        ]
        about = section.get("description", "")
        parts.append(f"## {name}\n\n{about}\n\n| key | default | meaning |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _default(value: dict[str, Any]) -> str:
    """The default of a key; none for a section, whose keys have their own."""
    return "" if isinstance(value.get("default", {}), dict) else f"`{json.dumps(value['default'])}`"


def _section(value: dict[str, Any], sections: dict[str, Any]) -> str:
    """What the section says that a key has, with the link to it; empty where it has none."""
    name = str(value.get("$ref", "")).rpartition("/")[2]
    return f"{sections[name].get('description', '')} See [{name}](#{name.lower()})." if name in sections else ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
