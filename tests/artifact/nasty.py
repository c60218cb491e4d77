"""A corpus of manipulated artifacts, and the means to make more of them.

Each entry damages a good artifact in one way. What must come of it is one error that names the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to damage an artifact."""

    name: str
    damage: Callable[[Path], None]
    words: str  # regular expression that the message matches
    where: str  # end of the file that the error names


def read(root: Path) -> dict[str, Any]:
    return dict(json.loads((root / "manifest.json").read_text()))


def write(root: Path, manifest: Any) -> None:
    (root / "manifest.json").write_text(json.dumps(manifest))


def rehash(root: Path) -> None:
    """Make hashes and sizes right again, as someone would who means it."""
    manifest = read(root)
    manifest["files"] = {
        file.relative_to(root).as_posix(): {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
        }
        for file in sorted(root.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }
    write(root, manifest)


def text(content: str | bytes) -> Callable[[Path], None]:
    """Replace the manifest's bytes."""
    data = content.encode() if isinstance(content, str) else content

    def damage(root: Path) -> None:
        (root / "manifest.json").write_bytes(data)

    return damage


def put(*path: str | int, value: Any) -> Callable[[Path], None]:
    """Set one field of the manifest."""

    def damage(root: Path) -> None:
        manifest: Any = read(root)
        at = manifest
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        write(root, manifest)

    return damage


def drop(key: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        manifest = read(root)
        del manifest[key]
        write(root, manifest)

    return damage


def listed(name: str) -> Callable[[Path], None]:
    """List a file of that name, with the hash and size of a real one."""

    def damage(root: Path) -> None:
        manifest = read(root)
        manifest["files"][name] = manifest["files"]["model.onnx"]
        write(root, manifest)

    return damage


def graph(edit: Callable[[onnx.ModelProto], None]) -> Callable[[Path], None]:
    """Edit the graph, and make every hash right again."""

    def damage(root: Path) -> None:
        model = onnx.load(root / "model.onnx", load_external_data=False)
        edit(model)
        (root / "model.onnx").write_bytes(model.SerializeToString())
        rehash(root)

    return damage


def graph_bytes(data: bytes) -> Callable[[Path], None]:
    """Replace the graph, and make every hash right again."""

    def damage(root: Path) -> None:
        (root / "model.onnx").write_bytes(data)
        rehash(root)

    return damage


def graph_bytes_replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    """Replace bytes of the graph by as many others, and make every hash right again."""

    def damage(root: Path) -> None:
        data = (root / "model.onnx").read_bytes()
        assert old in data
        (root / "model.onnx").write_bytes(data.replace(old, new))
        rehash(root)

    return damage


def external(key: str, value: str) -> Callable[[Path], None]:
    """Change where the first large tensor of the graph lies."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.external_data)
        entry = next((e for e in tensor.external_data if e.key == key), None)
        entry = tensor.external_data.add() if entry is None else entry
        entry.key, entry.value = key, value

    return graph(edit)


def dims(*sizes: int) -> Callable[[Path], None]:
    def edit(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.external_data)
        tensor.dims[:] = sizes

    return graph(edit)


def _inline_dims(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if not t.external_data)
    tensor.dims[:] = [1 << 40]


def _truncate(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[:-1])

    return damage


def _short_data(root: Path) -> None:
    _truncate("model.onnx.data")(root)
    rehash(root)


def _halve(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])

    return damage


def _flip(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[len(data) // 2] ^= 1
        (root / name).write_bytes(data)

    return damage


def _link(root: Path) -> None:
    (root / "model.onnx.data").rename(root.parent / "elsewhere")
    (root / "model.onnx.data").symlink_to(root.parent / "elsewhere")


def _linked_folder(root: Path) -> None:
    (root.parent / "outside").mkdir()
    (root.parent / "outside" / "x").write_text("")
    (root / "lib").symlink_to(root.parent / "outside")
    manifest = read(root)
    manifest["files"]["lib/x"] = {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}
    write(root, manifest)


def _linked_manifest(root: Path) -> None:
    (root / "manifest.json").rename(root.parent / "m.json")
    (root / "manifest.json").symlink_to(root.parent / "m.json")


def _pipe(root: Path) -> None:
    (root / "model.onnx").unlink()
    os.mkfifo(root / "model.onnx")


def _deep(root: Path) -> None:
    folder = root
    for _ in range(20):
        folder = folder / "d"
        folder.mkdir()


def _empty_manifest_folder(root: Path) -> None:
    (root / "manifest.json").unlink()
    (root / "manifest.json").mkdir()


def _huge(root: Path) -> None:
    with (root / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: takes no room


def _many(root: Path) -> None:
    manifest = read(root)
    entry = manifest["files"]["model.onnx"]
    manifest["files"] |= {f"f{index}": entry for index in range(100_001)}
    write(root, manifest)


M, G, D = "manifest.json", "model.onnx", "model.onnx.data"
KERNEL = {"name": "k", "file": G, "num_warps": 4, "shared_bytes": 0}

CASES = [
    # The manifest as bytes.
    Case("empty", text(""), "not valid JSON", M),
    Case("cut", _halve(M), "not valid JSON", M),
    Case("not-utf8", text(b'{"format": "\xff"}'), "not valid JSON", M),
    Case("utf16", text('{"format": "sparsec-artifact"}'.encode("utf-16")), "not valid JSON", M),
    Case("nul", text(b"\0" * 100), "not valid JSON", M),
    Case("deep", text("[" * 200_000), "not valid JSON", M),
    Case("deep-object", text('{"a":' * 200_000), "not valid JSON", M),
    Case("nan", put("verify", "max_rel", value=float("nan")), "NaN is not JSON", M),
    Case("infinity", put("verify", "max_rel", value=float("inf")), "Infinity is not JSON", M),
    Case("huge-number", text('{"format": 1e999}'), "out of range", M),
    Case("long-number", text('{"format": ' + "9" * 10_000 + "}"), "not valid JSON", M),
    Case("half-surrogate", text('{"format": "\\ud800"}'), "not valid JSON", M),
    Case("twice", text('{"format": "sparsec-artifact", "format": "x"}'), "given twice", M),
    Case("a-list", text("[]"), "not the manifest", M),
    Case("a-number", text("1"), "not the manifest", M),
    Case("of-another-tool", text('{"name": "a web app"}'), "not the manifest", M),
    Case("a-folder", _empty_manifest_folder, "no plain file", M),
    Case("a-link", _linked_manifest, "no plain file", M),
    Case("too-large", _huge, "at most", M),
    # Version.
    Case("newer", put("format_version", value=2), "install a newer", M),
    Case("newest", put("format_version", value=10**30), "install a newer", M),
    Case("version-0", put("format_version", value=0), "whole number from 1", M),
    Case("version-true", put("format_version", value=True), "whole number from 1", M),
    Case("version-text", put("format_version", value="1"), "whole number from 1", M),
    # Paths.
    Case("parent", listed("../outside"), "could leave", M),
    Case("parent-inside", listed("lib/../../outside"), "could leave", M),
    Case("absolute", listed("/etc/passwd"), "could leave", M),
    Case("home", listed("~/x"), "could leave", M),
    Case("backslash", listed("..\\x"), "could leave", M),
    Case("drive", listed("C:/x"), "could leave", M),
    Case("dot", listed("./model.onnx"), "could leave", M),
    Case("empty-part", listed("lib//x"), "could leave", M),
    Case("empty-name", listed(""), "could leave", M),
    Case("nul-name", listed("a\0b"), "could leave", M),
    Case("newline", listed("model.onnx\n"), "could leave", M),
    Case("not-ascii", listed("mod\u00e8le"), "could leave", M),
    Case("itself", listed("manifest.json"), "lists itself", M),
    Case("long-name", listed("x" * 5000), "missing", "x" * 100),
    Case("file-as-folder", listed("model.onnx/x"), "missing", "model.onnx/x"),
    Case("too-many", _many, "at most 100000", M),
    Case("no-model", put("files", value={}), "does not list model.onnx", M),
    # Files.
    Case("missing", lambda root: (root / G).unlink(), "missing", G),
    Case("extra", lambda root: (root / "extra").touch(), "not listed", "extra"),
    Case("link", _link, "not a plain file", D),
    Case("linked-folder", _linked_folder, "not a plain file", "lib"),
    Case("pipe", _pipe, "not a plain file", G),
    Case("deep-folders", _deep, "nested too deep", "d"),
    Case("truncated", _truncate(D), "truncated", D),
    Case("truncated-graph", _truncate(G), "truncated", G),
    Case("flipped", _flip(D), "altered", D),
    Case("flipped-graph", _flip(G), "altered", G),
    Case("flipped-report", _flip("report.html"), "altered", "report.html"),
    Case("size", put("files", G, "bytes", value=10**15), "bytes where the manifest says", G),
    Case("hash", put("files", G, "sha256", value="0" * 64), "altered", G),
    # The graph, hashes right.
    Case("graph-parent", external("location", "../outside"), "no file for tensors", G),
    Case("graph-absolute", external("location", "/etc/passwd"), "no file for tensors", G),
    Case("graph-manifest", external("location", "manifest.json"), "no file for tensors", G),
    Case("graph-nowhere", external("location", ""), "model.onnx", G),
    Case("graph-offset", external("offset", str(1 << 50)), "no such thing", G),
    Case("graph-negative", external("offset", "-4096"), "not a readable", G),
    Case("graph-no-offset", external("offset", "x"), "not a readable", G),
    Case("graph-length", external("length", str(1 << 50)), "no such thing", G),
    Case("graph-shape", dims(1 << 31, 1 << 31), "no such thing", G),
    Case("graph-negative-shape", dims(-32, -64), "has the shape", G),
    Case("graph-inline-shape", graph(_inline_dims), "not a readable", G),
    Case("graph-garbage", graph_bytes(b"\xff" * 99), "not a readable", G),
    Case("graph-empty", graph_bytes(b""), "no outputs", G),
    Case("graph-name", graph_bytes_replaced(b"fc0", b"\xff\xfe0"), "not a readable", G),
    Case("data-cut", _short_data, "no such thing", G),
    Case("backend", put("backend", value="vulkan"), "'vulkan', which is not installed", M),
    *(
        Case(
            f"kernel-{key}",
            put("kernels", value=[KERNEL | {key: "../../secret"}]),
            rf"kernels\[0\]\.{key} must be listed under files, got '\.\./\.\./secret'",
            M,
        )
        for key in ("file", "ptx", "amdgcn", "source")
    ),
    Case("kernel-list", put("kernels", value=[KERNEL | {"ptx": []}]), "ptx must be a text", M),
]  # fmt: skip

# Every field of a manifest gets each of these in turn.
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, -0.5, 10**18, 10**30, "", "\u202ex", "<script>", [], [1], {}, {"a": 1},
)  # fmt: skip


def paths(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every field below ``value``; one item stands for all of its list."""
    pairs: Any = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, item in pairs:
        yield (*at, key)
        if isinstance(item, (dict, list)):
            yield from paths(item, (*at, key))
