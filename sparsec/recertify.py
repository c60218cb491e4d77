"""Replaying the certificates of an artifact, with made-up weights or with those of its source."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.artifact import format as fmt
from sparsec.artifact.certificates import read_certificates
from sparsec.ir.bias import SUFFIX
from sparsec.ir.certificate import Certificate
from sparsec.ir.cleanup import clean_up, fold_batch_norm
from sparsec.ir.edits import shrunk
from sparsec.ir.errors import ArtifactError, CalibrationError, ModelImportError, VerifyError
from sparsec.ir.groups import prepare
from sparsec.ir.load import load_model
from sparsec.ir.replay import random_weights, replay

Weights = dict[str, NDArray[Any]]


def replay_all(
    root: Path, manifest: Mapping[str, Any], stock: ir.Model, model: Path | None
) -> dict[str, Any]:
    """Replay every certificate of the artifact at ``root``.

    Parameters
    ----------
    root : Path
    manifest : dict
    stock : onnx_ir.Model
        The artifact's graph in stock operators: its weights must have the certified shapes.
    model : Path, optional
        The source: its weights are used instead of random ones.

    Returns
    -------
    dict
        ``replayed``, ``failed``, ``with`` and the largest difference, ``max_rel``.

    Raises
    ------
    VerifyError
        If one fails, or certifies another graph than the artifact's.
    ArtifactError
        If one is damaged.
    """
    seed = manifest["recipe"]["seed"]
    own = None if model is None else _OwnWeights(model, seed)
    worst = 0.0
    shapes: dict[str, tuple[int, ...]] = {}
    replayed = 0
    certificates = read_certificates(root, manifest)
    for entry, certificate in zip(manifest["certificates"], certificates, strict=True):
        weights = None if own is None else own.of(certificate)
        with _blamed(root / entry["file"]):
            worst = max(worst, replay(certificate, seed=seed, weights=weights))
        if own is not None and weights is not None:
            own.shrink(certificate, weights)
        shapes |= shapes_after(certificate)
        replayed += 1
    _check_shapes(root, stock, shapes)
    return {
        "replayed": replayed,
        "failed": 0,
        "with": "random" if model is None else "model",
        "max_rel": worst,
    }


@contextlib.contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """Blame the certificate at ``path`` for graphs that passed every check and still cannot be run."""
    try:
        yield
    except (ModelImportError, CalibrationError) as error:
        raise ArtifactError(
            f"{path}: its graphs cannot be run: {error.message}", where=str(path)
        ) from error


def shapes_after(certificate: Certificate) -> dict[str, tuple[int, ...]]:
    """Return the shape that every parameter has after a removal."""
    found = {}
    for name, value in certificate.parameters.items():
        assert value.shape is not None
        sizes = [int(size) for size in value.shape.numpy()]
        for axis, positions in certificate.removal.tensors.get(name, {}).items():
            sizes[axis] -= len(positions)
        found[name] = tuple(sizes)
    return found


def _check_shapes(root: Path, stock: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the artifact's weights are those that the certificates are about."""
    common = 0
    for name, value in stock.graph.initializers.items():
        tensor = value.const_value
        if name not in shapes or tensor is None:
            continue
        common += 1
        if tuple(tensor.shape.numpy()) != shapes[name]:
            raise VerifyError(
                f"{root}: the weight {name!r} has the shape {list(tensor.shape.numpy())}, the "
                f"certificates say {list(shapes[name])}",
                where=str(root / fmt.MODEL),
            )
    if shapes and not common:
        raise VerifyError(
            f"{root}: none of the certified weights is in the graph", where=str(root / fmt.MODEL)
        )


class _OwnWeights:
    """The weights of the source as they are when each certificate's pass runs."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed
        plain = load_model(path)
        clean_up(plain)
        prepare(plain)
        self._later = _values(plain)
        fold_batch_norm(plain)
        self._folded = _values(plain)
        self._seen: Weights = {}

    def of(self, certificate: Certificate) -> Weights:
        """Return the parameters of the dense graph of a certificate.

        Raises
        ------
        VerifyError
            If the source does not have one of them, in that shape.
        """
        found: Weights = {}
        folded = not any(node.op_type == "BatchNormalization" for node in certificate.dense.graph)
        source = self._folded if folded else self._later
        made: Weights = {}
        for name, value in certificate.parameters.items():
            array = self._seen.get(name, source.get(name))
            if array is None and SUFFIX in name:
                # A bias that compensated for an earlier removal: the source never had it.
                made = made or dict(random_weights(certificate, self._seed))
                array = made[name]
            assert value.shape is not None
            if array is None or array.shape != tuple(value.shape.numpy()):
                raise VerifyError(
                    f"{self._path}: has no weight {name!r} of the certified shape "
                    f"{list(value.shape.numpy())}",
                    where=str(self._path),
                )
            found[name] = array
        return found

    def shrink(self, certificate: Certificate, weights: Weights) -> None:
        """Remember what is left of the weights that a certificate took from."""
        for name, axes in certificate.removal.tensors.items():
            self._seen[name] = np.ascontiguousarray(shrunk(weights[name], axes))


def _values(model: ir.Model) -> Weights:
    return {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
