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
from sparsec.ir.bias import Bias, own_bias
from sparsec.ir.cleanup.rewire import display_name
from sparsec.ir.codes import Code
from sparsec.ir.edits import Removal, alike, removal_of, zero
from sparsec.ir.groups import Group
from sparsec.ir.lattice import Lattice
from sparsec.ir.sites import WeightSite, weight_sites
from sparsec.passes.base import Skipped
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.calibration.statistics import Needs, Statistics
from sparsec.passes.solvers.least_squares import Inputs, Refit, bias_only, lost, refit
from sparsec.passes.solvers.selection import least_needed

METHODS = ("auto", "none", "bias", "refit")
GRAM_BYTES = 2 << 30
# Of a layer that chooses: it takes columns^2 operations for each unit that goes.
MOST_COLUMNS = 4096

Mask = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Open:
    """A group of which a single layer reads all units, so that the layer may choose which go.

    Parameters
    ----------
    group : Group
    count : int
        How many of its units go.
    unit_of : int [reduction]
        The unit that each column of the layer reads, -1 for none.
    """

    group: Group
    count: int
    unit_of: NDArray[np.int64]

    def gone(self, matrix: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return which units a layer without them does not read: places in the group, in order."""
        read = self.unit_of[matrix.any(axis=0)]
        idle = np.setdiff1d(np.arange(self.group.size), read)
        return idle[: self.count]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Reader:
    """A layer that reads channels which go, in the working copy of the graph.

    Parameters
    ----------
    site : WeightSite
    kept : bool [out, reduction]
    biases : list of Bias
        One for each node that reads the weight.
    before : list of float64 [out]
        Those biases as they were.
    open : Open, optional
        What it may choose: ``kept`` is but a proposal then.
    """

    site: WeightSite
    kept: Mask
    biases: list[Bias]
    before: list[NDArray[np.float64]]
    open: Open | None = None

    @property
    def rows(self) -> Mask:
        """Which outputs stay, bool [out]."""
        return np.asarray(self.kept.any(axis=1))


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
            for bias, old, mine in zip(reader.biases, reader.before, _biases(site), strict=True):
                mine.add((_flat(bias) - old)[rows])

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
    zero(working, removal_of(lattice, _summed(lattice, units)))
    found = Compensation(method)
    readers = _readers(working, removal, method, calibration, found)
    found.skipped += _strangers(lattice, working, removal)
    for group in choosing if method == "refit" else ():
        _let_choose(lattice, group, units, readers)
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


def _readers(
    model: ir.Model, removal: Removal, method: str, calibration: Calibration, found: Compensation
) -> dict[str, Reader]:
    """Return the layers of the working copy that lose columns; those that cannot be helped do so."""
    losing = []
    for site in weight_sites(model):
        kept = site.kept(removal.tensors.get(site.weight.name or "", {}))
        if not kept[kept.any(axis=1)].all():
            losing.append((site, kept))
    hidden = calibration.hidden(model, [site for site, _ in losing])
    readers = {}
    for site, kept in losing:
        why = (Code.NOT_OBSERVABLE, hidden[site.name]) if site.name in hidden else None
        if why := why or (_why_no_refit(site) if method == "refit" else None):
            found.skipped.append(Skipped(site.name, *why))
            matrix = site.matrix()
            site.write_matrix(np.where(kept, matrix, 0).astype(matrix.dtype))
        else:
            biases = _biases(site)
            readers[site.name] = Reader(site, kept, biases, [_flat(bias) for bias in biases])
    return readers


def _let_choose(
    lattice: Lattice,
    group: Group,
    units: Labels,
    readers: dict[str, Reader],
) -> None:
    """Open a group to the one layer that reads its units, if there is one and nothing else does."""
    count = int(np.isin(group.units, units).sum())
    if not count or len(alike(lattice, group.units)) > 1 or len(_summed(lattice, group.units)):
        return
    unit = np.full(len(lattice.atoms), -1)
    unit[group.units] = np.arange(group.size)
    reading = []
    for value, axis in lattice.readers:
        axes = lattice.axes.get(value)
        labels = None if axes is None else axes[axis]
        if labels is not None:
            leaves = lattice.atoms.leaves(labels.atoms)
            owners = np.where(leaves >= 0, unit[np.maximum(leaves, 0)], -1)
            if (owners >= 0).any():
                reading.append((value.name, axis, owners.max(axis=1)))
    if len(reading) != 1:
        return
    name, axis, owners = reading[0]
    for key, reader in readers.items():
        site = reader.site
        if site.weight.name != name or site.layout.groups > 1 or axis not in site.reduction_axes:
            continue
        unit_of = site.along_reduction(axis, owners)
        alone = (reader.kept.all(axis=0) | (unit_of >= 0)).all() and reader.rows.all()
        even = len(set(np.bincount(unit_of[unit_of >= 0], minlength=group.size))) == 1
        if alone and even and reader.open is None and len(unit_of) <= MOST_COLUMNS:
            readers[key] = dataclasses.replace(reader, open=Open(group, count, unit_of))


def _why_no_refit(site: WeightSite) -> tuple[Code, str] | None:
    """Return why the weights of a layer cannot be solved for, or None."""
    stored = site.weight.const_value
    assert stored is not None
    size = Needs(gram=True).nbytes(site.layout.groups, site.shape[1])
    if not stored.dtype.is_floating_point():
        return Code.NOT_FLOAT, "its weights are stored as integers and would be rounded anew"
    if site.pattern is not None:
        return Code.ALREADY_SPARSE, f"a refit would fill the zeros of its pattern {site.pattern}"
    if size > GRAM_BYTES:
        return (
            Code.NOT_OBSERVABLE,
            f"the products of its {site.shape[1]} columns take {size / 2**30:.1f} GiB; "
            "compensate=bias needs none",
        )
    return None


def _strangers(lattice: Lattice, working: ir.Model, removal: Removal) -> list[Skipped]:
    """Let readers of what goes that are no layers to solve for do without it; name each."""
    skipped = {}
    for value, axis in lattice.readers:
        positions = removal.tensors.get(value.name or "", {}).get(axis)
        nodes = [node for node, _ in value.uses() if node.op_type not in _LAYERS]
        if positions is None or not nodes or not value.is_initializer():
            continue
        zero(working, Removal({value.name or "": {axis: positions}}))
        for node in nodes:
            reason = f"{node.op_type} cannot be compensated; its other weights stay as they are"
            skipped[display_name(node)] = Skipped(display_name(node), Code.NOT_A_SITE, reason)
    return list(skipped.values())


# What a weight site is read by, directly or through a chain of steps.
_LAYERS = ("Conv", "Gemm", "MatMul", "Transpose", "Cast", "Mul", "Identity", "DequantizeLinear")


def _biases(site: WeightSite) -> list[Bias]:
    """Return the bias of every node that reads the weight of ``site``."""
    sizes = [site.operand_shape[axis] for axis in site.layout.perm[: site.layout.row_axes]]
    return [own_bias(node, site.index_in(node), tuple(sizes)) for node in site.nodes]


def _flat(bias: Bias) -> NDArray[np.float64]:
    tensor = bias.value.const_value
    assert tensor is not None
    return tensor.numpy().astype(np.float64).reshape(-1)


def _plain(removal: Removal) -> list[tuple[str, int, bytes]]:
    return [
        (name, axis, positions.tobytes())
        for name, axes in removal.tensors.items()
        for axis, positions in axes.items()
    ]


def _summed(lattice: Lattice, units: Labels) -> Labels:
    """Return those of ``units`` that something sums over which is no layer with a weight.

    To ignore such a unit behind that sum is not the same as to remove it: it has to be zero before.
    A grouped convolution notes its sums as well, but is a layer.
    """
    atoms = lattice.atoms
    layers = np.zeros(len(atoms), np.int64)
    sums = np.zeros(len(atoms), np.int64)
    for node in lattice.followed:
        grouped = node.op_type == "Conv" and (node.attributes.get_int("group", 1) or 1) > 1
        axes = lattice.axes.get(node.inputs[1]) if grouped and node.inputs[1] is not None else None
        if axes is not None and axes[1] is not None:
            layers[_classes(lattice, axes[1].atoms)] += 1
    for labels in lattice.summed:
        sums[_classes(lattice, labels)] += 1
    roots = atoms.find(units)
    return units[sums[roots] > layers[roots]]


def _classes(lattice: Lattice, labels: Labels) -> Labels:
    leaves = lattice.atoms.leaves(labels)
    return np.unique(leaves[leaves >= 0])
