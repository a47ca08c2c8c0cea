"""Makes ONNX of MXNet's symbols with MXNet's own exporter; see ``autotune.conversion.program``.

MXNet 1.9.1 takes names from NumPy that NumPy 2 has no more, and from ONNX a table that ONNX has no more. This process
is of no other use, so that both are put in their places for good.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

_OPSET = 13
"""The newest that MXNet's exporter writes nodes for; it declares the newest that ONNX knows."""

_OLD_NAMES: dict[str, Any] = {
    **{"bool": np.bool_, "float": float, "int": int, "object": object, "float_": np.float64, "unicode_": np.str_},
    **{"PZERO": 0.0, "NZERO": -0.0, "NINF": -np.inf, "NaN": np.nan, "NAN": np.nan},
    **dict.fromkeys(("PINF", "Inf", "Infinity", "infty", "INFINITY"), np.inf),
    **{"alen": len, "mat": np.asmatrix, "alltrue": np.all, "sometrue": np.any, "in1d": np.isin, "product": np.prod},
    **{"cumproduct": np.cumprod, "round_": np.round, "row_stack": np.vstack, "asfarray": np.asarray},
    **dict.fromkeys(("msort", "trapz", "source", "who")),
    **dict.fromkeys(("mirr", "npv", "pv", "pmt", "ppmt", "ipmt", "fv", "rate", "nper", "irr")),
}


def _lend_names() -> None:
    for name, value in _OLD_NAMES.items():
        if name not in np.__dict__:
            setattr(np, name, value)
    if importlib.util.find_spec("onnx.mapping") is None:
        table = types.ModuleType("onnx.mapping")
        types_ = {each: helper.tensor_dtype_to_np_dtype(each) for each in helper.get_all_tensor_dtypes()}
        table.TENSOR_TYPE_TO_NP_TYPE = types_  # type: ignore[attr-defined]
        table.NP_TYPE_TO_TENSOR_TYPE = {dtype: each for each, dtype in reversed(types_.items())}  # type: ignore[attr-defined]
        sys.modules["onnx.mapping"] = onnx.mapping = table  # type: ignore[attr-defined]


_lend_names()

import mxnet as mx  # noqa: E402  after the names that it takes
from mxnet import onnx as mx2onnx  # noqa: E402


def load(request: Mapping[str, str]) -> Symbol:
    """The symbol of two files."""
    return Symbol(request["symbol"], request["parameters"])


class Symbol:
    """A symbol and its parameters."""

    def __init__(self, symbol: str, parameters: str) -> None:
        self._symbol = mx.sym.load(symbol)
        stored = mx.nd.load(parameters)
        self._arguments = {name[4:]: value for name, value in stored.items() if name.startswith("arg:")}
        self._states = {name[4:]: value for name, value in stored.items() if name.startswith("aux:")}
        known = {*self._arguments, *self._states}
        self.inputs = [name for name in self._symbol.list_inputs() if name not in known]
        self.outputs = [name.removesuffix("_output") for name in self._symbol.list_outputs()]

    def export(self, path: Path, feeds: Mapping[str, Any] | None) -> list[str]:
        """Write the ONNX file; a symbol has no shapes, so that those of the data are taken."""
        if feeds is None:
            raise ValueError("a symbol says nothing of its inputs' shapes. Give it data")
        mx2onnx.export_model(
            self._symbol,
            {**self._arguments, **self._states},
            in_shapes=[feeds[name].shape for name in self.inputs],
            in_types=[feeds[name].dtype.type for name in self.inputs],
            onnx_file_path=str(path),
            dynamic=True,
            dynamic_input_shapes=[("batch", *feeds[name].shape[1:]) for name in self.inputs],
        )
        proto = onnx.load(str(path))
        del proto.opset_import[:]
        proto.opset_import.append(helper.make_opsetid("", _OPSET))
        proto.ir_version = 8
        onnx.save(proto, str(path))
        return []

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of MXNet."""
        executor = self._symbol.simple_bind(
            mx.cpu(), grad_req="null", **{name: array.shape for name, array in feeds.items()}
        )
        executor.copy_params_from(self._arguments, self._states, allow_extra_params=True)
        arrays = {name: mx.nd.array(array, dtype=array.dtype) for name, array in feeds.items()}
        return [each.asnumpy() for each in executor.forward(is_train=False, **arrays)]
