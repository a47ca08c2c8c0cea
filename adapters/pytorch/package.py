"""A model compiled by Inductor into one file, an AOTInductor package: made, kept, read and told about."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._inductor.runtime.cache_dir_utils import cache_dir

from autotune.adapter import TensorSpec
from autotune.adapters.pytorch.graph import constant
from autotune.adapters.pytorch.kernels import Kernels
from autotune.adapters.pytorch.quiet import quiet
from autotune.atomic import replacing
from autotune.errors import ApplyError, ModelError
from autotune.notes import listed
from autotune.owned_folder import OwnedFolder

if TYPE_CHECKING:
    from autotune.adapters.pytorch.model import PytorchModel

SUFFIX = ".pt2"

_DESCRIPTION = "extra/autotune.json"
"""Where a package says what it is, beneath the folder that all of its files lie in."""

_FORMAT = 1
"""Version of a package's metadata and of how it is compiled; the cache gives no package of another version."""

_KEPT = 64
_KEPT_S = 86_400.0
"""Packages in the cache beyond the newest of these are removed once they are a day old."""

_COMPILERS_ERROR = re.compile(r"\berror: ")
"""How g++ and clang begin what is wrong, in a message whose first lines are the command."""

_OPTIONS = {
    # Constants are packed and batch norms folded ahead, without which no integer kernel is chosen.
    "freezing": True,
    # As many threads as the caller has set, and not as many as compiled it.
    "cpp.dynamic_threads": True,
    # Debug information is four fifths of a small package.
    "aot_inductor.enable_line_tables": False,
}


def package_file(model: PytorchModel) -> Path:
    """The package of a model in the cache, compiled where there is none; 5 to 30 s of processor time.

    The cache lies beside Inductor's own (``TORCHINDUCTOR_CACHE_DIR``), so that a worker process, a later session and a
    run that continues find what was compiled before.

    Raises:
        ApplyError: Inductor refuses the model.
    """
    path = _cached(model)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as temporary:
        if model.package is not None:
            temporary.write_bytes(model.package)
        else:
            _compile(model, temporary)
    _prune(path.parent)
    return path


def is_compiled(model: PytorchModel) -> bool:
    """Whether a model can be run from its package at once."""
    return model.package is not None or _cached(model).exists()


def package_bytes(model: PytorchModel) -> int:
    """Size of the package in bytes; of the graph's constants where it is not compiled."""
    if model.package is not None:
        return len(model.package)
    file = _cached(model)
    if file.exists():
        return file.stat().st_size
    assert model.graph is not None
    names = {str(node.target) for node in model.graph.graph.nodes if node.op == "get_attr"}
    return sum(constant(model.graph, name).nbytes for name in names)


def package_with(model: PytorchModel, metadata: Mapping[str, str]) -> bytes:
    """The package, with ``metadata`` in what it says of itself.

    Raises:
        ApplyError: Inductor refuses the model.
    """
    with OwnedFolder() as folder:
        path = Path(folder) / f"model{SUFFIX}"
        with zipfile.ZipFile(package_file(model)) as stored, zipfile.ZipFile(path, "w") as written:
            for entry in stored.infolist():
                content = stored.read(entry)
                if entry.filename.endswith(_DESCRIPTION):
                    # The same graph may have been made in another way, of which other notes tell.
                    own = {"metadata": dict(metadata), "notes": list(model.told)}
                    content = json.dumps({**json.loads(content), **own}).encode()
                written.writestr(entry, content)
        return path.read_bytes()


def read_package(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a package, and what it says of itself.

    Raises:
        ModelError: The file is missing, is no package, or none that was saved here.
    """
    content = _content(path)
    try:
        said = _description(path)
    except (zipfile.BadZipFile, StopIteration, ValueError, OSError) as error:
        raise ModelError(
            f"{path} must be an AOTInductor package that was saved here, but it is corrupt, cut off or of another kind "
            f"({type(error).__name__}). Give the module or the exported program itself, or save it again"
        ) from error
    return content, said


def lines_on_kernels(model: PytorchModel) -> tuple[str, ...]:
    """A line on ops that Inductor left in fp32 though the config asks for less; none before the model is compiled."""
    if not model.asked or not is_compiled(model):
        return ()
    stayed = stayed_fp32(model)
    return (f"{listed(stayed)}: Inductor computes them in fp32 all the same",) if stayed else ()


def stayed_fp32(model: PytorchModel) -> list[str]:
    """Ops of a candidate that Inductor computes in fp32 though they are to be in less; it is compiled for that.

    Raises:
        ApplyError: Inductor refuses the model.
    """
    narrow = set(_description(package_file(model))["narrow"])
    return [name for name in model.asked if name not in narrow]


def _cached(model: PytorchModel) -> Path:
    if model.package is not None:
        key = hashlib.sha256(model.package).hexdigest()
    else:
        parts = (
            _FORMAT,
            model.fingerprint,
            torch.__version__,
            str(pick_vec_isa()),
            repr(_OPTIONS),
            sorted(model.asked),
        )
        key = hashlib.sha256(repr(parts).encode()).hexdigest()
    return Path(cache_dir()) / "autotune" / f"{key[:32]}{SUFFIX}"


def _compile(model: PytorchModel, path: Path) -> None:
    kernels = Kernels(model)
    options: dict[str, Any] = {**_OPTIONS, "post_grad_custom_post_pass": kernels}
    try:
        with quiet(), torch.no_grad(), _default_device():
            torch._inductor.aoti_compile_and_package(model.program, package_path=str(path), inductor_configs=options)
    except Exception as error:
        raise ApplyError(f"Inductor refuses the model: {type(error).__name__}: {_why(error)[:300]}") from error
    said = {
        "fingerprint": model.fingerprint,
        "inputs": list(map(_spec_to, model.inputs)),
        "outputs": list(map(_spec_to, model.outputs)),
        "narrow": sorted(kernels.narrow),
        "notes": list(model.told),
    }
    with zipfile.ZipFile(path, "a") as file:
        folder = file.namelist()[0].partition("/")[0]
        file.writestr(f"{folder}/{_DESCRIPTION}", json.dumps(said))


def _why(error: Exception) -> str:
    """The first line of a message, and the C++ compiler's own first error where it is the one that failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    compilers = next((line for line in lines if _COMPILERS_ERROR.search(line)), lines[0])
    return lines[0] if compilers == lines[0] else f"{lines[0]}: {compilers}"


@contextlib.contextmanager
def _default_device() -> Iterator[None]:
    """With tensors made on the CPU, whatever the user has set as the default."""
    with torch.device("cpu"):
        yield


def _description(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:
        name = next(name for name in file.namelist() if name.endswith(_DESCRIPTION))
        said = json.loads(file.read(name))
    return dict(said)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"The model file {path} does not exist (looked in {path.absolute().parent})") from None
    except OSError as error:
        raise ModelError(f"The model file {path} cannot be read: {error.strerror or error}") from error


def _spec_to(spec: TensorSpec) -> list[Any]:
    return [spec.name, spec.dtype.name, list(spec.shape)]


def _prune(folder: Path) -> None:
    """Remove packages that nobody is likely to ask for again."""
    files = []
    for file in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):  # another process may have removed it
            files.append((file.stat().st_mtime, file))
    for written, file in sorted(files, reverse=True)[_KEPT:]:
        if time.time() - written > _KEPT_S:
            with contextlib.suppress(OSError):
                file.unlink()
