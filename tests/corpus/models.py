"""Files that are no models, and models that break one rule each.

``CASES`` is a table: how to write the file, and which words the error must contain. Nothing here is
committed as a file: the builders are the corpus.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


@dataclasses.dataclass(frozen=True)
class Case:
    """One source that must be refused."""

    name: str
    write: Callable[[Path], Path]
    words: tuple[str, ...]  # all of them stand in the message


def tensor(name: str, *shape: int, fill: float = 0.5) -> onnx.TensorProto:
    return numpy_helper.from_array(np.full(shape, fill, np.float32), name)


def value(name: str, shape: Any = (1, 4), kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto],
    inits: list[onnx.TensorProto] = (),  # type: ignore[assignment]
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    opset: int = 17,
    domains: dict[str, int] | None = None,
    ir_version: int = 8,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x")] if inputs is None else inputs,
        [value("y")] if outputs is None else outputs,
        list(inits),
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(d, v) for d, v in (domains or {}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def node(op: str, inputs: list[str], outputs: list[str], name: str = "n", **attrs: Any) -> Any:
    return helper.make_node(op, inputs, outputs, name=name, **attrs)


def good() -> onnx.ModelProto:
    return model([node("MatMul", ["x", "w"], ["y"])], [tensor("w", 4, 4)])


def saved(proto: onnx.ModelProto) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return write


def raw(data: bytes, name: str = "model.onnx") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return write


def external(folder: Path, location: str, offset: str = "0", length: str | None = None) -> Path:
    """Write a model whose weight of 4 x 4 lies in another file."""
    proto = good()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset}
    if length is not None:
        entries["length"] = length
    for key, text in entries.items():
        weight.external_data.add(key=key, value=text)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def missing_data(folder: Path) -> Path:
    return external(folder, "weights.bin")


def short_data(folder: Path) -> Path:
    (folder / "weights.bin").write_bytes(b"\0" * 63)
    return external(folder, "weights.bin")


def offset_beyond(folder: Path) -> Path:
    (folder / "weights.bin").write_bytes(b"\0" * 64)
    return external(folder, "weights.bin", offset="4096")


def negative_offset(folder: Path) -> Path:
    (folder / "weights.bin").write_bytes(b"\0" * 64)
    return external(folder, "weights.bin", offset="-64")


def huge_length(folder: Path) -> Path:
    (folder / "weights.bin").write_bytes(b"\0" * 64)
    return external(folder, "weights.bin", length=str(2**62))


def offset_no_number(folder: Path) -> Path:
    (folder / "weights.bin").write_bytes(b"\0" * 64)
    return external(folder, "weights.bin", offset="many")


def outside(folder: Path) -> Path:
    (folder / "inner").mkdir()
    (folder / "weights.bin").write_bytes(b"\0" * 64)
    return external(folder / "inner", "../weights.bin")


def outside_absolute(folder: Path) -> Path:
    return external(folder, "/etc/passwd")


def outside_link(folder: Path) -> Path:
    (folder / "inner").mkdir()
    (folder / "weights.bin").write_bytes(b"\0" * 64)
    (folder / "inner" / "weights.bin").symlink_to(folder / "weights.bin")
    return external(folder / "inner", "weights.bin")


def endless_location(folder: Path) -> Path:
    return external(folder, "w" * 5000)


def no_location(folder: Path) -> Path:
    path = external(folder, "weights.bin")
    proto = onnx.load(path, load_external_data=False)
    del proto.graph.initializer[0].external_data[:]
    path.write_bytes(proto.SerializeToString())
    return path


def data_is_a_folder(folder: Path) -> Path:
    (folder / "weights.bin").mkdir()
    return external(folder, "weights.bin")


def is_a_folder(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.mkdir()
    return path


def is_missing(folder: Path) -> Path:
    return folder / "model.onnx"


def a_zip(folder: Path) -> Path:
    path = folder / "model.onnx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return path


def short_tensor() -> onnx.ModelProto:
    proto = good()
    proto.graph.initializer[0].raw_data = b"\0" * 10
    return proto


def negative_dimension() -> onnx.ModelProto:
    proto = good()
    proto.graph.initializer[0].dims[0] = -4
    return proto


def huge_dimension() -> onnx.ModelProto:
    proto = good()
    proto.graph.initializer[0].dims[0] = 2**62
    return proto


def unknown_dtype() -> onnx.ModelProto:
    proto = good()
    proto.graph.initializer[0].data_type = 99
    return proto


def no_graph() -> onnx.ModelProto:
    proto = good()
    proto.ClearField("graph")
    return proto


def no_opset() -> onnx.ModelProto:
    proto = good()
    del proto.opset_import[:]
    return proto


def cycle() -> onnx.ModelProto:
    return model([node("Add", ["x", "b"], ["a"], "first"), node("Relu", ["a"], ["b"], "second"),
                  node("Relu", ["b"], ["y"], "third")])  # fmt: skip


def self_loop() -> onnx.ModelProto:
    return model([node("Add", ["x", "a"], ["a"], "knot"), node("Relu", ["a"], ["y"], "out")])


def same_output_twice() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"], "one"), node("Neg", ["x"], ["y"], "two")])


def input_is_an_output_of_a_node() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["x"], "eater"), node("Neg", ["x"], ["y"], "two")])


def initializer_twice() -> onnx.ModelProto:
    return model([node("MatMul", ["x", "w"], ["y"])], [tensor("w", 4, 4), tensor("w", 4, 4)])


def nameless_initializer() -> onnx.ModelProto:
    return model([node("MatMul", ["x", "w"], ["y"])], [tensor("w", 4, 4), tensor("", 4, 4)])


def same_input_twice() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], inputs=[value("x"), value("x")])


def dangling_in_body() -> onnx.ModelProto:
    body = helper.make_graph([node("Relu", ["ghost"], ["o"], "inner")], "b", [], [value("o")])
    other = helper.make_graph([node("Relu", ["x"], ["p"], "fine")], "c", [], [value("p")])
    choice = node("If", ["c"], ["y"], "choice", then_branch=body, else_branch=other)
    return model([choice], inputs=[value("x"), value("c", (), TensorProto.BOOL)])


def recursive_functions() -> onnx.ModelProto:
    proto = model([node("F", ["x"], ["y"], "call", domain="mine")], domains={"mine": 1})
    imports = [helper.make_opsetid("mine", 1), helper.make_opsetid("", 17)]
    for name, called in (("F", "G"), ("G", "F")):
        inner = helper.make_node(called, ["a"], ["b"], domain="mine")
        proto.functions.append(
            helper.make_function("mine", name, ["a"], ["b"], [inner], opset_imports=imports)
        )
    return proto


def pattern_unreadable() -> onnx.ModelProto:
    proto = good()
    claimed = value("w", (4, 4))
    claimed.metadata_props.add(key="sparsec.pattern", value="7of9")
    proto.graph.value_info.append(claimed)
    return proto


IMPORT = (
    Case("missing", is_missing, ("no such file",)),
    Case("folder", is_a_folder, ("folder",)),
    Case("empty", raw(b""), ("empty",)),
    Case("garbage", raw(bytes(range(256)) * 8), ("ONNX",)),
    Case("text", raw(b"This is a text and no model.\n" * 40), ("ONNX",)),
    Case("zeros", raw(b"\0" * 4096), ("ONNX",)),
    Case("zip", a_zip, ("ONNX",)),
    Case("truncated", raw(good().SerializeToString()[:-30]), ("ONNX",)),
    Case("cut-in-half", raw(good().SerializeToString()[:40]), ("ONNX",)),
    Case("no-graph", saved(no_graph()), ("no graph",)),
    Case("data-missing", missing_data, ("weights.bin", "missing", "'w'")),
    Case("data-short", short_data, ("weights.bin", "'w'", "63")),
    Case("data-offset-beyond", offset_beyond, ("weights.bin", "'w'", "4096")),
    Case("data-offset-negative", negative_offset, ("'w'", "-64")),
    Case("data-offset-no-number", offset_no_number, ("many",)),
    Case("data-length-huge", huge_length, ("'w'",)),
    Case("data-outside", outside, ("'w'", "outside")),
    Case("data-absolute", outside_absolute, ("'w'", "outside")),
    Case("data-link-outside", outside_link, ("'w'", "outside")),
    Case("data-location-endless", endless_location, ("'w'", "missing")),
    Case("data-no-location", no_location, ("'w'",)),
    Case("data-is-a-folder", data_is_a_folder, ("weights.bin",)),
    Case("tensor-short", saved(short_tensor()), ("'w'", "64", "10")),
    Case("tensor-negative", saved(negative_dimension()), ("'w'", "-4")),
    Case("tensor-huge", saved(huge_dimension()), ("'w'",)),
    Case("tensor-dtype", saved(unknown_dtype()), ("99",)),
    Case("opset-none", saved(no_opset()), ("opset",)),
    Case("opset-old", saved(model([node("Relu", ["x"], ["y"])], opset=3)), ("opset 3", "7")),
    Case("opset-new", saved(model([node("Relu", ["x"], ["y"])], opset=999)), ("opset 999",)),
    Case("domain-undeclared",
         saved(model([node("Odd", ["x"], ["y"], "strange", domain="acme")])),
         ("acme", "strange", "not imported")),
    Case("cycle", saved(cycle()), ("cycle", "first")),
    Case("self-loop", saved(self_loop()), ("cycle", "knot")),
    Case("dangling", saved(model([node("Add", ["x", "ghost"], ["y"], "adder")])),
         ("adder", "ghost")),
    Case("dangling-output", saved(model([node("Relu", ["x"], ["z"])])), ("'y'",)),
    Case("dangling-in-body", saved(dangling_in_body()), ("inner", "ghost")),
    Case("no-outputs", saved(model([node("Relu", ["x"], ["y"])], outputs=[])), ("no outputs",)),
    Case("output-twice", saved(same_output_twice()), ("'y'", "two")),
    Case("output-shadows-input", saved(input_is_an_output_of_a_node()), ("'x'", "eater")),
    Case("initializer-twice", saved(initializer_twice()), ("'w'",)),
    Case("initializer-nameless", saved(nameless_initializer()), ("name",)),
    Case("input-twice", saved(same_input_twice()), ("'x'",)),
    Case("function-recursion", saved(recursive_functions()), ("Cyclic", "mine::F")),
    Case("pattern-unreadable", saved(pattern_unreadable()), ("'w'", "7of9")),
)  # fmt: skip
