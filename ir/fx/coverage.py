"""What can be imported and what cannot, as tables for the documentation.

``python -m sparsec.ir.fx.coverage FILE`` replaces the text between the two marks in a file.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

from sparsec.ir.fx import registry
from sparsec.ir.fx.operators import FAMILIES
from sparsec.ir.fx.support import STRUCTURAL

BEGIN, END = "<!-- operators: begin -->", "<!-- operators: end -->"

#: Operators of the default ONNX domain that are not imported, by reason.
NOT_IMPORTED = {
    "works on text or encoded images, which torch has no tensors of": (
        "ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit",
        "TfIdfVectorizer",
    ),
    "optional values, and bodies mapped over sequences: no exporter of networks emits them": (
        "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceMap",
    ),
    "losses: give the executor a loss in torch instead": (
        "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss",
    ),
    "in none of the networks that we import; runs as an ONNX Runtime leaf": (
        "DeformConv", "MaxRoiPool", "Multinomial",
    ),
    "newer than opset 23": (
        "BitCast", "CausalConvWithState", "CumProd", "LinearAttention", "SwiGLU", "TensorScatter",
    ),
}  # fmt: skip


def coverage_table() -> str:
    """Return Markdown: importable operators by family, with the first opset, and all others."""
    first: dict[ModuleType, dict[str, int]] = defaultdict(dict)
    homes = {module.__name__: module for module in FAMILIES.values()}
    for operator in registry.table():
        if operator.home not in homes:  # a backend's own, which no graph from outside has
            continue
        name = f"{operator.domain}.{operator.name}" if operator.domain else operator.name
        home = first[homes[operator.home]]
        home[name] = min(operator.since, home.get(name, operator.since))
    rows = {family: first[module] for family, module in FAMILIES.items()}
    rows["Control flow and constants"] = STRUCTURAL
    count = sum(len(operators) for operators in rows.values())
    lines = [f"| family | operators ({count}) |", "|---|---|"]
    lines += [
        f"| {family} | {', '.join(_entry(*item) for item in sorted(rows[family].items()))} |"
        for family in sorted(rows)
    ]
    lines += ["", "| not imported | why |", "|---|---|"]
    lines += [f"| {', '.join(names)} | {reason} |" for reason, names in NOT_IMPORTED.items()]
    return "\n".join(lines)


def _entry(name: str, since: int) -> str:
    return name if since == 1 else f"{name} {since}"


def main(path: str) -> None:
    """Bring the table in a file up to date."""
    file = Path(path)
    text = file.read_text(encoding="utf-8")
    head, tail = text[: text.index(BEGIN)], text[text.index(END) :]
    file.write_text(f"{head}{BEGIN}\n{coverage_table()}\n{tail}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
