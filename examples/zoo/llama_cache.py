"""The decoder of :mod:`examples.zoo.llama` one token at a time, with the keys and values of the past.

What was computed for earlier tokens comes in and goes out extended, so that a token costs one column
of every product. A lone token sees everything before it: there is no mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.zoo.llama import Attention, Llama


class LlamaDecoder(Llama):
    """One step: token ids ``[batch, 1]`` and the past to logits ``[batch, 1, vocabulary]`` and the present.

    The past is a key and a value for each layer in turn, all ``[batch, kv_heads, past, size]``; the
    present is one longer. All sequences of a batch are equally long.
    """

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        angles = past[0].shape[2] * torch.cat((self.inverse_frequency, self.inverse_frequency))
        half = len(self.inverse_frequency)
        cos = angles.cos()
        sin = angles.sin() * torch.cat((-torch.ones(half), torch.ones(half)))
        present: list[Tensor] = []
        x = self.embed_tokens(input_ids)
        for i, layer in enumerate(self.layers):
            key, value = past[2 * i : 2 * i + 2]
            mixed, key, value = attend(
                layer.self_attn, layer.input_layernorm(x), cos, sin, key, value
            )
            present += [key, value]
            x = x + mixed
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits = nn.functional.linear(self.norm(x), self.embed_tokens.weight)
        return (logits, *present)


def attend(
    attention: Attention, x: Tensor, cos: Tensor, sin: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the token of ``x`` ``[batch, 1, width]`` draws from what it sees, and the present."""
    batch = x.shape[0]
    heads, groups, size = _sizes(attention)
    # With one token, [batch, 1, heads * size] and [batch, heads, 1, size] are the same numbers.
    turned = torch.cat((attention.q_proj(x), attention.k_proj(x)), dim=-1)
    turned = rotate(turned.view(batch, heads + groups, 1, size), cos, sin)
    q, k = turned.split((heads, groups), dim=1)
    key = torch.cat((key, k), dim=2)
    value = torch.cat((value, attention.v_proj(x).view(batch, groups, 1, size)), dim=2)
    # The query heads that share a key head are rows of one product.
    scores = q.reshape(batch, groups, heads // groups, size) @ key.transpose(-1, -2)
    mixed = torch.softmax(scores / size**0.5, dim=-1) @ value
    return attention.o_proj(mixed.reshape(batch, 1, heads * size)), key, value


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + size/2) of the last axis; the sine is negative in the first half."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((second, first), dim=-1) * signed_sin


def _sizes(attention: Attention) -> tuple[int, int, int]:
    config = attention.config
    return config.heads, config.kv_heads, config.head_size
