"""SmolLM2-135M from its GGUF file: the weights as a torch module, and the tokenizer.

GGUF stores what llama.cpp computes with: rows of the query and key projections are permuted so
that rotary pairs lie side by side, and most matrices are quantised (here Q4_1), so the weights
are those of the quantised model, exactly.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from examples.zoo.llama import Llama

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
}


def load_smollm2(path: Path, kind: type[Llama] | None = None) -> Llama:
    """Return the model in float32, in evaluation mode, as a :class:`Llama` or a class derived from it."""
    import gguf
    import torch

    from examples.zoo.llama import Llama, LlamaConfig

    config = LlamaConfig()
    weights: dict[str, torch.Tensor] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name:
            values = unpermute(values, config.heads)
        elif ".attn_k." in tensor.name:
            values = unpermute(values, config.kv_heads)
        weights[_torch_name(tensor.name)] = torch.from_numpy(values.copy())
    with torch.device("meta"):
        model = (kind or Llama)(config)
    # The rotary frequencies are computed, not stored, so they are still missing.
    model.inverse_frequency = Llama(LlamaConfig(layers=0, vocabulary=1)).inverse_frequency
    model.load_state_dict(weights, assign=True)
    return model.eval()


def unpermute(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Bring the rows of each head from interleaved rotary pairs to two halves.

    Parameters
    ----------
    rows : float32 [heads * size, inputs]
        As stored: within a head, row ``2 i + j`` is element ``j`` of pair ``i``.
    heads : int

    Returns
    -------
    float32 [heads * size, inputs]
        Within a head, row ``j * size / 2 + i`` is element ``j`` of pair ``i``.

    Examples
    --------
    >>> unpermute(np.array([[0], [10], [1], [11]], dtype=np.float32), heads=1).ravel()
    array([ 0.,  1., 10., 11.], dtype=float32)
    """
    outputs, inputs = rows.shape
    pairs = rows.reshape(heads, outputs // heads // 2, 2, inputs)
    return pairs.swapaxes(1, 2).reshape(outputs, inputs)


def _torch_name(name: str) -> str:
    """``blk.3.attn_q.weight`` is ``layers.3.self_attn.q_proj.weight``."""
    *where, kind, leaf = name.split(".")
    layer = f"layers.{where[1]}." if where else ""
    return f"{layer}{_NAMES[kind]}.{leaf}"


@functools.cache
def load_tokenizer(path: Path) -> Any:
    """Return the byte-level BPE of the file as a ``tokenizers.Tokenizer``."""
    import gguf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()
    ids = {token: number for number, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
