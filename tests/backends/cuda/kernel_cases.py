"""Products that every kernel has to get right, as the interpreter and a GPU run them."""

from __future__ import annotations

import dataclasses

import numpy as np
from format_cases import matrix_for
from numpy.typing import NDArray

from sparsec.backends.cuda.formats import Packed, get
from sparsec.backends.cuda.variants import FORMATS

ACTIVATIONS = ("none", "relu", "silu", "gelu", "gelu_tanh")


@dataclasses.dataclass(frozen=True)
class Case:
    """One product; ``dense`` overrides the pattern's random matrix: ``rows``, ``tile``, ``empty``."""

    form: str
    m: int
    n: int
    k: int
    values: str = "float16"
    out: str = "float16"
    bias: bool = False
    residual: bool = False
    act: str = "none"
    split: int = 1
    group: int | None = None
    sparsity: float = 0.6
    dense: str = ""
    bucket: int | None = None

    @property
    def label(self) -> str:
        shown = [f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self)[5:]
                 if getattr(self, f.name) != f.default]  # fmt: skip
        return "-".join([self.form, self.values, f"{self.m}x{self.n}x{self.k}", *shown])

    def weight(self) -> NDArray[np.float32]:
        """Return W, some of its rows empty or one tile of it full."""
        pattern = get(self.form).pattern
        full = self.dense == "tile"
        matrix = matrix_for(pattern, self.m, self.k, self.k, 0.0 if full else self.sparsity)
        if full:
            matrix[64:], matrix[:, 64:] = 0, 0
        if self.dense == "rows":
            matrix[1::3] = 0
            matrix[: min(16, self.m)] = 0
        return matrix if self.dense != "empty" else np.zeros_like(matrix)

    def packed(self) -> Packed:
        return Packed.of(get(self.form), self.weight(), self.values, self.group)

    def inputs(self) -> dict[str, NDArray]:
        """Return x float16 and perhaps bias and residual."""
        rng = np.random.default_rng(self.m * 1000 + self.n)
        found = {"x": rng.standard_normal((self.n, self.k)).astype(np.float16)}
        if self.bias:
            found["bias"] = rng.standard_normal(self.m).astype(np.float32)
        if self.residual:
            found["residual"] = rng.standard_normal((self.n, self.m)).astype(self.out)
        return found

    def exact(self) -> NDArray[np.float64]:
        """Return y in float64 from the unpacked weight."""
        inputs = self.inputs()
        y = inputs["x"].astype(np.float64) @ self.packed().unpack().astype(np.float64).T
        y = activation(self.act, y + inputs.get("bias", 0))
        return y + inputs.get("residual", 0)


def activation(act: str, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the activation of y, written independently of the kernels."""
    from math import erf

    match act:
        case "relu":
            return np.maximum(y, 0)
        case "silu":
            return y / (1 + np.exp(-y))
        case "gelu":
            return y * (1 + np.vectorize(erf)(y / np.sqrt(2))) / 2
        case "gelu_tanh":
            return y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))) / 2
    return y


def cases() -> list[Case]:
    """Return the cases of the default tests: small, since the interpreter is slow."""
    found = []
    for i, form in enumerate(FORMATS):
        first = get(form).values[0]
        found += [
            Case(form, 70, 17, 132, first, bias=True, act=ACTIVATIONS[i % 5]),
            Case(form, 33, 1, 320, first, bias=True, residual=True, out="float32"),
            Case(form, 17, 5, 516, first, split=3, bias=True, residual=True, act="relu"),
            Case(form, 64, 2, 64, first, dense="tile", out="float32"),
            Case(form, 40, 1, 260, first, dense="rows", split=2),
            Case(form, 9, 4, 36, first, dense="empty", bias=True),
        ]
        for values in get(form).values:
            if values in ("int8", "float8_e4m3fn"):
                found += [
                    Case(form, 20, 2, 132, values, out="float32"),
                    Case(form, 20, 1, 300, values, group=128, bias=True, split=2),
                    Case(form, 17, 6, 192, values, group=128, residual=True),
                ]
    for form in ("nm1_4", "nm2_8"):  # whose threads decode their own operands for such K
        found += [
            Case(form, 150, 17, 256, bias=True, act="gelu"),
            Case(form, 129, 1, 384, residual=True, out="float32"),
            Case(form, 130, 3, 768, split=2, bias=True, residual=True, act="silu"),
            Case(form, 64, 33, 128, dense="tile", out="float32"),
            Case(form, 40, 66, 512, dense="rows", split=2),
        ]
    found += [Case("nm24", 70, 130, 64), Case("block16x1", 20, 70, 64, residual=True)]
    return found


def unpack_cases() -> list[tuple[Case, str]]:
    """Return weights to unpack and the type to unpack them to, where :func:`cases` unpack to float16."""
    found = []
    for form in FORMATS:
        for values in get(form).values:
            if values == "bfloat16":
                found += [
                    (Case(form, m, 1, k, values, dense=dense), values)
                    for m, k, dense in ((37, 196, ""), (16, 64, "tile"), (50, 324, "rows"))
                ]
            elif values != "float16":
                found += [
                    (Case(form, 21, 1, 516, values), "bfloat16"),
                    (Case(form, 35, 1, 268, values, group=128), "bfloat16"),
                    (Case(form, 17, 1, 132, values, group=128, dense="empty"), "float16"),
                    (Case(form, 19, 1, 68, values, dense="rows"), "float32"),
                ]
    return found
