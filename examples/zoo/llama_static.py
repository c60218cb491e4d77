"""A Llama-style decoder for serving: keys and values in buffers of fixed size, projections fused.

Every tensor of a step has the same address and shape as in the step before, so the step can be
captured in a CUDA graph. q, k and v are one product, and so are gate and up: a small product takes
as long as its launch, and no format makes that shorter.

Needs torch alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.zoo.llama import Llama, LlamaConfig, RMSNorm

LLAMA2_7B = LlamaConfig(
    layers=32,
    width=4096,
    heads=32,
    kv_heads=32,
    hidden=11008,
    vocabulary=32000,
    rotary_base=1e4,
)


class KeyValues:
    """Keys and values of up to ``capacity`` tokens: ``[layers, 2, batch, kv_heads, capacity, size]``."""

    def __init__(
        self,
        config: LlamaConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        shape = (config.layers, 2, batch, config.kv_heads, capacity, config.head_size)
        self.stored = torch.zeros(shape, dtype=dtype, device=device)
        self.capacity = capacity

    def extend(self, layer: int, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of ``positions`` and return all of the layer."""
        keys, values = self.stored[layer]
        keys.index_copy_(2, positions, k)
        values.index_copy_(2, positions, v)
        return keys, values


class StaticAttention(nn.Module):
    """Each key and value head serves ``heads / kv_heads`` query heads."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        size = config.head_size
        self.qkv_proj = nn.Linear(
            config.width, (config.heads + 2 * config.kv_heads) * size, bias=False
        )
        self.o_proj = nn.Linear(config.heads * size, config.width, bias=False)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        hidden: Tensor,
        positions: Tensor,
        past: KeyValues,
        layer: int,
    ) -> Tensor:
        batch, length, _ = x.shape
        config = self.config
        heads, groups, size = config.heads, config.kv_heads, config.head_size
        split = self.qkv_proj(x).view(batch, length, heads + 2 * groups, size).transpose(1, 2)
        q, k, v = split.split((heads, groups, groups), dim=1)
        keys, values = past.extend(layer, rotate(k, *turn), v, positions)
        q = rotate(q, *turn).reshape(batch, groups, heads // groups, length, size)
        scores = q @ keys[:, :, None].transpose(-1, -2) / size**0.5
        scores = scores.masked_fill(hidden, float("-inf"))
        mixed = torch.softmax(scores.float(), dim=-1).to(x.dtype) @ values[:, :, None]
        mixed = mixed.reshape(batch, heads, length, size).transpose(1, 2)
        return self.o_proj(mixed.reshape(batch, length, heads * size))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + size/2) of the last axis by their angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class StaticFeedForward(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(nn.functional.silu(gate) * up)


class StaticBlock(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.eps)
        self.self_attn = StaticAttention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.eps)
        self.mlp = StaticFeedForward(config)


def normed(norm: RMSNorm, x: Tensor) -> Tensor:
    """Apply a norm; torch squares in float32, where float16 would overflow."""
    return nn.functional.rms_norm(x, norm.weight.shape, norm.weight, norm.eps)


class StaticLlama(nn.Module):
    """Token ids and their positions to the logits of the last one, with a cache of fixed size.

    Parameters
    ----------
    config : LlamaConfig
    tied : bool
        The head is the embedding.
    """

    inverse_frequency: Tensor

    def __init__(self, config: LlamaConfig, *, tied: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList([StaticBlock(config) for _ in range(config.layers)])
        self.norm = RMSNorm(config.width, config.eps)
        self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight
        steps = torch.arange(0, config.head_size, 2) / config.head_size
        self.register_buffer("inverse_frequency", config.rotary_base**-steps, persistent=False)

    @classmethod
    def from_llama(cls, llama: Llama, config: LlamaConfig) -> StaticLlama:
        """Return the same model with fused projections."""
        with torch.device("meta"):
            model = cls(config)
        model.inverse_frequency = llama.inverse_frequency
        weights = dict(llama.state_dict())
        for i in range(config.layers):
            for parts, fused in (("qkv", "self_attn.{}_proj"), (("gate", "up"), "mlp.{}_proj")):
                rows = [weights.pop(f"layers.{i}.{fused.format(p)}.weight") for p in parts]
                name = "qkv" if parts == "qkv" else "gate_up"
                weights[f"layers.{i}.{fused.format(name)}.weight"] = torch.cat(rows)
        weights["lm_head.weight"] = weights["embed_tokens.weight"]
        model.load_state_dict(weights, assign=True)
        model.lm_head.weight = model.embed_tokens.weight
        return model.eval()

    def cache(self, batch: int, capacity: int) -> KeyValues:
        """Return an empty cache in the type and on the device of the model."""
        weight = self.embed_tokens.weight
        return KeyValues(self.config, batch, capacity, weight.dtype, weight.device)

    def forward(self, input_ids: Tensor, positions: Tensor, past: KeyValues) -> Tensor:
        """Return the logits ``[batch, vocabulary]`` of the last token.

        Parameters
        ----------
        input_ids : int64 [batch, length]
        positions : int64 [length]
            Where the tokens stand in the sequence, ascending; those before lie in ``past``.
        past : KeyValues
            Extended in place.
        """
        x = self.embed_tokens(input_ids)
        angles = positions[:, None] * self.inverse_frequency
        angles = torch.cat((angles, angles), dim=-1)
        turn = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        slots = torch.arange(past.capacity, device=positions.device)
        hidden = slots[None, :] > positions[:, None]
        for i, layer in enumerate(self.layers):
            normal = normed(layer.input_layernorm, x)
            x = x + layer.self_attn(normal, turn, hidden, positions, past, i)
            x = x + layer.mlp(normed(layer.post_attention_layernorm, x))
        return self.lm_head(normed(self.norm, x[:, -1]))
