"""Text from SmolLM2-135M, dense and with packed weights: ``python -m examples.generate``.

The decoder has a static cache of keys and values; on a CUDA device a token is one CUDA graph. Three
models decode the same prompt: the dense one, the pruned one stored densely, and the pruned one stored
packed. The last two must choose the same tokens (up to the rounding of float16, where two are equally
probable). Without a device this runs on the CPU through the operators' references, which unpack a weight
at every use: it shows that the numbers are right, and nothing about speed.

Pruned by magnitude and not trained further, a model of this size no longer writes sense.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time

import torch
from torch import Tensor

import sparsec.torch
from examples.zoo import real
from examples.zoo.cache import UnavailableError
from examples.zoo.decode_graph import GreedyDecoder
from examples.zoo.llama import Llama, LlamaConfig
from examples.zoo.llama_static import StaticLlama
from examples.zoo.smollm2 import load_smollm2, load_tokenizer

SMALL = LlamaConfig(layers=2, width=64, heads=4, kv_heads=2, hidden=192, vocabulary=128)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.generate", description=__doc__)
    parser.add_argument("--prompt", default="The capital of France is")
    parser.add_argument(
        "--tokens",
        type=int,
        help="default: 32 on a CUDA device, 8 on the CPU, where each takes seconds",
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pattern", default="2:4", help="2:4, 1:4, unstructured, block:8x1")
    parser.add_argument("--sparsity", type=float, help="for patterns that leave it open")
    parser.add_argument(
        "--random", action="store_true", help="a tiny random model, no files needed"
    )
    return parser.parse_args(arguments)


def logits(model: StaticLlama, prompt: Tensor) -> Tensor:
    """Return what the model thinks of the token after the prompt: float32 [batch, vocabulary]."""
    length = prompt.shape[1]
    positions = torch.arange(length, device=model.inverse_frequency.device)
    with torch.inference_mode():
        past = model.cache(len(prompt), length)
        return model(prompt.to(positions.device), positions, past).float()


def decode(model: StaticLlama, prompt: Tensor, tokens: int) -> tuple[Tensor, float]:
    """Return the new tokens int64 [batch, tokens] and how many a second were chosen."""
    batch, length = prompt.shape
    decoder = GreedyDecoder(model, batch, length + tokens + 4)
    decoder.prefill(prompt)
    start = time.perf_counter()
    out = decoder.generate(tokens - 1)
    seconds = time.perf_counter() - start  # the shape of ``out`` was waited for
    return out[:, length:].cpu(), batch * (tokens - 1) / seconds


def parting(masked: StaticLlama, prompt: Tensor, first: Tensor, second: Tensor) -> str | None:
    """Return where two continuations int64 [tokens] of a prompt [1, length] part; None if nowhere."""
    apart = (first != second).nonzero()
    if not len(apart):
        return None
    at = int(apart[0])
    seen = logits(masked, torch.cat((prompt.cpu(), first[None, :at]), dim=1))[0]
    gap = float((seen[first[at]] - seen[second[at]]).abs() / seen.abs().max())
    return (
        f"they part at token {at + 1}, between two whose logits are {gap:.1e} of the largest apart"
    )


def densified(model: StaticLlama) -> StaticLlama:
    """Return the pruned model with its packed weights stored densely."""
    dense = copy.deepcopy(model)
    for name, layer in list(sparsec.torch.sparse_layers(dense)):
        parent, _, attribute = name.rpartition(".")
        linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
        linear.weight = torch.nn.Parameter(layer.weight.to(dense.embed_tokens.weight.dtype))
        setattr(dense.get_submodule(parent), attribute, linear)
    return dense


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = options.tokens or (32 if device == "cuda" else 8)
    torch.manual_seed(0)
    if options.random:
        tokenizer, config = None, SMALL
        llama = Llama(SMALL).eval()
        ids = torch.arange(1, 9)[None]
    else:
        try:
            source = real.REAL["smollm2"].source
        except UnavailableError as error:
            print(f"{error}\nWithout the model: python -m examples.generate --random")
            return 1
        tokenizer, config = load_tokenizer(source), LlamaConfig()
        llama = load_smollm2(source)
        ids = torch.tensor([tokenizer.encode(options.prompt).ids])
    model = StaticLlama.from_llama(llama, config).to(device)
    model = model.half() if device == "cuda" else model
    prompt = ids.expand(options.batch, -1)

    results = {"dense": decode(model, prompt, tokens)}
    report = sparsec.torch.sparsify_(model, options.pattern, sparsity=options.sparsity)
    print(str(report).splitlines()[-1])
    masked = densified(model)
    expected, got = logits(masked, prompt), logits(model, prompt)
    results["pruned, dense"] = decode(masked, prompt, tokens)
    results["pruned, packed"] = decode(model, prompt, tokens)

    for label, (chosen, speed) in results.items():
        text = tokenizer.decode(chosen[0].tolist()) if tokenizer else chosen[0].tolist()
        rate = f"{speed:8.1f} tokens/s" if device == "cuda" else ""
        print(f"{label:15s} {rate}  {text!r}")
    if device == "cpu":
        print("On the CPU packed weights are unpacked at every use: no speed is shown.")
    dense, packed = (results[f"pruned, {how}"][0][0] for how in ("dense", "packed"))
    if where := parting(masked, prompt[:1], dense, packed):
        print(f"packed and dense: {where}")
    error = float((got - expected).abs().max() / expected.abs().max())
    print(f"packed and dense: logits after the prompt differ by at most {error:.1e} of the largest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
