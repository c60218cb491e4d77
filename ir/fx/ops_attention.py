"""Scaled dot-product attention and rotary position embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsec.ir.fx import host as hv
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
    head counts. The product of query and key is returned as it stands after the step that
    ``qk_matmul_output_mode`` names: 0 product, 1 mask added, 2 soft cap, 3 softmax.
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
    steps = [scores]
    bias = _bias(q, k, mask, 0 if past_key is None else past_key.shape[2], is_causal)
    if nonpad_kv_seqlen is not None:
        real = torch.arange(k.shape[2], device=q.device) < nonpad_kv_seqlen.reshape(-1, 1, 1, 1)
        hidden = torch.zeros_like(scores).masked_fill(~real, -torch.inf)
        bias = hidden if bias is None else bias + hidden
    steps.append(scores if bias is None else scores + bias)
    steps.append(torch.tanh(steps[1] / softcap) * softcap if softcap else steps[1])
    weights = torch.softmax(steps[2], -1, dtype=softmax_precision).to(q.dtype)
    steps.append(weights)
    y = weights @ v
    if flat:
        y = y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1)
    return y, *present, steps[qk_matmul_output_mode]


def _bias(
    q: Tensor, k: Tensor, mask: Tensor | None, past: int, is_causal: int
) -> Tensor | None:
    """Return what is added to the scores: the mask in float form, with the causal one."""
    bias = None
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(
                ~mask, -torch.inf
            )
        short = k.shape[2] - mask.shape[-1]
        bias = torch.nn.functional.pad(mask, (0, short), value=-torch.inf) if short else mask
    if is_causal:
        rows = torch.arange(q.shape[2], device=q.device)[:, None] + past
        later = torch.arange(k.shape[2], device=q.device) > rows
        causal = torch.zeros(later.shape, dtype=q.dtype, device=q.device)
        causal = causal.masked_fill(later, -torch.inf)
        bias = causal if bias is None else bias + causal
    return bias


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
    if interleaved:
        y = torch.stack(turned, -1).reshape(rotated.shape)
    else:
        y = torch.cat(turned, -1)
    y = torch.cat((y, rest), -1)
    if not flat:
        return y
    return y.transpose(1, 2).reshape(y.shape[0], y.shape[2], hv.product((y.shape[1], y.shape[3])))
