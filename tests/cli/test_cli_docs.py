"""The documents agree with the program."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from sparsec.artifact import format as fmt
from sparsec.artifact import schema
from sparsec.cli.main import _VERBS, cli
from sparsec.ir import errors

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_option_is_documented() -> None:
    text = (DOCS / "cli.md").read_text()
    context = click.Context(cli)
    for verb in _VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        assert f"sparsec {verb}" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                name = max(parameter.opts, key=len)
                assert f"{name}" in text or min(parameter.opts, key=len) in text, (verb, name)


def test_every_documented_option_exists() -> None:
    text = (DOCS / "cli.md").read_text()
    context = click.Context(cli)
    known = {"--help"}
    for verb in _VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        known |= {opt for parameter in command.params for opt in parameter.opts}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= known


def test_every_error_class_is_documented_with_its_code() -> None:
    text = (DOCS / "errors.md").read_text()
    for name, cls in vars(errors).items():
        if (
            isinstance(cls, type)
            and issubclass(cls, errors.SparsecError)
            and name != "SparsecError"
        ):
            assert f"| `{name}` | {cls.exit_code} |" in text


def test_every_field_of_the_manifest_is_documented(compiled: Path) -> None:
    text = (DOCS / "formats" / "artifact.md").read_text()
    manifest = json.loads((compiled / "manifest.json").read_text())
    assert schema.complaint(manifest) is None
    for key in manifest:
        assert re.search(rf"^\| (`[a-z_]+`, )?`{key}`?[`.,| ]", text, re.MULTILINE), key
    assert f"at most {fmt.MAX_MANIFEST_BYTES >> 20} MiB" in text
    assert f"at most {fmt.MAX_FILES} paths" in text
    assert f"at most {fmt.MAX_DEPTH} folders" in text


def test_every_rule_of_the_schema_is_written_by_the_writer(compiled: Path) -> None:
    """No field is checked that is never there."""
    assert schema.complaint({}) == "format is missing"
    manifest = json.loads((compiled / "manifest.json").read_text())
    for key in list(manifest):
        assert schema.complaint({k: v for k, v in manifest.items() if k != key}) is not None, key
