"""Resuming a walk: what a process that was killed had finished is taken up by the next.

After every stop the folder holds all that the rest of the walk depends on: the live values, the
weights that were rewritten, and ``state.json``, which names them with their checksums and is
replaced last, in one rename. A folder that is not exactly what its state says is thrown away, and
the walk starts over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from sparsec.ir.execute.dependencies import Dependencies
from sparsec.ir.execute.live import LiveValues, StoredFile

_FORMAT = 1
_STATE = "state.json"


@dataclasses.dataclass(slots=True)
class Position:
    """How far a walk has come.

    Parameters
    ----------
    stop : int
        Number of stops that are behind.
    done : int
        Set of nodes that have run.
    """

    stop: int = 0
    done: int = 0


class Checkpoint:
    """The saved state of one walk.

    Parameters
    ----------
    folder : Path
        Belongs to this walk alone.
    dependencies : Dependencies
    """

    def __init__(self, folder: Path, dependencies: Dependencies) -> None:
        self.folder = folder
        self._dependencies = dependencies
        self._weights: dict[str, StoredFile] = {}
        self._tensors = _tensors(dependencies.model)

    def save(self, position: Position, live: LiveValues, obsolete: Iterable[Path]) -> None:
        """Make this the state to resume from, then delete the files that it no longer needs."""
        for name, value in _initializers(self._dependencies.model).items():
            if value.const_value is not self._tensors[name]:
                self._weights[name] = self._write_weight(value)
                self._tensors[name] = value.const_value
        state = {
            "format": _FORMAT,
            "stop": position.stop,
            "done": hex(position.done),
            "live": {
                _value_name(self._dependencies, value): {**_json(file), "offsets": offsets}
                for value, (file, offsets) in live.state().items()
            },
            "weights": {name: _json(file) for name, file in self._weights.items()},
        }
        partial = self.folder / f"{_STATE}.partial"
        partial.write_text(json.dumps(state), encoding="utf-8")
        os.replace(partial, self.folder / _STATE)
        for path in obsolete:
            path.unlink(missing_ok=True)

    def load(self, live: LiveValues) -> Position:
        """Restore values and weights; start over if anything is missing or damaged."""
        try:
            position = self._load(live)
        except (OSError, ValueError, KeyError, TypeError):
            position = None
        if position is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            return Position()
        return position

    def _load(self, live: LiveValues) -> Position | None:
        """Return the saved position; None, with nothing restored, if the folder is unusable."""
        state = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        if state["format"] != _FORMAT:
            return None
        files = [*state["live"].values(), *state["weights"].values()]
        if not all(_file(item).matches(self.folder) for item in files):
            return None
        values = {_value_name(self._dependencies, v): v for v in _results(self._dependencies)}
        initializers = _initializers(self._dependencies.model)
        columns = [(values[name], item) for name, item in state["live"].items()]
        weights = [(initializers[name], name, item) for name, item in state["weights"].items()]
        position = Position(int(state["stop"]), int(state["done"], 16))
        for value, item in columns:
            live.restore(value, _file(item), [int(offset) for offset in item["offsets"]])
        for value, name, item in weights:
            proto = onnx.TensorProto.FromString((self.folder / item["name"]).read_bytes())
            value.const_value = ir.serde.deserialize_tensor(proto)
            self._weights[name] = _file(item)
            self._tensors[name] = value.const_value
        return position

    def _write_weight(self, value: ir.Value) -> StoredFile:
        assert value.const_value is not None
        data = ir.serde.serialize_tensor(value.const_value).SerializeToString()
        digest = hashlib.sha256(data).hexdigest()[:16]
        file = StoredFile(f"w{digest}.pb", len(data), _crc(data))
        partial = self.folder / f"{file.name}.partial"
        partial.write_bytes(data)
        os.replace(partial, self.folder / file.name)
        return file

    def remove(self) -> None:
        """Delete the folder: the walk has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def value_file(dependencies: Dependencies, value: ir.Value) -> str:
    """Return the name of the file of a live value: its place, because names may hold anything."""
    return f"v{_value_name(dependencies, value)}.npys"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder for this process; yield False if another one holds it.

    The lock ends with its process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # no such locks on this platform: two processes must not share a cache
        yield True
        return
    with (folder.parent / f"{folder.name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _value_name(dependencies: Dependencies, value: ir.Value) -> str:
    return f"{dependencies.source(value)}.{value.index()}"


def _results(dependencies: Dependencies) -> Iterator[ir.Value]:
    for node in dependencies.nodes:
        yield from node.outputs


def _initializers(model: ir.Model) -> dict[str, ir.Value]:
    """Return every initializer, named by the number of its graph and its own name."""
    graphs = [model.graph, *model.graph.subgraphs()]
    return {
        f"{number}:{name}": value
        for number, graph in enumerate(graphs)
        for name, value in graph.initializers.items()
    }


def _tensors(model: ir.Model) -> dict[str, ir.TensorProtocol | None]:
    return {name: value.const_value for name, value in _initializers(model).items()}


def _json(file: StoredFile) -> dict[str, Any]:
    return {"name": file.name, "size": file.size, "crc": file.crc}


def _file(item: Mapping[str, Any]) -> StoredFile:
    name = str(item["name"])
    if "/" in name or "\\" in name:
        raise ValueError(name)
    return StoredFile(name, int(item["size"]), int(item["crc"]))


def _crc(data: bytes) -> int:
    import zlib

    return zlib.crc32(data)
