from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapters.onnxruntime.calibration import calibrate
from autotune.calibration import CalibrationStatistics
from autotune.errors import DataError, ModelError

SHARED = Path("../shared/data")
RESNET = SHARED / "resnet20_cifar10.onnx"
RNG = np.random.default_rng(0)


def small_model(weight: npt.NDArray[Any] | None = None) -> onnx.ModelProto:
    """Two inputs, one of them of integers; a free batch and a free width; a float and an int tensor inside."""
    weight = np.asarray(RNG.standard_normal((4, 3, 3, 3)), np.float32) if weight is None else weight
    table = np.asarray(RNG.standard_normal((10, 4)), np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["conv"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gather", ["table", "index"], ["embedded"], name="gather"),
        helper.make_node("Add", ["flat", "embedded"], ["sum"], name="add"),
        helper.make_node("ArgMax", ["sum"], ["best"], axis=1, keepdims=0, name="argmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"]),
            helper.make_tensor_value_info("index", TensorProto.INT64, ["n"]),
        ],
        [
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("best", TensorProto.INT64, ["n"]),
        ],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def feeds(samples: int, width: int = 8) -> dict[str, npt.NDArray[Any]]:
    return {
        "image": RNG.standard_normal((samples, 3, 6, width)).astype(np.float32),
        "index": RNG.integers(0, 10, samples),
    }


TENSORS = ["image", "index", "conv", "relu", "flat", "embedded", "sum", "best"]
FLOATS = {"image", "conv", "relu", "flat", "embedded", "sum"}


def test_varying_batches_and_shapes_several_inputs_and_integers() -> None:
    model = small_model()
    before = model.SerializeToString(deterministic=True)
    batches = [feeds(2), feeds(3, 11), feeds(1, 40)]
    found = calibrate(model, TENSORS, {"conv": 1, "image": 1, "flat": -1}, iter(batches), seed=0)
    assert model.SerializeToString(deterministic=True) == before
    assert found.samples == 6
    assert set(found.tensors) == FLOATS
    images = [batch["image"] for batch in batches]
    assert found.tensors["image"].count == sum(image.size for image in images)
    assert found.tensors["image"].maximum == max(float(image.max()) for image in images)
    assert found.tensors["image"].channels is not None
    channel = np.concatenate([image[:, 1].reshape(-1) for image in images]).astype(np.float64)
    assert found.tensors["image"].channels.mean[1] == pytest.approx(channel.mean(), rel=1e-5)
    assert found.tensors["relu"].minimum == 0.0
    assert found.tensors["relu"].maximum == pytest.approx(found.tensors["conv"].maximum, rel=1e-5)
    assert found.tensors["flat"].channels is not None
    assert found.tensors["flat"].channels.mean.shape == (4,)
    assert found.tensors["relu"].channels is None


def test_parts_that_fit_memory_give_the_same_statistics() -> None:
    model = small_model()
    batches = [feeds(4), feeds(2, 30), feeds(8, 50)]
    whole = calibrate(model, TENSORS, {"conv": 1}, batches, seed=0)
    parts = calibrate(model, TENSORS, {"conv": 1}, batches, seed=0, exposed_bytes=3000)
    assert set(parts.tensors) == FLOATS
    for name, expected in whole.tensors.items():
        found = parts.tensors[name]
        assert found.count == expected.count
        assert (found.minimum, found.maximum) == pytest.approx((expected.minimum, expected.maximum), rel=1e-5)


def test_graph_inputs_alone_need_no_run() -> None:
    found = calibrate(small_model(), ["image"], {}, [feeds(2)], seed=0)
    assert set(found.tensors) == {"image"}


def test_external_weights_are_found_in_their_folder(tmp_path: Path) -> None:
    weight = np.asarray(RNG.standard_normal((4, 3, 3, 3)), np.float32)
    inline = small_model(weight)
    batches = [feeds(2)]
    expected = calibrate(inline, ["conv"], {}, batches, seed=0)
    onnx.save_model(inline, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    loaded = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert calibrate(loaded, ["conv"], {}, batches, seed=0, external_dir=tmp_path) == expected


def test_the_seed_decides_and_nothing_else() -> None:
    batches = [feeds(4, 600) for _ in range(3)]
    model = small_model()
    first, second, other = (calibrate(model, ["conv"], {}, batches, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_what_cannot_be_calibrated_says_why() -> None:
    model = small_model()
    with pytest.raises(DataError, match="at least one batch"):
        calibrate(model, ["conv"], {}, [], seed=0)
    with pytest.raises(ModelError, match="nowhere"):
        calibrate(model, ["conv", "nowhere"], {}, [feeds(1)], seed=0)
    bad = feeds(2)
    bad["image"][1, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="'image'"):
        calibrate(model, ["image", "conv"], {}, [bad], seed=0)
    narrow = feeds(2)
    narrow["image"] = narrow["image"][:, :2]
    with pytest.raises(DataError, match="batch 1 must run"):
        calibrate(model, ["conv"], {}, [feeds(2), narrow], seed=0)
    outside = {**feeds(2), "index": np.array([3, 99])}
    with pytest.raises(DataError, match="batch 0 must run"):
        calibrate(model, ["embedded"], {}, [outside], seed=0)
    with pytest.raises(DataError, match=r"lacks \['index'\]"):
        calibrate(model, ["conv"], {}, [{"image": feeds(2)["image"]}], seed=0)


def test_a_model_that_the_runtime_refuses_is_named() -> None:
    model = small_model()
    model.graph.node[0].op_type = "NoSuchOp"
    with pytest.raises(ModelError, match="NoSuchOp"):
        calibrate(model, ["conv"], {}, [feeds(1)], seed=0)


@pytest.mark.skipif(not RESNET.exists(), reason="needs ../shared/data")
def test_batch_size_makes_no_difference_on_resnet20() -> None:
    model = onnx.load(RESNET)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    tensors = [node.output[0] for node in convolutions] + ["data"]
    with np.load(SHARED / "cifar10_calibration.npz") as archive:
        pictures = archive["images"][:12]
    data = np.ascontiguousarray((pictures / 255.0 - 0.45).astype(np.float32).transpose(0, 3, 1, 2) / 0.25, np.float32)

    def run(size: int) -> CalibrationStatistics:
        batches = [{"data": data[i : i + size]} for i in range(0, len(data), size)]
        return calibrate(model, tensors, dict.fromkeys(tensors, 1), batches, seed=0)

    single, together = run(1), run(5)
    assert single.samples == together.samples == 12
    assert set(single.tensors) == set(tensors)
    for name, expected in single.tensors.items():
        found = together.tensors[name]
        assert found.count == expected.count
        assert (found.minimum, found.maximum) == pytest.approx((expected.minimum, expected.maximum), rel=1e-4)
        assert found.channels is not None
        assert expected.channels is not None
        assert np.allclose(found.channels.mean, expected.channels.mean, rtol=1e-3, atol=1e-4)
        assert np.allclose(found.channels.variance, expected.channels.variance, rtol=1e-3)
