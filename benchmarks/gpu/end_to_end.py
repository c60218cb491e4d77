"""Tokens a second and memory of a whole decoder: ``python -m benchmarks.gpu.end_to_end``.

A model of the shape of Llama-2-7B with random weights, dense and with its linear layers packed, in one
process and in turn; each decodes with a static cache, one CUDA graph a token. Needs numpy, torch and
triton. ``--dry-run`` does the same on the CPU with a tiny model: it proves that everything runs and that
sparse and dense agree, and its times mean nothing.

All blocks of a model hold the same numbers, each in memory of its own: what is read for a token is what a
trained model would read, and packing takes seconds. The head and the embedding stay dense.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu import native
from examples.zoo.decode_graph import GreedyDecoder
from examples.zoo.llama import LlamaConfig
from examples.zoo.llama_static import LLAMA2_7B, StaticLlama
from sparsec.backends.cuda import dispatch, torch_formats
from sparsec.ir.patterns import NM, Block, parse_pattern
from sparsec.torch.linear import SparseLinear, modelled_dispatch

TINY = LlamaConfig(
    layers=2, width=128, heads=4, kv_heads=2, hidden=352, vocabulary=256, rotary_base=1e4
)
PROMPT = 16
LOGIT_TOLERANCE = 1e-2  # of the largest logit: both sides round to 16 bits at other places


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """One run of the benchmark."""

    config: LlamaConfig
    device: str
    batches: tuple[int, ...]
    tokens: int
    rounds: int


FULL = Plan(LLAMA2_7B, "cuda", (1, 8, 16, 32), 128, 3)
DRY = Plan(TINY, "cpu", (1, 2), 4, 1)

# What is compared with dense, what the targets are about first: pattern, sparsity, packed format.
VARIANTS = (
    ("2:4", 0.5, "nm24_sp"),
    ("unstructured", 0.7, "lps"),
    ("2:4", 0.5, "nm24"),
    ("unstructured", 0.7, "bm32"),
)


def masked(weight: Tensor, pattern: str, sparsity: float) -> Tensor:
    """Return a random weight [M, K] with zeros in the pattern, on its device; M and K are multiples."""
    rows, columns = weight.shape
    parsed = parse_pattern(pattern)
    if isinstance(parsed, NM):
        scores = torch.rand(rows, columns // parsed.m, parsed.m, device=weight.device)
        keep = scores.argsort(dim=-1).argsort(dim=-1) < parsed.n
        return weight * keep.reshape(weight.shape)
    high, wide = (parsed.rows, parsed.cols) if isinstance(parsed, Block) else (1, 1)
    keep = torch.rand(rows // high, columns // wide, device=weight.device) >= sparsity
    return weight * keep.repeat_interleave(high, 0).repeat_interleave(wide, 1)


def skipped(name: str, device: str) -> str | None:
    """Return why a format cannot be measured on the device, or None."""
    if device != "cuda":
        return None
    if name in dispatch.NATIVE:
        return native.missing()
    return None if dispatch.multiplies(name) else "no kernel multiplies it"


def block_layers(model: StaticLlama) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield ``(kind, parent, attribute)`` of every linear layer of every block."""
    for block in model.layers:
        for parent in (block.self_attn, block.mlp):
            for attribute, layer in list(parent.named_children()):
                if isinstance(layer, (nn.Linear, SparseLinear)):
                    yield attribute, parent, attribute


def dense_model(plan: Plan) -> StaticLlama:
    """Return the dense model in float16 with random weights of a trained model's size."""
    with torch.device("meta"):
        model = StaticLlama(plan.config, tied=False)
    model = model.to_empty(device=plan.device).half().eval()
    steps = torch.arange(0, plan.config.head_size, 2) / plan.config.head_size
    model.inverse_frequency = (plan.config.rotary_base**-steps).to(plan.device)
    fill(model)
    return model


def fill(model: StaticLlama) -> None:
    """Draw the weights, always the same ones."""
    torch.manual_seed(0)
    first: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            kind = ".".join(part for part in name.split(".") if not part.isdigit())
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            elif kind in first:
                parameter.copy_(first[kind])
            else:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
                first[kind] = parameter


def mask_model(model: StaticLlama, pattern: str, sparsity: float) -> None:
    """Zero weights of all blocks in the pattern, the same ones in each."""
    done: dict[str, Tensor] = {}
    with torch.no_grad():
        for kind, parent, attribute in block_layers(model):
            weight = getattr(parent, attribute).weight
            if kind not in done:
                done[kind] = masked(weight, pattern, sparsity)
            weight.copy_(done[kind])


def sparse_model(dense: StaticLlama, pattern: str, name: str) -> StaticLlama:
    """Return the model with packed blocks; embedding, head and norms are those of ``dense``."""
    with torch.device("meta"):
        model = StaticLlama(dense.config, tied=False).half().eval()
    model.embed_tokens, model.lm_head, model.norm = dense.embed_tokens, dense.lm_head, dense.norm
    model.inverse_frequency = dense.inverse_frequency
    sources = [getattr(parent, attribute) for _, parent, attribute in block_layers(dense)]
    kinds = [kind for kind, _, _ in block_layers(model)]
    with concurrent.futures.ThreadPoolExecutor(len(set(kinds))) as pool:
        packing = {
            kind: pool.submit(torch_formats.pack, name, source.weight, "float16")
            for kind, source in reversed(list(zip(kinds, sources, strict=True)))
        }
        first = {
            kind: [array.to(sources[0].weight.device) for array in each.result()]
            for kind, each in packing.items()
        }
    for (kind, parent, attribute), source in zip(block_layers(model), sources, strict=True):
        weight = source.weight
        arrays = [array.clone() for array in first[kind]]
        shape = (weight.shape[0], weight.shape[1])
        layer = SparseLinear(
            shape,
            name,
            arrays,
            values="float16",
            pattern=pattern,
            dispatch=modelled_dispatch(name, shape, sum(array.nbytes for array in arrays)),
        )
        setattr(parent, attribute, layer)
    for mine, theirs in zip(model.layers, dense.layers, strict=True):
        mine.input_layernorm = theirs.input_layernorm
        mine.post_attention_layernorm = theirs.post_attention_layernorm
    return model


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of all weights."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def logits_of(model: StaticLlama, plan: Plan) -> Tensor:
    """Return the logits after a prompt, float32."""
    prompt = torch.arange(PROMPT, device=plan.device)[None] % plan.config.vocabulary
    positions = torch.arange(PROMPT, device=plan.device)
    with torch.inference_mode():
        return model(prompt, positions, model.cache(1, PROMPT + 1)).float()


def peak_bytes(model: StaticLlama, plan: Plan) -> int | None:
    """Return what decoding one sequence takes at most on the device, weights included."""
    if plan.device != "cuda":
        return None
    torch.cuda.synchronize()
    others = torch.cuda.memory_allocated() - model_bytes(model)
    torch.cuda.reset_peak_memory_stats()
    decoded(GreedyDecoder(model, 1, PROMPT + plan.tokens + 2), plan, 1)
    return int(torch.cuda.max_memory_allocated() - others)


def decoded(decoder: GreedyDecoder, plan: Plan, batch: int) -> float:
    """Decode ``plan.tokens`` tokens after a prompt; return the seconds they took."""
    prompt = torch.arange(PROMPT)[None].expand(batch, -1) % plan.config.vocabulary
    decoder.prefill(prompt)
    _wait(plan)
    start = time.perf_counter()
    decoder.generate(plan.tokens)
    _wait(plan)
    return time.perf_counter() - start


def _wait(plan: Plan) -> None:
    if plan.device == "cuda":
        torch.cuda.synchronize()


class Comparison:
    """The models of a run; each step of it is a method, of use where a step may fail."""

    def __init__(self, plan: Plan) -> None:
        self.plan, dense = plan, dense_model(plan)
        self.models = {"dense": dense}

    def check_dense(self) -> dict[str, Any]:
        """Return what the dense model takes."""
        dense = self.models["dense"]
        return {"weight_bytes": model_bytes(dense), "peak_bytes": peak_bytes(dense, self.plan)}

    def add(self, pattern: str, sparsity: float, name: str) -> dict[str, Any]:
        """Make a sparse model, compare its logits with those of the dense one with zeros, and return that."""
        if reason := skipped(name, self.plan.device):
            return {"skipped": reason}
        dense = self.models["dense"]
        try:
            mask_model(dense, pattern, sparsity)
            expected = logits_of(dense, self.plan)
            model = sparse_model(dense, pattern, name)
        finally:
            fill(dense)  # masks of the next variant fall on full weights
        got = logits_of(model, self.plan)
        error = float((got - expected).abs().max() / expected.abs().max())
        self.models[label(pattern, sparsity, name)] = model
        return {
            "logit_error": error,
            "passed": error <= LOGIT_TOLERANCE,
            "weight_bytes": model_bytes(model),
            "peak_bytes": peak_bytes(model, self.plan),
        }

    def rows(self, batch: int) -> list[dict[str, Any]]:
        """Return the rows of one batch size."""
        return rows(self.models, self.plan, batch)


def label(pattern: str, sparsity: float, name: str) -> str:
    """Return what a variant is called in results."""
    return f"{pattern} {sparsity:g} {name}"


_comparison: list[Comparison] = []  # of a process that is asked step by step


def begin(plan: Plan) -> dict[str, Any]:
    """Make the dense model and keep it, and no other, for :func:`step`; return what it takes."""
    end()
    _comparison[:] = [Comparison(plan)]
    return _comparison[0].check_dense()


def step(method: str, *arguments: Any) -> Any:
    """Call a method of the comparison that :func:`begin` began."""
    if not _comparison:
        raise RuntimeError("the process that held the models is gone")
    return getattr(_comparison[0], method)(*arguments)


def end() -> None:
    """Give the models' memory back."""
    _comparison.clear()
    gc.collect()
    torch.cuda.empty_cache()


def run(plan: Plan) -> dict[str, Any]:
    """Check, then measure; return all numbers."""
    comparison = Comparison(plan)
    checks = {label(*each): comparison.add(*each) for each in VARIANTS}
    checks["dense"] = comparison.check_dense()
    return {"checks": checks, "rows": [row for b in plan.batches for row in comparison.rows(b)]}


def rows(models: dict[str, StaticLlama], plan: Plan, batch: int) -> list[dict[str, Any]]:
    """Measure one batch size, the models in turn; return a row for each."""
    capacity = PROMPT + plan.tokens + 2
    decoders = {name: GreedyDecoder(model, batch, capacity) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(plan.rounds):
        for name, decoder in decoders.items():
            seconds[name].append(decoded(decoder, plan, batch))
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "model": name,
            "batch": batch,
            "tokens_per_second": batch * plan.tokens / median[name],
            "speedup": median["dense"] / median[name],
        }
        for name in models
    ]


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    lines = [f"{'model':26s} {'weights GB':>10s} {'peak GB':>8s} {'logit error':>11s}"]
    for name, check in result["checks"].items():
        if "skipped" in check:
            lines.append(f"{name:26s} not run: {check['skipped']}")
            continue
        peak = check["peak_bytes"]
        error = f"{check['logit_error']:.1e}" if "logit_error" in check else "-"
        lines.append(
            f"{name:26s} {check['weight_bytes'] / 1e9:10.2f} "
            f"{'-' if peak is None else format(peak / 1e9, '.2f'):>8s} {error:>11s}"
        )
    lines.append(f"{'model':26s} {'batch':>5s} {'tokens/s':>9s} {'ratio':>6s}")
    lines += [
        f"{row['model']:26s} {row['batch']:5d} {row['tokens_per_second']:9.1f} {row['speedup']:6.2f}"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def failed(result: dict[str, Any]) -> list[str]:
    """Return the models whose logits are wrong."""
    return [name for name, check in result["checks"].items() if check.get("passed") is False]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code: 3 for wrong results, 4 without a device."""
    from benchmarks.gpu.__main__ import NO_DEVICE, WRONG_RESULT, machine, missing

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.end_to_end", description=__doc__
    )
    parser.add_argument("--dry-run", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args(arguments)
    if not options.dry_run and (reason := missing()):
        print(f"Nothing was measured: {reason}. Run this on a machine with an NVIDIA GPU.")
        return NO_DEVICE
    result = run(DRY if options.dry_run else FULL)
    if options.dry_run:
        print("A dry run on the CPU: the times mean nothing.")
    else:
        result = {"machine": machine(), **result}
    print(table(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if wrong := failed(result):
        print(f"Wrong logits: {', '.join(wrong)}. Their times mean nothing.")
        return WRONG_RESULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
