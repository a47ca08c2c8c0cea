"""Runs in the environment of a converter: ``python program.py CONVERTER.py FOLDER``.

It imports nothing of this package, which is not installed there. ``CONVERTER.py`` defines ``load(request)``, which
gives an object with

- ``inputs`` and ``outputs``: their names, in the model's order;
- ``export(path, feeds)``: writes the ONNX file and gives notes for the user, a list of lines; ``feeds`` are None where
  there are no data;
- ``run(feeds)``: the framework's own outputs, a list of arrays, for a dict of arrays by the names of all inputs.

``FOLDER`` holds ``request.json``, a dict for ``load``, and, where there are data, the first batch: ``one.npz`` as it is
read for a model with one input, ``more.npz`` for others, each with a ``.json`` of the data loader's names, or null.
``model.onnx``, ``answer.json``, ``feeds.npz`` and ``outputs.npz`` are written there, or ``error.json``.

Standard input is a pipe that the process that asks holds open. It ends with that process, and so does this one.
"""

import importlib.util
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

# This folder has modules whose names others may use too.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np  # noqa: E402  see above


class DataMismatch(Exception):
    """The first batch is not what the model reads."""


def first_batch(folder: Path, names: list[str]) -> dict[str, Any] | None:
    """The first batch by the names of the model's inputs; None where there are no data.

    Raises:
        DataMismatch: It has other inputs.
    """
    stem = "one" if len(names) == 1 else "more"
    if not (folder / f"{stem}.npz").is_file():
        return None
    arrays = load_arrays(folder / f"{stem}.npz")
    given = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
    if given is None:
        if len(arrays) != len(names):
            raise DataMismatch(f"its inputs are {', '.join(names)}, and a batch has {len(arrays)}")
        given = names
    found = dict(zip(given, arrays, strict=True))
    if missing := [name for name in names if name not in found]:
        raise DataMismatch(f"it reads {', '.join(names)}, and a batch has no {', '.join(missing)}")
    return {name: found[name] for name in names}


def load_arrays(path: Path) -> list[Any]:
    """The arrays of a file in their order."""
    with np.load(path, allow_pickle=False) as archive:
        return [archive[f"_{place}"] for place in range(len(archive.files))]


def save_arrays(path: Path, arrays: list[Any]) -> None:
    """Write arrays, numbered in their order."""
    numbered: Any = {f"_{place}": np.asarray(each) for place, each in enumerate(arrays)}
    np.savez(path, **numbered)


def follow(pipe: int) -> None:
    """End this process, and what it started, once the other side of a pipe is closed."""
    while os.read(pipe, 1024):
        pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def main(program: Path, folder: Path) -> None:
    """Convert, and run the framework's own model on the first batch."""
    spec = importlib.util.spec_from_file_location("converter", program)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.load(json.loads((folder / "request.json").read_text(encoding="utf-8")))
    feeds = first_batch(folder, list(model.inputs))
    notes = model.export(folder / "model.onnx", feeds)
    if feeds is not None:
        try:
            outputs = model.run(feeds)
        except Exception as error:
            raise DataMismatch(f"the model does not run on it: {error}") from error
        save_arrays(folder / "feeds.npz", list(feeds.values()))
        save_arrays(folder / "outputs.npz", outputs)
    answer = {"inputs": list(model.inputs), "outputs": list(model.outputs), "notes": notes}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    where = Path(sys.argv[2])
    held = os.dup(0)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)  # a converter that asks something gets no answer, and does not wait for one
    threading.Thread(target=follow, args=(held,), daemon=True).start()
    try:
        main(Path(sys.argv[1]), where)
    except BaseException as error:
        traceback.print_exc()
        kind = "data" if isinstance(error, DataMismatch) else "import" if isinstance(error, ImportError) else "model"
        found = {"kind": kind, "message": f"{error}" or type(error).__name__}
        (where / "error.json").write_text(json.dumps(found), encoding="utf-8")
        sys.exit(1)
