"""The layers that read channels which go: what each loses, and which of them may choose what."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.atoms import Labels
from sparsec.ir.bias import Bias, own_bias
from sparsec.ir.cleanup.rewire import display_name
from sparsec.ir.codes import Code
from sparsec.ir.edits import Removal, alike, zero
from sparsec.ir.groups import Group
from sparsec.ir.lattice import Lattice
from sparsec.ir.sites import WeightSite, weight_sites
from sparsec.passes.base import Skipped
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.calibration.statistics import Needs

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


def find_readers(
    model: ir.Model, removal: Removal, calibration: Calibration, *, refits: bool
) -> tuple[dict[str, Reader], list[Skipped]]:
    """Return the layers that lose columns, by name; those that cannot be helped lose them now.

    Parameters
    ----------
    model : onnx_ir.Model
        The working copy; changed where a layer cannot be helped.
    removal : Removal
    calibration : Calibration
    refits : bool
        Whether weights are solved for, not only biases.

    Returns
    -------
    dict of str to Reader
    list of Skipped
        The others, with the reason.
    """
    losing = []
    for site in weight_sites(model):
        kept = site.kept(removal.tensors.get(site.weight.name or "", {}))
        if not kept[kept.any(axis=1)].all():
            losing.append((site, kept))
    hidden = calibration.hidden(model, [site for site, _ in losing])
    readers: dict[str, Reader] = {}
    skipped = []
    for site, kept in losing:
        why = (Code.NOT_OBSERVABLE, hidden[site.name]) if site.name in hidden else None
        if why := why or (_why_no_refit(site) if refits else None):
            skipped.append(Skipped(site.name, *why))
            matrix = site.matrix()
            site.write_matrix(np.where(kept, matrix, 0).astype(matrix.dtype))
        else:
            biases = biases_of(site)
            readers[site.name] = Reader(site, kept, biases, [flat(bias) for bias in biases])
    return readers, skipped


def let_choose(
    lattice: Lattice,
    group: Group,
    units: Labels,
    readers: dict[str, Reader],
) -> None:
    """Open a group to the one layer that reads its units, if there is one and nothing else does."""
    count = int(np.isin(group.units, units).sum())
    if not count or len(alike(lattice, group.units)) > 1 or len(summed(lattice, group.units)):
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


def quiet_strangers(lattice: Lattice, working: ir.Model, removal: Removal) -> list[Skipped]:
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


def biases_of(site: WeightSite) -> list[Bias]:
    """Return the bias of every node that reads the weight of ``site``."""
    sizes = [site.operand_shape[axis] for axis in site.layout.perm[: site.layout.row_axes]]
    return [own_bias(node, site.index_in(node), tuple(sizes)) for node in site.nodes]


def flat(bias: Bias) -> NDArray[np.float64]:
    """Return a bias as float64 [out]."""
    tensor = bias.value.const_value
    assert tensor is not None
    return tensor.numpy().astype(np.float64).reshape(-1)


def summed(lattice: Lattice, units: Labels) -> Labels:
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
