"""Reads experiments of Intel Neural Compressor 1.x, LPOT and iLiT: what means the same here is taken over.

Each other key gets a line with its name here. It is a note where the run is the same without the key, and a problem
where it is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import yaml

from autotune.experiment.neural_compressor_names import (
    APPROACHES,
    DTYPES,
    FRAMEWORKS,
    METRICS,
    NOTES,
    OBJECTIVES,
    PROBLEMS,
    STRATEGIES,
)
from autotune.experiment.nodes import entry, items, made_of, put, taken, texts

Place = Callable[[yaml.Node], str]

_MARKS = ("framework", "version", "device", "pruning", "distillation", "mixed_precision", "graph_optimization", "nas")
_DEEP_MARKS = (
    ("model", "name"),
    ("quantization", "calibration"),
    ("quantization", "model_wise"),
    ("quantization", "op_wise"),
    ("quantization", "optype_wise"),
    ("evaluation", "accuracy", "dataloader"),
    ("evaluation", "accuracy", "configs"),
    ("evaluation", "accuracy", "multi_metrics"),
    ("evaluation", "performance", "configs"),
    ("evaluation", "performance", "iteration"),
    ("evaluation", "performance", "dataloader"),
    ("tuning", "workspace", "path"),
    ("tuning", "exit_policy", "performance_only"),
    ("tuning", "tensorboard"),
    ("tuning", "customized_ops"),
    ("tuning", "metrics"),
    ("tuning", "target"),
)


_ORDER = ("filter", "shuffle", "last_batch", "num_workers", "sampler")
"""Keys of a data loader that choose samples or their order."""

_GIVEN_IN_PYTHON = "what the data loader gave in Python is `{}` here, such as {{function: my_module:batches}}"


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Messages about a file, one for each key that is not read as it stands.

    Attributes:
        notes: Keys that were left out or read in another way.
        problems: Keys that the user has to write anew.
    """

    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def is_neural_compressors(root: yaml.Node) -> bool:
    """Whether a file has keys or values that only Neural Compressor and its forerunners know."""
    values = (
        (("model", "framework"), FRAMEWORKS),
        (("quantization", "approach"), APPROACHES),
        (("tuning", "objective"), OBJECTIVES),
        (("tuning", "exit_policy", "timeout"), ("0",)),
    )
    return (
        any(entry(root, key) is not None for key in _MARKS)
        or any(entry(root, *keys) is not None for keys in _DEEP_MARKS)
        or isinstance(entry(root, "evaluation", "accuracy", "metric"), yaml.MappingNode)
        or any(word in known for keys, known in values for word in texts(entry(root, *keys)))
    )


def translate(root: yaml.Node, place: Place) -> Lines:
    """Rewrite a file of Neural Compressor's in place, as far as its keys mean the same here.

    Args:
        root: The file's tree. Other files are left as they are.
        place: Says where a node stands, as ``file:line``.
    """
    if not is_neural_compressors(root):
        return Lines()
    translation = _Translation(root, place)
    translation.names()
    translation.data()
    translation.ops()
    translation.metric()
    translation.performance()
    translation.tuning()
    translation.others()
    return translation.lines


@dataclasses.dataclass
class _Translation:
    root: yaml.Node
    place: Place
    lines: Lines = field(default_factory=Lines)

    def note(self, node: yaml.Node, key: str, text: str) -> None:
        self.lines.notes.append(f"{self.place(node)}: {key}: {text}")

    def problem(self, node: yaml.Node, key: str, text: str) -> None:
        self.lines.problems.append(f"{self.place(node)}: {key}: {text}")

    def names(self) -> None:
        """Values that have another name here."""
        for keys, known in (
            (("model", "framework"), FRAMEWORKS),
            (("quantization", "approach"), APPROACHES),
            (("tuning", "objective"), OBJECTIVES),
            (("tuning", "strategy"), STRATEGIES),
            (("tuning", "strategy", "name"), STRATEGIES),
        ):
            node = entry(self.root, *keys)
            if isinstance(node, yaml.ScalarNode) and node.value in known:
                put(self.root, keys, known[node.value], node)

    def data(self) -> None:
        """Sections ``calibration`` and ``dataloader``."""
        quantization = entry(self.root, "quantization")
        if (found := taken(quantization, "calibration")) is not None:
            key, section = found
            if (size := entry(section, "sampling_size")) is not None:
                self._sampling_size(size)
            self._rest(section, ("sampling_size", "dataloader"), "quantization.calibration")
            loader = entry(section, "dataloader")
            if loader is not None:
                self._dataset(loader, ("calibration", "dataset"), "quantization.calibration.dataloader")
            elif entry(self.root, "calibration", "dataset") is None:
                self.problem(key, "quantization.calibration", _GIVEN_IN_PYTHON.format("calibration.dataset"))
        elif entry(self.root, "calibration") is None:
            self.problem(self.root, "calibration", _GIVEN_IN_PYTHON.format("calibration.dataset"))
        accuracy = entry(self.root, "evaluation", "accuracy")
        if (found := taken(accuracy, "dataloader")) is not None:
            self._dataset(found[1], ("evaluation", "accuracy", "dataset"), "evaluation.accuracy.dataloader")
        elif entry(accuracy, "metric") is not None and entry(accuracy, "dataset") is None:
            self.problem(
                accuracy or self.root, "evaluation.accuracy", _GIVEN_IN_PYTHON.format("evaluation.accuracy.dataset")
            )
        elif not any(entry(accuracy, key) is not None for key in ("metric", "metrics", "multi_metrics", "function")):
            text = "what `eval_func` was in Python is `function: my_module:evaluate` here"
            self.problem(accuracy or self.root, "evaluation.accuracy", text)

    def _rest(self, section: yaml.Node | None, known: tuple[str, ...], name: str) -> None:
        """A line for each key that nothing here reads."""
        for key, value in items(section):
            if key not in known:
                self.problem(value, f"{name}.{key}", "has no counterpart here: remove it")

    def _sampling_size(self, node: yaml.Node) -> None:
        sizes = [int(word) for word in texts(node) if word.isdigit()]
        if not sizes:
            self.problem(
                node,
                "quantization.calibration.sampling_size",
                "must be a whole number, as `100`",
            )
            return
        put(self.root, ("calibration", "sampling_size"), max(sizes), node)
        if len(sizes) > 1:
            text = f"`calibration.sampling_size` is one number here: {max(sizes)}, the largest of yours"
            self.note(node, "quantization.calibration.sampling_size", text)

    def _dataset(self, loader: yaml.Node, keys: tuple[str, ...], name: str) -> None:
        dotted = ".".join(keys)
        made: dict[str, object] = {}
        for kind, options in items(entry(loader, "dataset")):
            picture = {
                "path": entry(options, "root") or entry(options, "data_path"),
                "labels": entry(options, "image_list"),
            }
            if kind not in ("ImageFolder", "ImagenetRaw") or picture["path"] is None:
                text = f"is none of the kinds here: give `{dotted}` an `npz`, an `image_folder` or a `function`"
                self.problem(options, f"{name}.dataset.{kind}", text)
                return
            self._rest(options, ("root", "data_path", "image_list"), f"{name}.dataset.{kind}")
            made["image_folder"] = {key: value for key, value in picture.items() if value is not None}
        if (size := entry(loader, "batch_size")) is not None:
            made["batch_size"] = size
        steps = [self._step(step, options, f"{name}.transform") for step, options in items(entry(loader, "transform"))]
        if any(steps):
            made["preprocess"] = [step for step in steps if step is not None]
        self._rest(loader, ("dataset", "batch_size", "transform", *_ORDER), name)
        for key in _ORDER:
            if (node := entry(loader, key)) is not None:
                self.note(node, f"{name}.{key}", "all samples are read in their order; a `function` can choose")
        put(self.root, keys, made_of(made, loader), loader)

    def _step(self, kind: str, options: yaml.Node, name: str) -> dict[str, object] | None:
        if kind == "Rescale":
            return {"rescale": {"divisor": 255}}
        renamed = {
            "Normalize": ("normalize", {"mean": "mean", "std": "std"}),
            "Transpose": ("transpose", {"perm": "order"}),
            "CenterCrop": ("center_crop", {"size": "size"}),
            "Cast": ("cast", {"dtype": "dtype"}),
        }
        if kind in renamed and {key for key, _ in items(options)} <= set(renamed[kind][1]):
            step, keys = renamed[kind]
            return {step: {keys[key]: value for key, value in items(options)}}
        text = "has no step that does just the same: write `preprocess`, with `resize`, `normalize` and others"
        self.problem(options, f"{name}.{kind}", text)
        return None

    def ops(self) -> None:
        """Sections ``model_wise``, ``optype_wise`` and ``op_wise``."""
        quantization = entry(self.root, "quantization")
        if (found := taken(quantization, "model_wise")) is not None:
            self._choices(found[1], ("quantization", "op_name", "*"), "quantization.model_wise")
        for section, here in (("optype_wise", "op_type"), ("op_wise", "op_name")):
            if (found := taken(quantization, section)) is None:
                continue
            for op, choices in items(found[1]):
                name = f"quantization.{section}.{op}"
                if here == "op_name" and any(character in op for character in "\\[](){}|+^$?"):
                    text = "is a regular expression; `quantization.op_name` takes names and patterns such as `block1/*`"
                    self.problem(choices, name, text)
                    continue
                self._choices(choices, ("quantization", here, op), name)

    def _choices(self, choices: yaml.Node, keys: tuple[str, ...], name: str) -> None:
        made: dict[str, object] = {}
        dtypes = {part: texts(entry(choices, part, "dtype")) for part in ("activation", "weight")}
        named = dtypes["activation"] or dtypes["weight"]
        others = [each for each in named if each not in DTYPES]
        if named:
            precisions = (["int8"] if len(others) < len(named) else []) + others
            made["precision"] = precisions
        for part in ("activation", "weight"):
            below: dict[str, object] = {}
            integers = [DTYPES[each] for each in dtypes[part] if each in DTYPES]
            if integers:
                below["dtype"] = integers
            schemes = texts(entry(choices, part, "scheme"))
            if len(schemes) == 1:
                below["symmetric"] = schemes[0] == "sym"
            if granularity := texts(entry(choices, part, "granularity")):
                below["granularity"] = granularity
            if part == "activation" and (algorithms := texts(entry(choices, part, "algorithm"))):
                below["algorithm"] = algorithms
            if below:
                made[part] = below
        self._rest(choices, ("activation", "weight"), name)
        for part in ("activation", "weight"):
            self._rest(entry(choices, part), ("dtype", "scheme", "granularity", "algorithm"), f"{name}.{part}")
        if (algorithm := entry(choices, "weight", "algorithm")) is not None:
            text = (
                "ranges of weights come from the weights themselves; `quantization.recipes` says how they are rounded"
            )
            self.note(algorithm, f"{name}.weight.algorithm", text)
        if made:
            put(self.root, keys, made_of(made, choices), choices)

    def metric(self) -> None:
        """The metric, which is a name with options beside it here."""
        node = entry(self.root, "evaluation", "accuracy", "metric")
        if not isinstance(node, yaml.MappingNode):
            return
        accuracy = entry(self.root, "evaluation", "accuracy")
        taken(accuracy, "metric")
        for name, value in items(node):
            if name == "topk" and isinstance(value, yaml.ScalarNode):
                put(self.root, ("evaluation", "accuracy", "metric"), "topk", node)
                put(self.root, ("evaluation", "accuracy", "k"), value, node)
            else:
                known = METRICS.get(name, "NAME")
                text = f"is `metric: {known}` here, with its options beside it; docs/evaluation.md lists the names"
                self.problem(node, f"evaluation.accuracy.metric.{name}", text)

    def performance(self) -> None:
        """Threads of one instance."""
        configs = entry(self.root, "evaluation", "performance", "configs")
        cores = entry(configs, "cores_per_instance") or entry(configs, "intra_num_of_threads")
        if cores is not None:
            put(self.root, ("evaluation", "performance", "threads"), cores, cores)

    def tuning(self) -> None:
        """The workspace, and when a search ends."""
        if (path := entry(self.root, "tuning", "workspace", "path")) is not None:
            if (resume := entry(self.root, "tuning", "workspace", "resume")) is not None:
                self.note(resume, "tuning.workspace.resume", "the same workspace resumes")
            put(self.root, ("tuning", "workspace"), path, path)
        policy = entry(self.root, "tuning", "exit_policy")
        timeout = entry(policy, "timeout")
        if texts(timeout) == ["0"] and (found := taken(policy, "timeout")) is not None:
            text = (
                "0 means `stop at the first that meets` there; here the search goes on to the fastest, until "
                "`max_trials` or a `timeout`"
            )
            self.note(found[0], "tuning.exit_policy.timeout", text)
        if (found := taken(policy, "performance_only")) is not None and texts(found[1]) in (["True"], ["true"]):
            text = "is `strategy: basic` with `exit_policy: {max_trials: 1}` here, and the target decides all the same"
            self.problem(found[0], "tuning.exit_policy.performance_only", text)

    def others(self) -> None:
        """Keys of the two tables."""
        for table, say in ((NOTES, self.note), (PROBLEMS, self.problem)):
            for dotted, text in table.items():
                *above, key = dotted.split(".")
                if (found := taken(entry(self.root, *above), key)) is not None:
                    say(found[0], dotted, text)
