"""What the layers that read removed channels do about it: bias compensation and least-squares refit.

Both follow the certified removal and change no structure but a bias where there was none. They are
computed beforehand, on a copy of the dense graph in which the layers, one after the other in graph
order, stop reading the channels that will go: so each layer is solved on what the layers before it,
already compensated, produce, and still sees the channels that it has to do without.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.atoms import Labels
from sparsec.ir.codes import Code
from sparsec.ir.edits import Removal, removal_of, zero
from sparsec.ir.groups import Group
from sparsec.ir.lattice import Lattice
from sparsec.ir.sites import WeightSite, weight_sites
from sparsec.passes.base import Skipped
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.calibration.statistics import Needs, Statistics
from sparsec.passes.channel.readers import (
    Mask,
    Open,
    Reader,
    biases_of,
    find_readers,
    flat,
    let_choose,
    quiet_strangers,
    summed,
)
from sparsec.passes.solvers.least_squares import Inputs, Refit, bias_only, lost, refit
from sparsec.passes.solvers.selection import least_needed

METHODS = ("auto", "none", "bias", "refit")


class Compensation:
    """Weights and biases for the layers that read what goes; see :func:`compensate`.

    Attributes
    ----------
    skipped : list of Skipped
        Readers that stay as they are, or get less than was asked for.
    removed : dict of str to int [n]
        For groups of which the readers chose the units: which go, by the name of the group.
    notes : dict of str to float
        ``compensated`` and ``refitted`` layers, and the mean over them of the share of the variance of
        a layer's output that is lost without and with compensation.
    """

    def __init__(self, method: str) -> None:
        self.skipped: list[Skipped] = []
        self.notes: dict[str, float] = {}
        self._method = method
        self._readers: list[Reader] = []
        self.removed: dict[str, NDArray[np.int64]] = {}
        self._shares: list[tuple[float, float]] = []

    def apply(self, model: ir.Model) -> None:
        """Write the results into ``model``, from which the units have been removed."""
        sites = {site.weight.name: site for site in weight_sites(model)}
        for reader in self._readers:
            site = sites[reader.site.weight.name]
            rows = reader.rows
            if self._method == "refit":
                matrix = reader.site.matrix()
                picked = matrix[reader.kept].reshape(int(rows.sum()), -1)
                site.write_matrix(picked)
            for bias, old, mine in zip(reader.biases, reader.before, biases_of(site), strict=True):
                mine.add((flat(bias) - old)[rows])

    def visit(self, reader: Reader, statistics: Statistics) -> None:
        """Let one layer of the working copy do without what goes."""
        site, matrix = reader.site, reader.site.matrix()
        every = reader.kept
        if reader.open is not None and statistics.count:
            every = _least_needed_gone(reader.open, matrix, statistics)
        site.write_matrix(np.where(every, matrix, 0).astype(matrix.dtype))
        if not statistics.count:
            reason = "no calibration sample reaches it"
            self.skipped.append(Skipped(site.name, Code.NOT_OBSERVABLE, reason))
            return
        solved = _solve(site, matrix, every, statistics, refits=self._method == "refit")
        with np.errstate(over="ignore"):
            stored = solved.matrix.astype(site.dtype)
        if not (np.isfinite(stored).all() and np.isfinite(solved.shift).all()):
            reason = f"its new weights do not fit into {site.dtype}"
            self.skipped.append(Skipped(site.name, Code.NOT_FINITE, reason))
            return
        if solved.total > 0:
            self._shares.append((solved.without / solved.total, solved.with_it / solved.total))
        site.write_matrix(solved.matrix.astype(matrix.dtype))
        for bias in reader.biases:
            bias.add(solved.shift)

    def settle(self, readers: Sequence[Reader], lattice: Lattice, units: Labels) -> None:
        """Take the layers that were visited, and read off their weights which units they chose."""
        left = {item.site for item in self.skipped}
        self._readers = [reader for reader in readers if reader.site.name not in left]
        for reader in self._readers:
            if reader.open is not None:
                group = reader.open.group
                gone = reader.open.gone(reader.site.matrix())
                self.removed[group.name] = gone
                units = np.concatenate([np.setdiff1d(units, group.units), group.units[gone]])
        if self.removed:
            tensors = removal_of(lattice, units).tensors
            self._readers = [
                dataclasses.replace(
                    reader, kept=reader.site.kept(tensors.get(reader.site.weight.name or "", {}))
                )
                for reader in self._readers
            ]
        self.notes["compensated"] = len(self._readers)
        if self._method == "refit":
            self.notes["refitted"] = len(self._readers)
        if self._shares:
            without, with_it = np.mean(self._shares, axis=0)
            self.notes |= {"lost_without_refit": float(without), "lost_with_refit": float(with_it)}


@dataclasses.dataclass(eq=False, slots=True)
class _Solved:
    """What a layer becomes.

    Parameters
    ----------
    matrix : float64 [out, reduction]
        Zero where nothing is read any more.
    shift : float64 [out]
        To be added to the bias.
    without, with_it, total : float
        Sums of squares over all rows: by how much the outputs change if the kept weights stay as they are,
        by how much with those of ``matrix``, and how much the outputs vary. Zero without a refit.
    """

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]
    without: float = 0.0
    with_it: float = 0.0
    total: float = 0.0


def _solve(
    site: WeightSite,
    matrix: NDArray[np.floating],
    kept: Mask,
    statistics: Statistics,
    *,
    refits: bool,
) -> _Solved:
    """Return the weights and the bias of a layer that reads only what is kept, group by group."""
    solved = _Solved(np.where(kept, matrix, 0).astype(np.float64), np.zeros(len(matrix)))
    out = len(matrix) // site.layout.groups
    gram = statistics.centred_gram() if refits else None
    for group in range(site.layout.groups):
        rows = np.arange(group * out, (group + 1) * out)
        columns = np.asarray(kept[rows].any(axis=0))
        if columns.all() or not columns.any():
            continue
        weight = matrix[rows].astype(np.float64)
        inputs = Inputs(statistics.mean[group], None if gram is None else gram[group])
        found = bias_only(weight, columns, inputs)
        if inputs.gram is not None:
            bare = Refit(found.weight, np.zeros(out))
            found = refit(weight, columns, inputs)
            solved.without += lost(weight, columns, bare, inputs, statistics.count)
            solved.with_it += lost(weight, columns, found, inputs, statistics.count)
            energy = np.einsum("or,rs,os->", weight, inputs.gram, weight, optimize=True)
            solved.total += float(energy)
        solved.matrix[np.ix_(rows, columns)] = found.weight
        solved.shift[rows] = found.shift
    return solved


def _least_needed_gone(choice: Open, matrix: NDArray[np.floating], statistics: Statistics) -> Mask:
    """Return what a layer reads, bool [out, reduction], once the units that it needs least are gone."""
    gram = statistics.centred_gram()[0]
    stays = ~np.isin(choice.unit_of, least_needed(matrix, gram, choice.unit_of, choice.count))
    return np.broadcast_to(stays, matrix.shape)


def compensate(
    lattice: Lattice,
    units: Labels,
    method: str,
    calibration: Calibration,
    *,
    choosing: Sequence[Group] = (),
    who: str = "",
    progress: Callable[[str, float], None] = lambda text, done: None,
) -> Compensation:
    """Solve for what the readers of ``units`` become once these are gone; nothing is changed yet.

    Parameters
    ----------
    lattice : Lattice
        Of the dense graph.
    units : int [n]
        One atom of each unit that goes.
    method : str
        ``bias`` or ``refit``.
    calibration : Calibration
    choosing : sequence of Group
        Of these the layer that reads them, if it is a single one that is refitted, chooses which units
        go: as many as ``units`` holds.
    who : str
        The pass with all its options: an interrupted walk is resumed by the same one only.
    progress : callable

    Returns
    -------
    Compensation
        To be applied to the graph after the removal.

    Raises
    ------
    CalibrationError
        If a sample cannot be run, or what a layer reads is not finite.
    """
    removal = removal_of(lattice, units)
    working = lattice.model.clone()
    zero(working, removal_of(lattice, summed(lattice, units)))
    found = Compensation(method)
    readers, skipped = find_readers(working, removal, calibration, refits=method == "refit")
    found.skipped += [*skipped, *quiet_strangers(lattice, working, removal)]
    for group in choosing if method == "refit" else ():
        let_choose(lattice, group, units, readers)
    digest = hashlib.sha256(repr(sorted(_plain(removal))).encode()).hexdigest()
    calibration.sequential(
        working,
        [reader.site for reader in readers.values()],
        Needs(gram=method == "refit"),
        lambda site, statistics: found.visit(readers[site.name], statistics),
        method=f"compensate {method} {digest} {who}",
        progress=progress,
    )
    found.settle(list(readers.values()), lattice, units)
    return found


def _plain(removal: Removal) -> list[tuple[str, int, bytes]]:
    return [
        (name, axis, positions.tobytes())
        for name, axes in removal.tensors.items()
        for axis, positions in axes.items()
    ]
