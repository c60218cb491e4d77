"""The backend for GPUs: packs sparse layers and compiles their kernels, ahead of time.

No GPU is needed, and none is asked: which layers are packed rests on a roofline (cost.py), and
every reason says ``modelled``.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir
import onnx_ir.passes.common as onnx_passes

from sparsec.backends.base import Backend, LowerContext, Lowered, Runner
from sparsec.backends.cuda import aot, nvcc
from sparsec.backends.cuda.densify import check_packed, densify
from sparsec.backends.cuda.epilogue import Epilogue
from sparsec.backends.cuda.native import (
    FRAGMENTS,
    NATIVE,
    NativeUnpack,
    NativeVariant,
    native_variants,
    split_for,
)
from sparsec.backends.cuda.rewrite import DOMAIN, Rewriter, name_kernels
from sparsec.backends.cuda.rounding import round_layers
from sparsec.backends.cuda.select import Choice, architecture, choose, site_dtype, why_no_native
from sparsec.backends.cuda.variants import (
    MAX_N,
    Variant,
    family,
    shares,
    unpack_variant,
    variants_for,
)
from sparsec.ir.errors import UnsupportedOpError, UnsupportedTargetError
from sparsec.ir.layers import CostEntry, CostRecord, LayerRow
from sparsec.ir.safetensors import check_external, large_tensors
from sparsec.ir.sites import weight_sites
from sparsec.ir.target import Target

DENSE_KERNEL = "dense"
_DOMAIN_VERSION = 1

AnyVariant = Variant | NativeVariant | NativeUnpack


class CudaBackend(Backend):
    """Lowers sparse MatMul and Gemm layers to kernels that load them packed."""

    name: ClassVar[str] = "cuda"

    def why_not(self, target: Target) -> str | None:
        """Return why nothing can be compiled for ``target`` here, with the way out."""
        return aot.why_not(architecture(target))

    def lower(self, model: ir.Model, target: Target, context: LowerContext) -> Lowered:
        """Pack every sparse layer that the model of the target does not say loses.

        Raises
        ------
        UnsupportedTargetError
            If kernels cannot be compiled here, or compile to code that is not worth running.
        PatternError
            If weights do not follow the pattern that the file claims.
        """
        if reason := self.why_not(target):
            raise UnsupportedTargetError(f"target {target.name}: {reason}", where=target.name)
        sites = list(weight_sites(model))
        record = CostRecord(target.name)
        layers: list[LayerRow] = []
        needed: dict[AnyVariant, None] = {}
        rewriter = Rewriter(model)
        for index, site in enumerate(sites):
            context.progress(f"packing {site.name}", index / (2 * len(sites)))
            choice = choose(site, target)
            record.entries += _entries(choice)
            kernel = DENSE_KERNEL
            if choice.packed is not None:
                launches = functools.partial(_note_launches, choice, target, needed)
                rewriter.pack(site, choice.packed, launches)
                kernel = _family(_launches(choice, Epilogue(), target)[-1][0])
            layers.append(_row(choice, kernel))

        lowered = Lowered(model, layers, record=record, notes=_notes(layers, target))
        for index, variant in enumerate(needed):
            context.progress(f"compiling {variant.name}", (1 + index / len(needed)) / 2)
            if isinstance(variant, NativeVariant | NativeUnpack):
                _add_native(lowered, nvcc.compile_native(variant, context.cache))
            else:
                _add_kernel(lowered, aot.compile_variant(variant, context.cache))
        if needed:
            triton = any(isinstance(variant, Variant) for variant in needed)
            for file in aot.SOURCES.glob("*.py") if triton else ():  # they import one another
                if file.name != "__init__.py":
                    lowered.files[f"kernels/{file.name}"] = file
            model.opset_imports[DOMAIN] = _DOMAIN_VERSION
            onnx_passes.RemoveUnusedNodesPass()(model)
        lowered.weights.update(large_tensors(model))
        return lowered

    def densify(self, model: ir.Model, root: Path) -> ir.Model:
        """Return the graph in stock operators, its weights unpacked from what was packed.

        Raises
        ------
        ArtifactError
            If external data or packed data is not what the graph says.
        """
        check_external(model, root)
        densify(model, str(root))
        return model

    def reference(self, model: ir.Model, layers: Sequence[Mapping[str, Any]]) -> ir.Model | None:
        """Return the masked graph with x and weights of packed layers rounded to float16."""
        packed = {layer["name"] for layer in layers if layer["kernel"] != DENSE_KERNEL}
        if not packed:
            return None
        round_layers(model, packed)
        return model

    def runner(
        self, root: Path, manifest: Mapping[str, Any], threads: int | None, *, exact: bool = False
    ) -> Runner:
        """Run the graph in torch on the CUDA device, captured in CUDA graphs.

        Raises
        ------
        UnsupportedTargetError
            If there is no device, or no torch, with the ways out.
        ArtifactError
            If the device runs a kernel neither as it is nor from its source.
        """
        if reason := _why_no_device():
            raise UnsupportedTargetError(
                f"{root}: compiled for {manifest.get('target', 'a GPU')}, and {reason}. To run its "
                "packed weights on this CPU, slowly: sparsec.load(path, emulate=True). To check the "
                "numbers: sparsec verify. To run on this machine: compile with --target cpu. To launch "
                "the cubins yourself: docs/formats/gpu-kernels.md",
                where=str(root),
            )
        import torch

        from sparsec.backends.cuda import compiled

        called = compiled.load(root, manifest, torch.cuda.current_device())
        return _torch_runner(root, "cuda", called)

    def emulator(
        self, root: Path, manifest: Mapping[str, Any], threads: int | None
    ) -> Runner | None:
        """Run the same graph with the CPU's implementations of the operators.

        None without torch, and for graphs that torch cannot run as a whole. It is no stand-in for
        verification: it adds in another order than the reference does, and a deep model that rounds
        x to float16 at every layer can make 2 % of its output's size out of that.
        """
        if importlib.util.find_spec("torch") is None:
            return None
        try:
            return _torch_runner(root, "cpu")
        except UnsupportedOpError:
            return None


def _why_no_device() -> str | None:
    """Return why nothing can run on a CUDA device here, or None."""
    if importlib.util.find_spec("torch") is None:
        return "running it needs torch, which is not installed: pip install sparsec[cuda]"
    import torch

    if torch.cuda.is_available():
        return None
    build = "" if torch.version.cuda else ", and this build of it never will"
    return f"torch {torch.__version__} finds no CUDA device here{build}"


def _torch_runner(root: Path, device: str, called: Mapping[str, str] | None = None) -> Runner:
    """Return what runs the graph; ``called`` says what its kernels are loaded as."""
    from sparsec.backends.cuda.runner import TorchRunner

    model = ir.load(root / "model.onnx")
    check_external(model, root)
    check_packed(model, str(root))
    name_kernels(model, called or {})
    return TorchRunner(model, device)


def _note_launches(
    choice: Choice, target: Target, needed: dict[AnyVariant, None], epilogue: Epilogue
) -> list[tuple[str, int]]:
    """Return what a node launches, as it is stored, and note the variants in ``needed``."""
    by_bucket = _launches(choice, epilogue, target)
    needed.update(dict.fromkeys(variant for chain, _ in by_bucket for variant in chain))
    needed[_unpack(choice, target)] = None  # for dense_from rows of x and more
    return [(_names(chain), shares) for chain, shares in by_bucket]


def _unpack(choice: Choice, target: Target) -> AnyVariant:
    """Return the kernel that unpacks a layer's weight."""
    packed = choice.packed
    assert packed is not None
    name, columns, arch = packed.format.name, packed.shape[1], architecture(target)
    if name in NATIVE:
        aligned = columns % 8 == 0 or name in FRAGMENTS
        return NativeUnpack(name, packed.values, int(arch[2:]), aligned)
    return unpack_variant(name, columns, packed.values, packed.values, arch)


def _launches(
    choice: Choice, epilogue: Epilogue, target: Target
) -> list[tuple[tuple[AnyVariant, ...], int]]:
    """Return for every bucket of N the kernels that a node launches in turn, and its shares of K."""
    packed = choice.packed
    assert packed is not None
    rows, columns = packed.shape
    if packed.format.name in NATIVE:
        sm = int(architecture(target)[2:])
        stored = packed.nbytes / (rows * columns)
        natives = native_variants(packed.format.name, columns, packed.values, sm, stored)
        return [((variant,), split_for(variant, rows, columns)) for variant in natives]
    variants = variants_for(
        columns, packed.values, architecture(target), form=packed.format.name, out=site_dtype(choice.site),
        **epilogue.flags,
    )  # fmt: skip
    found: list[tuple[tuple[AnyVariant, ...], int]] = []
    for variant in variants:
        number = shares(rows, columns, variant, int(target.limits["processors"]))
        chain = (variant,) if number == 1 else variant.split_form()
        before = variant.before()
        found.append(((*([before] if before else []), *chain), number))
    return found


def _family(chain: tuple[AnyVariant, ...]) -> str:
    last = chain[-1]
    if isinstance(last, NativeVariant):
        return last.family
    return family(tuple(each for each in chain if isinstance(each, Variant)))


def _names(chain: Sequence[AnyVariant]) -> str:
    return " ".join(variant.name for variant in chain)


def _row(choice: Choice, kernel: str) -> LayerRow:
    site, modelled = choice.site, choice.estimate
    return LayerRow(
        name=site.name,
        op=site.op,
        shape=site.shape,
        pattern=site.pattern_text,
        sparsity=choice.sparsity,
        kernel=kernel,
        code=choice.code,
        reason=choice.reason,
        dense_seconds=modelled.dense_seconds if modelled else None,
        sparse_seconds=modelled.packed_seconds if modelled else None,
    )


def _entries(choice: Choice) -> list[CostEntry]:
    """Return the modelled times of one site, for the record."""
    if choice.estimate is None:
        return []
    shape = (*choice.site.shape, choice.estimate.rows)
    times = {
        DENSE_KERNEL: choice.estimate.dense_seconds,
        f"matmul_{choice.estimate.format}": choice.estimate.packed_seconds,
    }
    return [
        CostEntry(
            choice.site.op,
            shape,
            choice.site.pattern_text,
            choice.sparsity,
            kernel,
            1,
            seconds,
            "modelled",
        )
        for kernel, seconds in times.items()
    ]


def _add_kernel(lowered: Lowered, compiled: aot.CompiledKernel) -> None:
    """Put binary and assembly among the files, and the launch data among the kernels."""
    variant = compiled.variant
    assert isinstance(variant, Variant)
    stem = f"kernels/{variant.arch}/{variant.name}"
    binary, text = ("cubin", "ptx") if variant.arch.startswith("sm") else ("hsaco", "amdgcn")
    lowered.files[f"{stem}.{binary}"] = compiled.cubin
    lowered.files[f"{stem}.{text}"] = compiled.ptx.encode()
    lowered.kernels.append(
        {
            **compiled.launch,
            "file": f"{stem}.{binary}",
            text: f"{stem}.{text}",
            "source": f"kernels/{aot.source(variant).name}",
            "max_n": MAX_N,
        }
    )


def _add_native(lowered: Lowered, compiled: aot.CompiledKernel) -> None:
    """Put cubin, PTX and source among the files, and the launch data among the kernels."""
    variant = compiled.variant
    assert isinstance(variant, NativeVariant | NativeUnpack)
    stem = f"kernels/{variant.arch}/{variant.name}"
    lowered.files[f"{stem}.cubin"] = compiled.cubin
    lowered.files[f"{stem}.ptx"] = compiled.ptx.encode()
    lowered.files[f"{stem}.cu"] = nvcc.source_text(variant).encode()
    files = {"file": f"{stem}.cubin", "ptx": f"{stem}.ptx", "source": f"{stem}.cu"}
    lowered.kernels.append({**compiled.launch, **files, "max_n": MAX_N})


def _notes(layers: list[LayerRow], target: Target) -> list[str]:
    packed = [row for row in layers if row.kernel != DENSE_KERNEL]
    missing = why_no_native(target) if architecture(target).startswith("sm") else None
    if not packed:
        return [f"no layer could be packed for {target.name}; the graph runs densely"]
    return [
        f"{len(packed)} of {len(layers)} layers are packed for {target.title}; their times are "
        "modelled and unmeasured, nothing has run on a GPU",
        *([f"CUDA C++ kernels were no candidates: {missing}"] if missing else []),
        "packed layers multiply 16-bit values and sum in float32; in a float32 graph x and the "
        "weights are rounded to float16, and x beyond 65504 becomes infinite",
        f"kernels take up to {MAX_N} rows of x at a time; from dense_from rows on, a session unpacks the "
        "weight once and multiplies densely",
    ]
