"""A graph in the textual form of ONNX whose weights are drawn from a seed.

``$name`` in the text stands for a drawn weight as a literal: the way into ``Constant`` nodes and
subgraphs. Every other drawn weight becomes an initializer.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
Draw = Callable[[np.random.Generator], Array]


@dataclasses.dataclass(frozen=True, slots=True)
class Tiny:
    """One small graph.

    Parameters
    ----------
    why : str
        What the graph is there to exercise.
    text : str
        The graph in textual form, from its name on; opset 20 unless it begins with a header.
    weights : mapping of name to how it is drawn
    inputs : mapping of graph input to how it is drawn
    """

    why: str
    text: str
    weights: Mapping[str, Draw]
    inputs: Mapping[str, Draw]

    def model(self, seed: int = 0) -> onnx.ModelProto:
        """Build the graph with weights of the seed; it has passed the ONNX checker."""
        rng = np.random.default_rng(seed)
        drawn = {name: draw(rng) for name, draw in self.weights.items()}
        text = self.text.strip()
        if not text.startswith("<"):
            text = f'<ir_version: 9, opset_import: ["" : 20]>\n{text}'
        literals = {name: _literal(value) for name, value in drawn.items()}
        model = onnx.parser.parse_model(string.Template(text).substitute(literals))
        inside = string.Template(text).get_identifiers()
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name)
            for name, value in drawn.items()
            if name not in inside
        )
        onnx.checker.check_model(model)
        return model

    def feeds(self, n: int = 1, seed: int = 0) -> list[dict[str, Array]]:
        """Return ``n`` valid feeds."""
        rng = np.random.default_rng([seed, 1])  # not the stream of the weights
        return [{name: draw(rng) for name, draw in self.inputs.items()} for _ in range(n)]


def _literal(value: Array) -> str:
    """Write an array as a tensor of the textual form; nine digits keep every float32."""
    kind = helper.tensor_dtype_to_string(helper.np_dtype_to_tensor_dtype(value.dtype))
    numbers = ", ".join(f"{each:.9g}" for each in value.ravel().tolist())
    shape = ",".join(map(str, value.shape))
    return f"{kind.removeprefix('TensorProto.').lower()}[{shape}] {{{numbers}}}"


def floats(*shape: int) -> Draw:
    """Draw normal float32, scaled so that a product over the last axis keeps its size."""
    scale = shape[-1] ** -0.5 if len(shape) > 1 else 1.0
    return lambda rng: (rng.standard_normal(shape) * scale).astype(np.float32)


def signal(*shape: int) -> Draw:
    """Draw standard normal float32."""
    return lambda rng: rng.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Draw:
    """Draw float32 between .5 and 1.5: scales and variances."""
    return lambda rng: rng.uniform(0.5, 1.5, shape).astype(np.float32)


def integers(low: int, high: int, *shape: int, dtype: type[np.integer[Any]] = np.int64) -> Draw:
    """Draw integers from ``low`` to ``high - 1``."""
    return lambda rng: rng.integers(low, high, shape).astype(dtype)


def fixed(value: object, dtype: type[np.generic]) -> Draw:
    """Give the same array always."""
    return lambda rng: np.array(value, dtype)
