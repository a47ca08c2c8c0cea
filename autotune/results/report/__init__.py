"""The report of a run: one HTML file that needs nothing else, not even JavaScript."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from autotune.atomic import replacing
from autotune.errors import WorkspaceError
from autotune.results.report.tables import comparison
from autotune.results.report.view import headline, view_of
from autotune.results.summary import TuningSummary

__all__ = ["render", "render_brief", "write_report"]

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|ms|MB|s|MiB|KiB)(?:\W|$))")
_CODE = re.compile(r"`([^`]+)`")


def write_report(result: TuningSummary, path: Path) -> Path:
    """Write the report of a result.

    Raises:
        WorkspaceError: The file cannot be written.
    """
    text = render(result)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise WorkspaceError(
            f"The report {path} cannot be written: {error.strerror or error}. Choose another place (`-o`), or make room"
        ) from error
    return path


def render(result: TuningSummary) -> str:
    """The report as HTML."""
    parts = {name: _file(f"report.{name}") for name in ("css", "js")}
    return _template("report.html.jinja").render(view=view_of(result), **parts)


def render_brief(result: TuningSummary) -> str:
    """The verdict and its figures as a piece of HTML, for notebooks."""
    return _template("brief.html.jinja").render(headline=headline(result), table=comparison(result))


def prose(text: str) -> Markup:
    """A sentence as HTML, in which code stands in backticks."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704  escaped here


def unbroken(text: str) -> str:
    """A sentence in which no line breaks between a number and its unit."""
    return _BEFORE_UNIT.sub("\u00a0", text)


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"prose": prose, "unbroken": unbroken}
    return environment.from_string(_file(name))


def _file(name: str) -> str:
    return (resources.files(__name__) / name).read_text(encoding="utf-8")
