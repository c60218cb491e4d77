"""Scaled dot-product attention and rotary position embedding."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparsec.ir.fx.registry import op


def _heads(x: Tensor, count: int | None) -> Tensor:
    """Bring x [batch, length, heads * width] to [batch, heads, length, width]."""
    if x.ndim == 4:
        return x
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


@op("Attention", since=23, many=True)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: torch.dtype | None = None,
    n_outputs: int = 1,
) -> tuple[Tensor | None, ...]:
    """Attention with masks, past keys and values, grouped heads and soft capping.

    Inputs are [batch, heads, length, width], or [batch, length, heads * width] together with the
    head counts. The scores are returned as they stand after the step that
    ``qk_matmul_output_mode`` names: 0 product, 1 soft cap, 2 mask added, 3 softmax. A query that
    may look at nothing gives zeros.
    """
    flat = query.ndim == 3
    q, k, v = _heads(query, q_num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    if past_key is not None and past_value is not None:
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    present = (k, v)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    root = math.sqrt(1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores = (q * root) @ (k * root).mT
    capped = torch.tanh(scores / softcap) * softcap if softcap else scores
    before = 0 if past_key is None else past_key.shape[2]
    if nonpad_kv_seqlen is not None:
        nonpad_kv_seqlen = nonpad_kv_seqlen.reshape(-1, 1, 1, 1)
        before = nonpad_kv_seqlen - q.shape[2]
    bias = _bias(q, k, mask, before, nonpad_kv_seqlen, is_causal)
    masked = capped if bias is None else capped + bias
    weights = _softmax(masked, softmax_precision, may_be_blind=bias is not None).to(q.dtype)
    y = weights @ v
    if flat:
        y = y.transpose(1, 2).flatten(2)
    return y, *present, (scores, capped, masked, weights)[qk_matmul_output_mode]


def _bias(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    before: int | Tensor,
    lengths: Tensor | None,
    is_causal: int,
) -> Tensor | None:
    """Return what is added to the scores, -inf where a query may not look; None for nothing.

    ``before`` counts the keys that precede the first query, ``lengths`` the keys that are real.
    """
    parts = []
    if mask is not None:
        mask = _additive(mask, q) if mask.dtype == torch.bool else mask
        short = k.shape[2] - mask.shape[-1]
        parts.append(F.pad(mask, (0, short), value=-torch.inf) if short else mask)
    keys = torch.arange(k.shape[2], device=q.device)
    if is_causal:
        rows = torch.arange(q.shape[2], device=q.device)[:, None] + before
        parts.append(_additive(keys <= rows, q))
    if lengths is not None:
        parts.append(_additive(keys < lengths, q))
    return functools.reduce(torch.add, parts) if parts else None


def _additive(allowed: Tensor, like: Tensor) -> Tensor:
    """Return 0 where allowed and -inf elsewhere."""
    return torch.zeros(allowed.shape, dtype=like.dtype, device=like.device).masked_fill(
        ~allowed, -torch.inf
    )


def _softmax(scores: Tensor, dtype: torch.dtype | None, *, may_be_blind: bool) -> Tensor:
    """Softmax over keys; rows of -inf give zeros, where plain softmax gives NaN."""
    if not may_be_blind:
        return torch.softmax(scores, -1, dtype=dtype)
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(blind, 0.0), -1, dtype=dtype)
    return weights.masked_fill(blind, 0.0)


@op("RotaryEmbedding", since=23)
def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Rotate pairs of features by an angle that grows with the position.

    x is [batch, heads, length, width] or [batch, length, heads * width]; the caches are
    [positions, width / 2], or [batch, length, width / 2] without ``position_ids``. Pairs are the
    two halves of the width, or neighbours with ``interleaved``.
    """
    flat = x.ndim == 3
    y = _heads(x, num_heads)
    width = rotary_embedding_dim or y.shape[-1]
    rotated, rest = y[..., :width], y[..., width:]
    if position_ids is not None:
        cos, sin = cos[position_ids], sin[position_ids]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    if interleaved:
        a, b = rotated[..., 0::2], rotated[..., 1::2]
    else:
        a, b = rotated.chunk(2, -1)
    turned = (a * cos - b * sin, a * sin + b * cos)
    joined = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
    y = torch.cat((joined, rest), -1)
    if not flat:
        return y
    return y.transpose(1, 2).flatten(2)
