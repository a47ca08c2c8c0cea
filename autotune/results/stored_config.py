"""Configs as users name them: a config, its JSON file, a workspace, a trial of one, or a tuned model's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.adapter import ReadsMetadata
from autotune.adapters import get_adapter
from autotune.config import QuantizationConfig
from autotune.errors import InputError, ModelError
from autotune.parsing import parse_json
from autotune.regular_file import require_regular
from autotune.results.summary import TuningSummary, read_summary
from autotune.trial import Trial
from autotune.tuning.keywords import ConfigSource
from autotune.tuning.metadata import CONFIG_KEY
from autotune.tuning.storage import DATABASE

_JSON_START = 4096
_LARGEST_BYTES = 200_000_000


@dataclass(frozen=True, kw_only=True)
class StoredConfig:
    """A config, and what is known of where it comes from.

    Attributes:
        name: Its name in words: the path as the user gave it.
        config: The config.
        trial: The trial that measured it; None for a config from a file.
        summary: The run of that trial.
    """

    name: str
    config: QuantizationConfig
    trial: Trial | None = None
    summary: TuningSummary | None = None

    @property
    def framework(self) -> str | None:
        """The runtime that it was found for; None where it does not say, or its run had several."""
        runs = () if self.summary is None else self.summary.evidence.runs
        name = str(runs[-1].get("framework", "")) if runs else ""
        return self.config.runtime or (name if name and "," not in name else None)

    @property
    def op_types(self) -> Mapping[str, str]:
        """The type of every op that its run could tune, in graph order; empty where the run is not known."""
        if self.summary is None:
            return {}
        return self.summary.op_types


def read_config(source: ConfigSource, framework: str | None = None) -> StoredConfig:
    """The config that a user names.

    A workspace stands for its answer.

    Args:
        source: The config, or where it is.
        framework: The adapter that reads a tuned model's file where its ending does not tell; None: no other ending.

    Raises:
        InputError: There is no config.
    """
    if isinstance(source, QuantizationConfig):
        return StoredConfig(name=f"config {source.fingerprint}", config=source)
    if not isinstance(source, (str, Path)):
        raise InputError(
            "A config must be a QuantizationConfig, a path to its JSON, a workspace, WORKSPACE:TRIAL or a tuned model, "
            f"but got a {type(source).__name__}"
        )
    given, path = str(source), Path(source)
    if not given:
        raise _no_config("The name of a config", "it is empty")
    require_regular(path, "A config", InputError)
    if (path / DATABASE).is_file():
        summary = read_summary(path)
        return StoredConfig(name=given, config=summary.best.config, trial=summary.best, summary=summary)
    folder, colon, number = given.rpartition(":")
    if colon and number.isdecimal() and number.isascii() and (Path(folder) / DATABASE).is_file():
        summary = read_summary(Path(folder))
        trial = summary.trial(int(number))
        return StoredConfig(name=given, config=trial.config, trial=trial, summary=summary)
    if path.is_dir():
        raise _no_config(given, f"the folder holds no history ({DATABASE} is missing)")
    if not path.exists():
        raise _no_config(given, "there is nothing of that name")
    return StoredConfig(name=given, config=_from_file(path, framework))


def of_model(source: ConfigSource, name: str) -> ConfigSource:
    """The config for one of several models: that of its own folder in the workspace of such a run, else the same one.

    Args:
        source: The config that all of them start from, or that workspace.
        name: The model's name.
    """
    if isinstance(source, (str, Path)) and str(source):
        own = Path(source) / name
        if not (Path(source) / DATABASE).is_file() and (own / DATABASE).is_file():
            return own
    return source


def _from_file(path: Path, framework: str | None) -> QuantizationConfig:
    try:
        found: Any = _json_of(path) if _is_json(path) else _in_metadata(path, framework)
    except (OSError, ValueError) as error:
        raise _no_config(str(path), f"its JSON cannot be read: {error}") from error
    if not isinstance(found, dict) or "ops" not in found:
        raise _no_config(str(path), "its JSON has no 'ops'")
    try:
        return QuantizationConfig.from_json(found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_config(
            str(path), f"this version of autotune does not know all of it ({error}). Has a newer version written it?"
        ) from error


def _is_json(path: Path) -> bool:
    if path.suffix.lower() == ".json":
        return True
    with path.open("rb") as file:
        return file.read(_JSON_START).lstrip()[:1] == b"{"


def _json_of(path: Path) -> Any:
    if (size := path.stat().st_size) > _LARGEST_BYTES:
        raise _no_config(str(path), f"it has {size:,} bytes, and no config has more than {_LARGEST_BYTES:,}")
    return parse_json(path.read_text(encoding="utf-8"))


def _in_metadata(path: Path, framework: str | None) -> Any:
    """The config in a saved model's metadata, as JSON has it."""
    name = _FRAMEWORKS.get(path.suffix.lower()) or framework
    adapter = None if name is None else get_adapter(name)
    if not isinstance(adapter, ReadsMetadata):
        who = f"files that end in {path.suffix!r}" if name is None else f"files of {name}"
        raise _no_config(str(path), f"configs are not read from {who}. Name the workspace of the run instead")
    try:
        found = adapter.metadata(path).get(CONFIG_KEY)
    except ModelError as error:
        raise _no_config(str(path), f"it is no JSON, and no model that {name} can read") from error
    if found is None:
        raise _no_config(str(path), f"its metadata has no {CONFIG_KEY!r}: no run of autotune has saved it")
    return parse_json(found)


def _no_config(name: str, why: str) -> InputError:
    return InputError(
        f"{name} must be a workspace, WORKSPACE:TRIAL, a JSON file that `config.to_json()` wrote, or a model that a "
        f"run has saved, but {why}"
    )


_FRAMEWORKS = {".onnx": "onnxruntime", ".xml": "openvino"}
"""The adapter that reads the metadata of a file, by its ending."""
