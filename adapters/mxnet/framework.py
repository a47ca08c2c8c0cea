"""Imports MXNet 1.9.1 beside NumPy 2, and checks the private functions that quantization needs.

MXNet takes names from NumPy at its import that NumPy 2 has no more. They are lent for the import and taken back. The
number of OpenMP threads is read once as well: the user's ``OMP_NUM_THREADS``, or one thread.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from autotune.errors import MissingDependencyError

VERSION = "1.9.1"
INSTALL = f"pip install --no-deps mxnet=={VERSION} graphviz && pip install requests"

_OLD_NAMES: dict[str, Any] = {
    **{"bool": np.bool_, "float": float, "int": int, "object": object, "float_": np.float64, "unicode_": np.str_},
    **{"PZERO": 0.0, "NZERO": -0.0, "NINF": -np.inf, "NaN": np.nan, "NAN": np.nan},
    **dict.fromkeys(("PINF", "Inf", "Infinity", "infty", "INFINITY"), np.inf),
    **{"alen": len, "mat": np.asmatrix, "alltrue": np.all, "sometrue": np.any, "in1d": np.isin, "product": np.prod},
    **{"cumproduct": np.cumprod, "round_": np.round, "row_stack": np.vstack, "asfarray": np.asarray},
    **dict.fromkeys(("msort", "trapz", "source", "who")),
    **dict.fromkeys(("mirr", "npv", "pv", "pmt", "ppmt", "ipmt", "fv", "rate", "nper", "irr")),
}
"""Names that MXNet 1.9.1 looks up in NumPy when it is imported; it calls none of the functions then."""

_PRIVATE = {
    "_quantize_symbol": ("sym", "ctx", "excluded_symbols", "excluded_operators", "offline_params", "quantized_dtype"),
    "_calibrate_quantized_sym": ("qsym", "th_dict"),
    "_quantize_params": ("qsym", "params", "th_dict"),
}
"""First parameters of the functions of ``mxnet.contrib.quantization`` that have no public counterpart for one op."""

_COPY = ("self", "source_array")
"""Parameters of the function that writes an array into an NDArray."""


@contextlib.contextmanager
def _numpy_names() -> Iterator[None]:
    """With the names of NumPy 1 that MXNet asks for."""
    lent = [name for name in _OLD_NAMES if name not in np.__dict__]
    for name in lent:
        setattr(np, name, _OLD_NAMES[name])
    try:
        yield
    finally:
        for name in lent:
            delattr(np, name)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """With environment variables that are set where the user has not set them."""
    own = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            del os.environ[name]


def _import() -> tuple[Any, Any]:
    """MXNet and its module of quantization."""
    try:
        found = importlib.metadata.version("mxnet")
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found is not None and found != VERSION:
        raise MissingDependencyError(
            f"The adapter 'mxnet' needs MXNet {VERSION}, whose private functions it calls, but {found} is installed. "
            f"Install it with `{INSTALL}`"
        )
    try:
        with _numpy_names(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mxnet  # noqa: PLC0415  only with the names that it takes
            from mxnet.contrib import quantization  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"The adapter 'mxnet' needs the package {error.name!r}, which is not installed. MXNet's own metadata "
            f"forbids NumPy 2, so that it is installed without its dependencies: `{INSTALL}`"
        ) from error
    for name, parameters in _PRIVATE.items():
        function = getattr(quantization, name, None)
        if function is None or tuple(inspect.signature(function).parameters)[: len(parameters)] != parameters:
            raise MissingDependencyError(
                f"The adapter 'mxnet' calls `mxnet.contrib.quantization.{name}({', '.join(parameters)}, …)`, which "
                f"this build of MXNet does not have. Install MXNet {VERSION} from its own wheel with `{INSTALL}`"
            )
    if tuple(inspect.signature(getattr(mxnet.nd.NDArray, "_sync_copyfrom", print)).parameters) != _COPY:
        raise MissingDependencyError(
            f"The adapter 'mxnet' calls `mxnet.nd.NDArray._sync_copyfrom({', '.join(_COPY)})`, which this build of "
            f"MXNet does not have. Install MXNet {VERSION} from its own wheel with `{INSTALL}`"
        )
    return mxnet, quantization


with _environment(OMP_NUM_THREADS="1"):
    THREADS = int(os.environ["OMP_NUM_THREADS"].partition(",")[0])
    """OpenMP threads of this process's MXNet; they cannot be changed once its worker threads run."""
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # read at each bind: no line for each session
    mx, quantization = _import()
    mx.nd.zeros((1,)).wait_to_read()  # the worker threads start with the threads that the environment names now


def dense(array: Any) -> Any:
    """MXNet's own array of an array; ``mx.nd.array`` asks SciPy for names that warn."""
    return mx.nd.ndarray.array(array, dtype=np.asarray(array).dtype)


def write(target: Any, array: Any) -> None:
    """Write an array into an NDArray of its shape; ``target[:] = array`` takes 79 microseconds where this takes 13."""
    target._sync_copyfrom(array)


FAILURES = (mx.base.MXNetError, ValueError, TypeError, OSError)
"""Classes of the errors that MXNet raises."""


def reason(error: BaseException) -> str:
    """The line of MXNet's message that says what is wrong, without its stack of C++ calls."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "Check failed" in line]
    said = (telling or lines or [type(error).__name__])[0]
    return said.rpartition("Check failed: ")[2].removeprefix("MXNetError: ").rstrip(". ")[:300]
