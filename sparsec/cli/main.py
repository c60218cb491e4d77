"""``sparsec``: verbs, exit codes, and the one place where an error becomes a message.

Exit codes: 0 done, 1 model, file or data cannot be used, 2 usage, 3 verification failed, 4 operator
or target not supported here, 5 no gain or a goal missed, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

import sparsec
from sparsec.cli.signals import Terminated, ending_cleanly
from sparsec.ir.errors import SparsecError, did_you_mean
from sparsec.printable import printable

INTERRUPTED = 130

_VERBS = {
    "compile": "make a model sparse, prove it, measure it, write an artifact",
    "inspect": "what is in a model or an artifact: operators, layers, zeros, cost",
    "bench": "time an artifact against the dense model, interleaved, on this machine",
    "verify": "check an artifact again: hashes, graph, numerics, certificates",
    "passes": "list the passes and their options",
    "targets": "list the targets and what can be said about each from here",
    "doctor": "what this machine can do, and what is missing",
}


class _Verbs(click.Group):
    """Loads a verb's module when it is called, so that --help is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            raise click.UsageError(
                f"unknown verb {args[0]!r}; {did_you_mean(args[0], _VERBS)}", ctx
            )
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"sparsec.cli.{cmd_name}")
        command: click.Command = module.command
        command.short_help = _VERBS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 model, file or data cannot be used; 2 usage; "
    "3 verification failed; 4 not supported here; 5 nothing gained, or a goal missed; "
    "130 interrupted.",
)
@click.version_option(sparsec.__version__, prog_name="sparsec")
def cli() -> None:
    """Compile models into sparse ones: proved where claimed, and measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; no exception escapes."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # its caller closed it: to print there is no failure
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name must not fail for want of a character
            stream.reconfigure(errors="backslashreplace")
    stdout = sys.stdout
    as_json = "--json" in args
    verbose = "-v" in args or "--verbose" in args
    try:
        with ending_cleanly():
            result = cli.main(args=args, prog_name="sparsec", standalone_mode=False)
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail("UsageError", _usage(error), "", 2, as_json)
    except SparsecError as error:
        if verbose:
            traceback.print_exc()
        return _fail(type(error).__name__, error.message, error.where, error.exit_code, as_json)
    except (KeyboardInterrupt, click.exceptions.Abort) as error:
        cause = error.__cause__ if isinstance(error, click.exceptions.Abort) else error
        exit_code = cause.exit_code if isinstance(cause, Terminated) else INTERRUPTED
        return _fail("Interrupted", "interrupted; nothing was left behind", "", exit_code, as_json)
    except BrokenPipeError:
        return _nowhere_to_print(0)
    except SystemExit as error:
        if sys.stdout is not stdout:  # click wraps it and exits when the reader of a pipe goes away
            return _nowhere_to_print(0)
        return _fail("SystemExit", f"internal error: exit with {error.code}", "", 1, as_json)
    except OSError as error:
        if verbose:
            traceback.print_exc()
        about = f"{error.filename}: " if error.filename else "the result cannot be printed: "
        return _fail("OSError", f"{about}{error.strerror or error}", "", 1, as_json)
    except MemoryError:
        return _fail("MemoryError", "not enough memory for this model here", "", 1, as_json)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        message = (
            f"internal error: {type(error).__name__}: {error}; run again with -v and report it"
        )
        return _fail(type(error).__name__, message, "", 1, as_json)


def _usage(error: click.ClickException) -> str:
    hint = ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f" (see `{error.ctx.command_path} --help`)"
    return f"{error.format_message()}{hint}"


def _nowhere_to_print(exit_code: int) -> int:
    """Send the rest of the output nowhere: whoever read it went away, or has no room for it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code


def _fail(kind: str, message: str, where: str, exit_code: int, as_json: bool) -> int:
    try:
        if as_json:
            failure: dict[str, Any] = {"type": kind, "message": message, "where": where}
            print(json.dumps({"error": failure, "exit_code": exit_code}, ensure_ascii=True))
        sys.stdout.flush()  # what cannot be printed must not fail once more when Python ends
        if as_json:
            return exit_code
    except OSError:
        exit_code = _nowhere_to_print(exit_code)
    print(f"sparsec: {printable(message)}", file=sys.stderr)
    return exit_code
