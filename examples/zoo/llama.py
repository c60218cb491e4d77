"""A Llama-style decoder in torch: grouped-query attention, rotary positions, SwiGLU, tied head.

Sources: Touvron et al., "LLaMA", arXiv:2302.13971; Ainslie et al., "GQA", arXiv:2305.13245; Su et
al., "RoFormer", arXiv:2104.09864 (in its half-split form); Shazeer, arXiv:2002.05202 (SwiGLU).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Sizes of a decoder; the defaults are SmolLM2-135M."""

    layers: int = 30
    width: int = 576
    heads: int = 9
    kv_heads: int = 3
    hidden: int = 1536
    vocabulary: int = 49152
    rotary_base: float = 1e5
    eps: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.width // self.heads


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Each key and value head serves ``heads / kv_heads`` query heads."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        size = config.head_size
        self.q_proj = nn.Linear(config.width, config.heads * size, bias=False)
        self.k_proj = nn.Linear(config.width, config.kv_heads * size, bias=False)
        self.v_proj = nn.Linear(config.width, config.kv_heads * size, bias=False)
        self.o_proj = nn.Linear(config.heads * size, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, future: Tensor) -> Tensor:
        batch, length, width = x.shape
        size = self.config.head_size
        q = rotate(self._split(self.q_proj(x), self.config.heads), cos, sin)
        k = rotate(self._split(self.k_proj(x), self.config.kv_heads), cos, sin)
        v = self._split(self.v_proj(x), self.config.kv_heads)
        scores = q @ self._shared(k).transpose(-1, -2) / size**0.5
        scores = scores.masked_fill(future, float("-inf"))
        mixed = torch.softmax(scores, dim=-1) @ self._shared(v)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, width))

    def _split(self, x: Tensor, heads: int) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, heads, self.config.head_size).transpose(1, 2)

    def _shared(self, x: Tensor) -> Tensor:
        """Repeat each of the key or value heads for its query heads."""
        batch, heads, length, size = x.shape
        repeats = self.config.heads // self.config.kv_heads
        wide = x[:, :, None].expand(batch, heads, repeats, length, size)
        return wide.reshape(batch, heads * repeats, length, size)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + size/2) of the last axis by their angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class FeedForward(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, future: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, future)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """The decoder: int64 token ids ``[batch, length]`` to logits ``[batch, length, vocabulary]``.

    The head is the embedding, so one tensor is read both by rows and as a matrix.
    """

    inverse_frequency: Tensor

    def __init__(self, config: LlamaConfig | None = None) -> None:
        super().__init__()
        config = config or LlamaConfig()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = RMSNorm(config.width, config.eps)
        steps = torch.arange(0, config.head_size, 2) / config.head_size
        self.register_buffer("inverse_frequency", config.rotary_base**-steps, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        angles = positions[:, None] * self.inverse_frequency
        angles = torch.cat((angles, angles), dim=-1)
        future = positions[None, :] > positions[:, None]
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin(), future)
        return nn.functional.linear(self.norm(x), self.embed_tokens.weight)
