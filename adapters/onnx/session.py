"""ONNX Runtime sessions: how a model is opened and run, and what ONNX Runtime makes of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnx.options import GraphOptimization
from autotune.errors import ApplyError
from autotune.owned_folder import OwnedFolder

LOG_SEVERITY = 4
"""Fatal only. ONNX Runtime also raises what it logs as an error, and users are told the exception's text."""

onnxruntime.set_default_logger_severity(LOG_SEVERITY)


class SessionRunner:
    """A session with the names of its outputs; see :class:`autotune.adapter.Runner`.

    Args:
        session: The session.
        keep: Lives as long as the runner: the model, whose weights the session may have mapped from a temporary file.
    """

    def __init__(self, session: onnxruntime.InferenceSession, keep: object = None) -> None:
        self._session = session
        self._keep = keep
        self._outputs = [output.name for output in session.get_outputs()]

    def __call__(self, feeds: Feeds) -> tuple[Array, ...]:
        """Run one batch and return the outputs in graph order.

        Raises:
            ApplyError: ONNX Runtime fails; the message is the first line of its own.
        """
        try:
            return tuple(map(_as_array, self._session.run(self._outputs, dict(feeds))))
        except Exception as error:  # classes of its own, without a common root but Exception
            raise ApplyError(f"ONNX Runtime failed to run the model: {_first_line(error)}") from error


def _as_array(value: object) -> Array:
    """The arrays of an output; a sequence becomes an array of objects, and a map or a missing optional a single one."""
    if isinstance(value, np.ndarray):
        return value
    items = value if isinstance(value, list) else None
    array: Array = np.empty(() if items is None else len(items), object)
    if items is None:
        array[()] = value
    else:
        for index, item in enumerate(items):
            array[index] = item
    return array


_CONFIG_ENTRIES = {
    GraphOptimization.PLAIN_LAYOUT: ("optimization.disable_specified_optimizers", "NchwcTransformer"),
    GraphOptimization.GELU_APPROXIMATION: ("optimization.enable_gelu_approximation", "1"),
}


def session_options(
    execution: Execution, optimization: GraphOptimization = GraphOptimization.ALL
) -> onnxruntime.SessionOptions:
    """Options under which sessions side by side do not disturb each other."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_SEVERITY
    options.intra_op_num_threads = execution.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin while they wait take the cores from whoever is measured next; measured with two threads on two
    # cores, where two sessions of one model otherwise differ by half.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if optimization is GraphOptimization.EXTENDED:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    elif optimization in _CONFIG_ENTRIES:
        options.add_session_config_entry(*_CONFIG_ENTRIES[optimization])
    return options


def asked_at_load(optimization: GraphOptimization) -> str | None:
    """The line of Python by which a user asks ONNX Runtime for an optimization; None for what it does by default."""
    if optimization is GraphOptimization.EXTENDED:
        return "options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED"
    if optimization in _CONFIG_ENTRIES:
        key, value = _CONFIG_ENTRIES[optimization]
        return f"options.add_session_config_entry({key!r}, {value!r})"
    return None


def open_session(
    proto: onnx.ModelProto, external_dir: Path | None, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    """Open a model that lies in memory, its external data in ``external_dir``.

    Raises:
        ApplyError: ONNX Runtime refuses the model; the message is the first line of its own.
    """
    if external_dir is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(external_dir))
    try:
        return onnxruntime.InferenceSession(
            proto.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime raises classes of its own without a common root but Exception
        raise ApplyError(f"ONNX Runtime refuses the model: {_first_line(error)}") from error


def optimized_graph(
    proto: onnx.ModelProto,
    external_dir: Path | None = None,
    level: Any = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
) -> onnx.ModelProto:
    """The graph that ONNX Runtime makes of a model before it runs it.

    Args:
        proto: The model.
        external_dir: Folder of its external data.
        level: How far it goes. The default leaves out what only changes the memory layout for this CPU.

    Raises:
        ApplyError: ONNX Runtime refuses the model.
    """
    with OwnedFolder() as folder:
        path = Path(folder) / "optimized.onnx"
        options = session_options(Execution())
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(path)
        open_session(proto, external_dir, options)
        optimized = onnx.load(path)
    # ONNX Runtime lists every operator set that it knows, and leaves out what the model says of itself.
    used = {node.domain for node in optimized.graph.node} | {opset.domain for opset in proto.opset_import}
    kept = [opset for opset in optimized.opset_import if opset.domain in used]
    del optimized.opset_import[:]
    optimized.opset_import.extend(kept)
    del optimized.metadata_props[:]
    optimized.metadata_props.extend(proto.metadata_props)
    return optimized


def optimized_op_counts(proto: onnx.ModelProto, external_dir: Path | None = None) -> Counter[str]:
    """How many nodes of each type ONNX Runtime executes; a Q or DQ among integer kernels shows here."""
    return Counter(node.op_type for node in optimized_graph(proto, external_dir).graph.node)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
