"""A mixture of experts in gather form, as the feed-forward part of a decoder.

Each token gathers the matrices of its experts and multiplies them in one batched product: more
memory than a loop over experts, but every shape is static, so it exports. Experts are stored as
one tensor ``[experts, out, in]``. Source of the layer: Fedus et al., arXiv:2101.03961 (routing)
and Jiang et al., arXiv:2401.04088 (top-2, SwiGLU experts).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.zoo.llama import Llama, LlamaConfig


class MixtureOfExperts(nn.Module):
    """``[n, length, width]`` to the same shape; each token is served by ``chosen`` experts."""

    def __init__(self, width: int, hidden: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.chosen = chosen
        self.gate = nn.Linear(width, experts, bias=False)
        self.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * hidden, width) * width**-0.5)
        self.down_proj = nn.Parameter(torch.randn(experts, width, hidden) * hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        best, experts = torch.softmax(self.gate(tokens), dim=-1).topk(self.chosen, dim=-1)
        shares = best / best.sum(dim=-1, keepdim=True)
        gate, up = (self.gate_up_proj[experts] @ tokens[:, None, :, None]).chunk(2, dim=2)
        answers = self.down_proj[experts] @ (nn.functional.silu(gate) * up)
        return (answers[..., 0] * shares[..., None]).sum(dim=1).view(x.shape)


def moe_llama(config: LlamaConfig, experts: int = 4, chosen: int = 2) -> Llama:
    """Return a Llama whose every feed-forward part is a mixture of experts."""
    model = Llama(config)
    for layer in model.layers:
        layer.mlp = MixtureOfExperts(config.width, config.hidden, experts, chosen)
    return model
