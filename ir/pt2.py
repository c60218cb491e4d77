"""What is checked of a ``.pt2`` archive before torch may load it.

``torch.export.load`` trusts its file. It unpickles weights and objects that are marked so, falls
back to full unpickling for sample inputs, opens compiled libraries, evaluates symbolic
expressions and guards as Python, and looks operators up by dotted path, from where every module
that torch has imported can be reached. Each of these runs code that the file chooses. An ordinary
archive needs none of it: weights are raw bytes with a description in JSON, expressions are sums
and products, operators live in ``torch.ops``.

The archive is read with torch's own reader, so that what is checked is what will be loaded.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsec.ir.errors import ModelImportError

_LEGACY = ("serialized_exported_program.json", "serialized_state_dict.pt")
_LEGACY_WEIGHTS = re.compile(r"data/(weights|constants)/[^/]+\.pt")
_CONFIG = re.compile(r"data/(weights|constants)/[^/]+_config\.json")

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|prim|quantized_decomposed|higher_order|_c10d_functional)"
    r"(\.[A-Za-z_]\w*){1,2}"
    r"|_operator\.[a-z_]+|math\.[a-z0-9_]+|torch\.sym_[a-z]+|torch\._sym_[a-z]+"
)
_FORBIDDEN_OPERATOR = re.compile(r"_operator\.(attrgetter|methodcaller|call|itemgetter)")
_EXPRESSION = re.compile(
    r"(?:[A-Z]\w*\s*\(|[su]\d+|zuf\d+|'[a-z]+\d+'|(?:positive|integer|nonnegative|real)=(?:True|False)"
    r"|True|False|oo|int_oo|[\d\s.,()+\-*/%<>=!&|~])*"
)
_GUARD = re.compile(
    r"(?:L|args|kwargs|size|stride|storage_offset|dim|Eq|Ne|Mod|Max|Min|FloorDiv|PythonMod|and|or|not"
    r"|True|False|None|[su]\d+|'\w+'|\"\w+\"|(?<![\w.])\d+(?:\.\d+)?|[\s.,()\[\]+\-*/%<>=!&|])*"
)


def check_pt2(path: Path) -> None:
    """Refuse an archive that is damaged, or that would run code when loaded. Nothing in it is run.

    Raises
    ------
    ModelImportError
        The message names the file and what is in it.
    """
    import torch

    if not path.is_file():
        raise ModelImportError(f"{path}: no such file", where=str(path))
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        names = list(reader.get_all_records())
    except RuntimeError as error:
        raise _refusal(
            path, "it is not an archive of torch.export.save, or a truncated one"
        ) from error
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise _refusal(path, f"it holds {doubled[0]!r} twice")
    if not any(name.startswith("models/") for name in names):
        if "data.pkl" in names or "constants.pkl" in names:
            raise _refusal(
                path,
                "it is a pickle of torch.save or a TorchScript archive, not an exported program",
            )
        if any(name in names for name in _LEGACY):
            raise _refusal(path, "its format is older than torch 2.8 and stores weights as pickles")
        raise _refusal(path, "it holds no exported program")
    try:
        for name in names:
            _check_record(path, name, reader, names)
    except (RuntimeError, ValueError) as error:  # an unreadable record, or one that is not JSON
        raise _refusal(path, f"{name!r} is damaged ({error})") from error


def _check_record(path: Path, name: str, reader: Any, names: list[str]) -> None:
    if name.startswith("data/aotinductor/"):
        raise _refusal(path, "it holds compiled code (AOTInductor)")
    if _LEGACY_WEIGHTS.fullmatch(name):
        raise _refusal(path, f"its weights are pickled ({name})")
    if _CONFIG.fullmatch(name):
        folder = name.rpartition("/")[0]
        files = {other.removeprefix(f"{folder}/") for other in names}
        _check_payload(path, json.loads(reader.get_record(name)), files)
    elif name.startswith("models/"):
        if name != "models/model.json":
            raise _refusal(path, f"{name!r} where models/model.json, one model, was needed")
        _check_program(path, json.loads(reader.get_record(name)))
    elif name.startswith("data/sample_inputs/"):
        _check_pickle(path, name, reader.get_record(name))


def _check_payload(path: Path, config: Any, files: set[str]) -> None:
    """Refuse everything but tensors stored as raw bytes; ``files`` is what the archive has of them."""
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise ValueError("no table of tensors")
    for tensor, entry in entries.items():
        raw = isinstance(entry, dict) and entry.get("use_pickle") is False
        file = entry.get("path_name") if isinstance(entry, dict) else None
        plain = isinstance(file, str) and re.fullmatch(r"(weight|tensor)_\w+", file)
        if not raw or not plain:
            raise _refusal(path, f"{tensor!r} is pickled")
        if file not in files:
            raise _refusal(path, f"the data of {tensor!r} ({file}) is missing")


def _check_program(path: Path, program: Any) -> None:
    """No string of the program that torch evaluates or looks up may reach beyond arithmetic."""
    for key, text in _strings(program):
        if key == "target" and not _is_operator(text):
            raise _refusal(path, f"it calls {text!r}, which is no torch operator")
        if key == "expr_str" and not _EXPRESSION.fullmatch(text):
            raise _refusal(path, f"its dimension {text!r} is no arithmetic")
        if key == "guards_code" and not _GUARD.fullmatch(text):
            raise _refusal(path, f"its guard {text!r} is no comparison of sizes")
        if key in ("in_spec", "out_spec") and re.search(r"__enum__|default_factory|\\u", text):
            raise _refusal(path, "its inputs or outputs are containers that import modules")


def _is_operator(text: str) -> bool:
    return bool(_OPERATOR.fullmatch(text)) and not _FORBIDDEN_OPERATOR.fullmatch(text)


def _strings(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string of a JSON tree with the key that it stands under, lists looked through."""
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield from _strings(inner, name)
    elif isinstance(tree, list):
        for inner in tree:
            yield from _strings(inner, key)
    elif isinstance(tree, str):
        yield key, tree


def _check_pickle(path: Path, name: str, data: bytes) -> None:
    """Refuse sample inputs that are more than tensors: torch would unpickle them in full."""
    import pickle

    import torch

    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError) as error:
        raise _refusal(path, f"{name!r} unpickles more than tensors") from error


def _refusal(path: Path, reason: str) -> ModelImportError:
    return ModelImportError(
        f"{path}: not loaded: {reason}; save the program again with torch.export.save of torch 2.11 "
        "or newer, or export it to ONNX",
        where=str(path),
    )
