"""The two files of a symbol, found by either of them or by their common prefix; no MXNet is needed for that."""

from __future__ import annotations

import re
from pathlib import Path

from autotune.errors import ModelError

SYMBOL, PARAMETERS = "-symbol.json", ".params"

_EPOCH = re.compile(r"-\d{4}\.params$")


def symbol_files(path: Path) -> tuple[Path, Path]:
    """The file of a symbol, and that of its parameters: the one that is named, or the last epoch's.

    Raises:
        ModelError: One is missing.
    """
    prefix = path.with_name(_EPOCH.sub("", path.name.removesuffix(SYMBOL)))
    symbol = prefix.with_name(f"{prefix.name}{SYMBOL}")
    if not symbol.is_file():
        raise ModelError(f"The model file {symbol} does not exist (looked in {symbol.absolute().parent})")
    if path.name.endswith(PARAMETERS):
        return symbol, path
    found = [
        file
        for file in sorted(symbol.parent.iterdir())
        if file.name.startswith(prefix.name) and _EPOCH.fullmatch(file.name.removeprefix(prefix.name))
    ]
    if not found:
        raise ModelError(
            f"An MXNet model is two files, but the parameters are missing. {symbol} has no parameters: "
            f"{prefix}-0000{PARAMETERS} does not exist. Put the file beside it, as "
            "`save_checkpoint` or `export` wrote it"
        )
    return symbol, found[-1]
