"""A model as text: for people, for golden tests, and for writing small graphs by hand.

It is the ONNX text form with two additions, both comments to an ONNX parser. Metadata of initializers, which
ONNX text drops, stands at the end::

    # w: sparsec.pattern="2:4@0"

and a tensor that was too large to print is declared by type and named there::

    # w: abbreviated
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from sparsec.ir.errors import ModelImportError
from sparsec.ir.load import load_model
from sparsec.ir.verify import verify

_NOTE = re.compile(r'^# (?P<name>"(?:[^"\\]|\\.)*"|\S+): (?P<rest>.*)$')
_PROPERTY = re.compile(r'([^\s=]+)=("(?:[^"\\]|\\.)*")')
_ABBREVIATED = "abbreviated"


def to_text(model: ir.Model, *, most_elements: int | None = 16) -> str:
    """Return ``model`` as text.

    Parameters
    ----------
    model : onnx_ir.Model
    most_elements : int, optional
        Larger initializers are abbreviated: fit for people, not for :func:`from_text`. None prints all
        of them.

    Returns
    -------
    str
        The same for equal models.
    """
    shown = model.clone()
    notes: list[str] = []
    declared: list[ir.Value] = []
    for graph in (shown.graph, *shown.graph.subgraphs()):
        for name, value in list(graph.initializers.items()):
            notes += _notes(name, value)
            tensor = value.const_value
            if most_elements is not None and tensor is not None and tensor.size > most_elements:
                notes.append(f"# {_quoted(name)}: {_ABBREVIATED}")
                shape = ir.Shape(tensor.shape.numpy())
                declared.append(ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype)))
                del graph.initializers[name]
    proto = ir.to_proto(shown)
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(ir.serde.serialize_value(value) for value in declared)
    text = onnx.printer.to_text(proto).rstrip()
    return "\n".join([text, *notes]) + "\n"


def from_text(text: str) -> ir.Model:
    """Read what :func:`to_text` printed in full, or a person wrote.

    Returns
    -------
    onnx_ir.Model
        Canonical and verified.

    Raises
    ------
    ModelImportError
        If the text is no model, or was abbreviated.
    """
    lines = text.splitlines()
    notes = [match for line in lines if (match := _NOTE.match(line))]
    for note in notes:
        if note["rest"] == _ABBREVIATED:
            raise ModelImportError(
                f"the text: the tensor {_unquoted(note['name'])!r} was abbreviated; print the model "
                "with most_elements=None"
            )
    try:
        proto = onnx.parser.parse_model("\n".join(line for line in lines if not _NOTE.match(line)))
    except onnx.parser.ParseError as error:
        raise ModelImportError(f"the text: not a model: {_place(error)}") from error
    model = load_model(proto)
    stored = {
        name: value
        for graph in (model.graph, *model.graph.subgraphs())
        for name, value in graph.initializers.items()
    }
    for note in notes:
        name = _unquoted(note["name"])
        if name not in stored:
            raise ModelImportError(f"the text: it notes {name!r}, which is no initializer")
        for key, quoted in _PROPERTY.findall(note["rest"]):
            stored[name].metadata_props[key] = json.loads(quoted)
    verify(model, where="the text", error=ModelImportError)
    return model


def _notes(name: str, value: ir.Value) -> Iterator[str]:
    properties = sorted(value.metadata_props.items())
    if properties:
        stated = " ".join(f"{key}={json.dumps(text)}" for key, text in properties)
        yield f"# {_quoted(name)}: {stated}"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w./]+", name) else json.dumps(name)


def _unquoted(name: str) -> str:
    return str(json.loads(name)) if name.startswith('"') else name


def _place(error: onnx.parser.ParseError) -> str:
    """Return the parser's complaint without its byte string."""
    text = error.args[0] if error.args else error
    text = text.decode() if isinstance(text, bytes) else str(text)
    return " ".join(text.split())[:200]
