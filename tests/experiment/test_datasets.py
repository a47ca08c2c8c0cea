from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from autotune.errors import DataError, ExperimentError, MissingDependencyError
from tests.experiment.sections import batches, make_dataset


def test_npz_batches_with_labels(archive: Path) -> None:
    stored = np.load(archive)
    got = batches({"npz": {"path": str(archive), "inputs": "images", "labels": "labels"}, "batch_size": 3})
    assert [len(labels) for _, labels in got] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([inputs for inputs, _ in got]), stored["images"])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in got]), stored["labels"])


def test_npz_batch_size_is_one_and_limit_takes_the_first(archive: Path) -> None:
    got = batches({"npz": {"path": str(archive), "inputs": "images"}, "limit": 4})
    assert [inputs.shape for inputs in got] == [(1, 4, 5, 3)] * 4


def test_npz_arrays_by_input_name_are_each_preprocessed(archive: Path) -> None:
    section = {
        "npz": {"path": str(archive), "inputs": {"ids": "labels", "picture": "images"}, "labels": "labels"},
        "batch_size": 7,
        "preprocess": [{"cast": {"dtype": "int32"}}],
    }
    ((inputs, labels),) = batches(section)
    assert {name: (array.dtype.name, array.shape) for name, array in inputs.items()} == {
        "ids": ("int32", (7,)),
        "picture": ("int32", (7, 4, 5, 3)),
    }
    assert labels.dtype == np.int64


def test_npz_rows_larger_than_one_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((5, 300, 1000))  # 2.4 MB a row, more than one read of the archive
    np.savez(tmp_path / "large.npz", x=array)
    got = batches({"npz": {"path": str(tmp_path / "large.npz"), "inputs": "x"}, "batch_size": 2})
    np.testing.assert_array_equal(np.concatenate(got), array)


@pytest.mark.parametrize(
    ("npz", "message"),
    [
        ({"inputs": "image"}, r"has no array 'image' \(did you mean 'images'\?\). It has: images, labels"),
        ({"inputs": "images", "labels": "few"}, "'images' has 7 and 'few' has 6"),
        ({"inputs": "none"}, "needs at least one sample, but 'none'"),
        ({"inputs": "single"}, "'single' .* must have an axis that counts the samples"),
        ({"inputs": "fortran"}, "'fortran' .* is in Fortran order"),
        ({"inputs": "objects"}, "'objects' .* holds Python objects"),
        ({"inputs": {}}, "must name an array"),
        ({"path": "nowhere.npz", "inputs": "x"}, "There is no data file"),
        ({"path": "text.npz", "inputs": "x"}, "must be a NumPy archive"),
    ],
)
def test_npz_that_cannot_be_used(archive: Path, npz: dict[str, Any], message: str) -> None:
    (archive.parent / "text.npz").write_text("no archive")
    section = make_dataset({"npz": {"path": "data.npz", **npz}}, archive.parent)
    with pytest.raises(DataError, match=message):
        section.open(archive.parent)


def test_a_truncated_archive_is_reported_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cut.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((100, 100)))
    data = bytearray(path.read_bytes())
    data[5000:6000] = bytes(1000)
    path.write_bytes(data)
    loader = make_dataset({"npz": {"path": str(path), "inputs": "x"}}).open(tmp_path)
    with pytest.raises(DataError, match=r"'x' of .* cannot be read to its end"):
        list(loader)


def test_samples_of_different_shapes_need_a_batch_size_of_one(tmp_path: Path) -> None:
    for name, size in (("a", (4, 6)), ("b", (8, 6))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size).save(tmp_path / name / "x.png")
    section: dict[str, Any] = {"image_folder": {"path": str(tmp_path)}}
    assert [inputs.shape for inputs, _ in batches(section)] == [(1, 6, 4, 3), (1, 6, 8, 3)]
    with pytest.raises(DataError, match=r"have \(6, 4, 3\) and \(6, 8, 3\). Bring them to one size"):
        batches({**section, "batch_size": 2})


def test_image_folder_reads_one_of_each_class_in_turn(tmp_path: Path) -> None:
    for name, count in (("ant", 1), ("bee", 3), ("cat", 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("L", (2, 2)).save(tmp_path / name / f"{number}.png")
    got = batches({"image_folder": {"path": str(tmp_path)}, "limit": 5})
    assert [int(labels[0]) for _, labels in got] == [0, 1, 2, 1, 2]


def test_image_folder_numbers_classes_in_alphabetical_order(tmp_path: Path) -> None:
    for label, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / name / "nested").mkdir(parents=True)
        Image.new("L", (2, 2), color=label).save(tmp_path / name / "nested" / "1.PNG")
        (tmp_path / name / "notes.txt").write_text("no picture")
    got = batches({"image_folder": {"path": str(tmp_path)}})
    assert [(int(labels[0]), int(inputs.max())) for inputs, labels in got] == [(0, 0), (1, 1), (2, 2)]
    assert got[0][0].shape == (1, 2, 2, 3)


def test_flat_image_folder_with_a_file_of_labels(tmp_path: Path) -> None:
    for number in (1, 2):
        Image.new("RGB", (2, 2), color=(number, 0, 0)).save(tmp_path / f"val {number}.png")
    labels = tmp_path / "val.txt"
    labels.write_text("val 2.png 65\n\nval 1.png 970\n")
    section = {"image_folder": {"path": ".", "labels": "val.txt"}}
    got = batches(section, tmp_path)
    assert [(int(y[0]), int(x.max())) for x, y in got] == [(65, 2), (970, 1)]
    for line, message in (("val 3.png 1", "val.txt:1 names a picture that is not there"), ("x", "must read like")):
        labels.write_text(line)
        with pytest.raises(DataError, match=message):
            make_dataset(section, tmp_path).open(tmp_path)
    labels.write_text("\n")
    with pytest.raises(DataError, match="needs at least one sample"):
        make_dataset(section, tmp_path).open(tmp_path)


def test_image_folders_that_cannot_be_used(tmp_path: Path) -> None:
    section = make_dataset({"image_folder": {"path": "pictures"}}, tmp_path)
    with pytest.raises(DataError, match="There is no folder"):
        section.open(tmp_path)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="has no folder at all and no picture"):
        section.open(tmp_path)
    (tmp_path / "pictures" / "a").mkdir()
    with pytest.raises(DataError, match="has a picture"):
        section.open(tmp_path)
    (tmp_path / "pictures" / "a" / "x.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"x\.jpg cannot be read as a picture"):
        list(section.open(tmp_path))


def test_a_flat_folder_without_labels_gives_pictures_alone(tmp_path: Path) -> None:
    for number in (2, 1):
        Image.new("RGB", (2, 2), color=(number, 0, 0)).save(tmp_path / f"{number}.jpeg", quality=100)
    (tmp_path / "notes.txt").write_text("no picture")
    section = {"image_folder": {"path": "."}, "batch_size": 2}
    dataset = make_dataset(section, tmp_path)
    assert not dataset.labelled
    (batch,) = batches(section, tmp_path)
    assert batch.shape == (2, 2, 2, 3)
    assert batch[0].max() < batch[1].max() + 1
    (tmp_path / "class").mkdir()
    assert dataset.labelled, "folders are classes"


STEPS = """
import numpy as np

def halved(sample):
    return sample.astype(np.float32) / 2

def first_row(sample):
    return sample[0].tolist()

def nothing(sample):
    sample.sum()

def broken(sample):
    raise KeyError("mine")
"""


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with functions for preprocessing, in the experiment's folder."""
    name = f"steps_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(STEPS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_function_is_a_step_among_others(archive: Path, steps: str, tmp_path: Path) -> None:
    section = {
        "npz": {"path": archive.name, "inputs": "images"},
        "preprocess": [
            {"function": f"{steps}:halved"},
            {"function": f"{steps}:first_row"},
            {"cast": {"dtype": "float64"}},
        ],
    }
    got = batches(section, tmp_path)
    expected = np.load(archive)["images"][:, 0] / 2
    np.testing.assert_array_equal(np.concatenate(got), expected)
    assert got[0].dtype == np.float64
    dataset = make_dataset(section, tmp_path)
    assert dataset.functions == (f"{steps}:halved", f"{steps}:first_row")
    copied = pickle.loads(pickle.dumps(dataset.open(tmp_path)))
    np.testing.assert_array_equal(np.concatenate(list(copied)), expected)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing", DataError, "must return one sample as an array, but returned a NoneType"),
        ("broken", KeyError, "mine"),
        ("gone", ExperimentError, "has no 'gone'"),
    ],
)
def test_a_step_that_is_none_or_fails_says_so(
    archive: Path, steps: str, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    section = {"npz": {"path": archive.name, "inputs": "images"}, "preprocess": [{"function": f"{steps}:{name}"}]}
    with pytest.raises(error, match=message):
        batches(section, tmp_path)


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingDependencyError, match=r"autotune-quantization\[images\]"):
        make_dataset({"image_folder": {"path": "."}}, tmp_path).open(tmp_path)


MODULE = """
import numpy as np

calls = 0
used = iter([1, 2])

def listed(size=2):
    global calls
    calls += 1
    return [(np.zeros((size, 3)), np.zeros(size))] * 2

def generated():
    yield np.zeros((1, 3))

def once():
    return used

def number():
    return 5

def broken():
    raise ZeroDivisionError("mine")

not_callable = 3

class Data:
    @staticmethod
    def open():
        return [1]
"""


@pytest.fixture
def module(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"loaders_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    return name


def test_a_function_beside_the_experiment(tmp_path: Path, module: str) -> None:
    section = {"function": f"{module}:listed", "args": {"size": 5}}
    assert [inputs.shape for inputs, _ in batches(section, tmp_path)] == [(5, 3), (5, 3)]
    assert sys.modules[module].calls == 1
    assert len(batches({"function": f"{module}:generated"}, tmp_path)) == 1
    assert batches({"function": f"{module}:Data.open"}, tmp_path) == [1]


def test_a_function_loader_reaches_another_process(tmp_path: Path, module: str) -> None:
    loader = make_dataset({"function": f"{module}:generated"}).open(tmp_path)
    assert len(list(loader)) == 1
    assert len(list(pickle.loads(pickle.dumps(loader)))) == 1


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("once", DataError, "must return a new iterator with every call"),
        ("number", DataError, "must return an iterable of batches, but returned a int"),
        ("broken", ZeroDivisionError, "mine"),
        ("lists", ExperimentError, r"has no 'lists' \(did you mean 'listed'\?\)"),
        ("not_callable", ExperimentError, "must be callable, but it is a int"),
    ],
)
def test_functions_that_cannot_be_used(
    tmp_path: Path, module: str, function: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        batches({"function": f"{module}:{function}"}, tmp_path)


def test_a_module_that_is_missing_and_one_that_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ExperimentError, match="there is no module 'nowhere_at_all'"):
        make_dataset({"function": "nowhere_at_all:f"}).open(tmp_path)
    (tmp_path / "imports_what_is_missing.py").write_text("import nowhere_at_all")
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        make_dataset({"function": "imports_what_is_missing:f"}).open(tmp_path)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "must have one of the keys npz, image_folder, function, but has none of them"),
        ({"function": "a:b", "image_folder": {"path": "."}}, "but has image_folder and function"),
        ({"function": "a:b", "limit": 3}, "`limit` belongs to `npz` and `image_folder`"),
        ({"image_folder": {"path": "."}, "args": {}}, "`args` belong to `function`"),
        ({"function": "a.b"}, "must read like 'package.module:function', but got 'a.b'"),
        ({"npz": {"path": ".", "inputs": "x"}, "batch_size": 0}, "greater than 0"),
    ],
)
def test_sections_that_contradict_themselves(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_dataset(section)


def test_constants_go_with_every_batch(archive: Path) -> None:
    np.savez(archive, x=np.arange(10, dtype=np.float32).reshape(5, 2))
    section = {
        "npz": {"path": archive.name, "inputs": {"x": "x"}},
        "constants": {
            "sr": 16000,
            "share": 0.5,
            "on": True,
            "sizes": [3, 4],
            "state": {"shape": [2, "batch", 3]},
            "mask": {"shape": ["batch", 4], "value": 1, "dtype": "int64"},
            "cache": {"shape": ["batch", 0, 2]},
        },
        "batch_size": 3,
    }
    found = list(make_dataset(section, archive.parent).open(archive.parent))
    assert [batch["x"].shape[0] for batch in found] == [3, 2]
    for batch in found:
        size = len(batch["x"])
        assert (batch["sr"].shape, batch["sr"].dtype, batch["sr"]) == ((), np.int64, 16000)
        assert (batch["share"].dtype, batch["on"].dtype, batch["sizes"].tolist()) == (np.float64, np.bool_, [3, 4])
        assert (batch["state"].shape, batch["state"].dtype, batch["state"].any()) == ((2, size, 3), np.float32, False)
        assert (batch["mask"].shape, batch["mask"].dtype, batch["mask"].all()) == ((size, 4), np.int64, True)
        assert batch["cache"].shape == (size, 0, 2)


def test_samples_are_stacked_where_the_model_counts_them(archive: Path) -> None:
    np.savez(archive, x=np.arange(24, dtype=np.float32).reshape(4, 3, 2))
    npz = {"path": archive.name, "inputs": "x"}

    def shapes(**more: Any) -> list[tuple[int, ...]]:
        return [batch.shape for batch in make_dataset({"npz": npz, **more}, archive.parent).open(archive.parent)]

    assert shapes(batch_size=2) == [(2, 3, 2)] * 2
    assert shapes(batch_size=2, stack_axis=1) == [(3, 2, 2)] * 2
    assert shapes(stack_axis=None) == [(3, 2)] * 4
    with pytest.raises(DataError, match=r"shape \(3, 2\) cannot be stacked along axis 3 of `stack_axis`"):
        shapes(stack_axis=3)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"npz": {"path": "a.npz", "inputs": "x"}, "constants": {"sr": 1}},
            "`constants` need `npz` with `inputs` by name",
        ),
        ({"image_folder": {"path": "a"}, "constants": {"sr": 1}}, "`constants` need `npz`"),
        ({"npz": {"path": "a.npz", "inputs": {"x": "x"}}, "constants": {"x": 1}}, "but 'x' is in both"),
        ({"npz": {"path": "a.npz", "inputs": "x"}, "stack_axis": None, "batch_size": 2}, "a call takes one sample"),
        ({"function": "a:b", "constants": {"sr": 1}}, "`constants` belongs to `npz`"),
        ({"function": "a:b", "stack_axis": 1}, "`stack_axis` belongs to `npz`"),
    ],
)
def test_constants_and_axes_that_cannot_be(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_dataset(section)
