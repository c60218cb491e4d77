"""Which layers are measured, and the physical limit of each."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One linear layer: y[N, M] = x[N, K] @ W[M, K].T."""

    model: str
    name: str
    m: int
    k: int

    @property
    def dense_bytes(self) -> int:
        return 2 * self.m * self.k


# Layers of at least 90 MB: smaller ones are bound by launch and ramp, and fit the cache of the GPU.
LAYERS = (
    Layer("Llama-2-7B", "gate+up", 22016, 4096),
    Layer("Llama-2-7B", "down", 4096, 11008),
    Layer("Llama-2-13B", "gate+up", 27648, 5120),
    Layer("Llama-2-13B", "down", 5120, 13824),
    Layer("Llama-2-70B", "qkv", 10240, 8192),
    Layer("Llama-2-70B", "up", 28672, 8192),
    Layer("OPT-30B", "fc1", 28672, 7168),
    Layer("OPT-66B", "fc1", 36864, 9216),
)
QUICK = LAYERS[:2]


def limit(packed_bytes: int, layer: Layer, rows: int) -> float:
    """Return the largest possible speed-up: bytes moved dense over bytes moved packed."""
    activations = 2 * rows * (layer.m + layer.k)
    return (layer.dense_bytes + activations) / (packed_bytes + activations)
