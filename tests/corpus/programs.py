"""``.pt2`` archives that would run code when loaded, or are none.

Each hostile one creates the file ``MARK`` if anything in it is run. They are made from a sound archive
by replacing records.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "it-ran"

Records = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change to the records of a sound archive; ``mark`` is the file that hostile code writes."""

    name: str
    apply: Callable[[Records, Path], None]
    words: tuple[str, ...]


class Payload:
    """Writes ``mark`` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


def read(path: Path) -> Records:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, records: Records) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def hostile_torch_save(mark: Path) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(Payload(mark), buffer)
    return buffer.getvalue()


def _name(records: Records, end: str) -> str:
    return next(name for name in records if name.endswith(end))


def _edit_json(records: Records, end: str, change: Callable[[Any], None]) -> None:
    name = _name(records, end)
    tree = json.loads(records[name])
    change(tree)
    records[name] = json.dumps(tree).encode()


def pickled_weight(records: Records, mark: Path) -> None:
    def change(config: Any) -> None:
        entry = next(iter(config["config"].values()))
        entry["use_pickle"] = True
        folder = _name(records, "model_weights_config.json").rsplit("/", 1)[0]
        records[f"{folder}/{entry['path_name']}"] = hostile_torch_save(mark)

    _edit_json(records, "model_weights_config.json", change)


def pickled_constant(records: Records, mark: Path) -> None:
    def change(config: Any) -> None:
        config["config"]["c"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": False,
            "tensor_meta": None,
        }
        folder = _name(records, "model_constants_config.json").rsplit("/", 1)[0]
        records[f"{folder}/opaque_obj_0"] = pickle.dumps(Payload(mark))

    _edit_json(records, "model_constants_config.json", change)


def legacy_weights(records: Records, mark: Path) -> None:
    folder = _name(records, "model_weights_config.json").rsplit("/", 1)[0]
    records[f"{folder}/model.pt"] = hostile_torch_save(mark)


def sample_inputs(records: Records, mark: Path) -> None:
    records[_name(records, "data/sample_inputs/model.pt")] = hostile_torch_save(mark)


def raw_pickle_as_sample_inputs(records: Records, mark: Path) -> None:
    records[_name(records, "data/sample_inputs/model.pt")] = pickle.dumps(Payload(mark))


def compiled_code(records: Records, mark: Path) -> None:
    prefix = _name(records, "archive_version").rsplit("/", 1)[0]
    records[f"{prefix}/data/aotinductor/model/model.so"] = b"\x7fELF"


def _first_node(program: Any) -> Any:
    return program["graph_module"]["graph"]["nodes"][0]


def operator_elsewhere(records: Records, mark: Path) -> None:
    def change(program: Any) -> None:
        _first_node(program)["target"] = "torch.os.system"

    _edit_json(records, "models/model.json", change)


def operator_that_calls(records: Records, mark: Path) -> None:
    def change(program: Any) -> None:
        _first_node(program)["target"] = "_operator.call"

    _edit_json(records, "models/model.json", change)


def _replace(tree: Any, key: str, text: str) -> bool:
    """Replace the first string under ``key``."""
    if isinstance(tree, dict):
        if isinstance(tree.get(key), str):
            tree[key] = text
            return True
        return any(_replace(inner, key, text) for inner in tree.values())
    return isinstance(tree, list) and any(_replace(inner, key, text) for inner in tree)


def dimension_that_runs(records: Records, mark: Path) -> None:
    def change(program: Any) -> None:
        assert _replace(program, "expr_str", f"__import__('os').mknod({str(mark)!r})")

    _edit_json(records, "models/model.json", change)


def dimension_with_attributes(records: Records, mark: Path) -> None:
    def change(program: Any) -> None:
        assert _replace(program, "expr_str", "Symbol('s7', positive=True).func.__init__")

    _edit_json(records, "models/model.json", change)


def guard_that_runs(records: Records, mark: Path) -> None:
    def change(program: Any) -> None:
        program["guards_code"] = [f"open({str(mark)!r}, 'w') and L['x'].size()[0] == 2"]

    _edit_json(records, "models/model.json", change)


def container_that_imports(records: Records, mark: Path) -> None:
    def change(program: Any) -> None:
        spec = json.dumps([1, {"type": "collections.defaultdict", "context": json.dumps(
            {"default_factory_module": "os", "default_factory_name": "abort", "dict_context": []}
        ), "children_spec": []}])  # fmt: skip
        assert _replace(program, "out_spec", spec)

    _edit_json(records, "models/model.json", change)


def two_models(records: Records, mark: Path) -> None:
    name = _name(records, "models/model.json")
    records[name.replace("model.json", "other.json")] = records[name]


def no_model(records: Records, mark: Path) -> None:
    del records[_name(records, "models/model.json")]


def broken_json(records: Records, mark: Path) -> None:
    name = _name(records, "models/model.json")
    records[name] = records[name][:-40]


def missing_weight(records: Records, mark: Path) -> None:
    del records[_name(records, "weights/weight_0")]


def short_weight(records: Records, mark: Path) -> None:
    name = _name(records, "weights/weight_0")
    records[name] = records[name][:8]


EDITS = (
    Edit("weight", pickled_weight, ("pickled",)),
    Edit("constant", pickled_constant, ("pickled",)),
    Edit("legacy-weights", legacy_weights, ("pickled",)),
    Edit("sample-inputs", sample_inputs, ("sample_inputs", "more than tensors")),
    Edit("sample-inputs-raw", raw_pickle_as_sample_inputs, ("sample_inputs", "more than tensors")),
    Edit("compiled-code", compiled_code, ("compiled code",)),
    Edit("operator-elsewhere", operator_elsewhere, ("torch.os.system", "no torch operator")),
    Edit("operator-call", operator_that_calls, ("_operator.call",)),
    Edit("dimension", dimension_that_runs, ("__import__", "no arithmetic")),
    Edit("dimension-attributes", dimension_with_attributes, ("no arithmetic",)),
    Edit("guard", guard_that_runs, ("no comparison",)),
    Edit("container", container_that_imports, ("import modules",)),
    Edit("two-models", two_models, ("other.json",)),
    Edit("no-model", no_model, ("no exported program",)),
    Edit("broken-json", broken_json, ("models/model.json", "damaged")),
    Edit("missing-weight", missing_weight, ("weight_0",)),
    Edit("short-weight", short_weight, ("torch",)),
)
