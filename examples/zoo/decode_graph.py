"""Greedy decoding of a :class:`StaticLlama`: on CUDA one graph a step, no word to the host between."""

from __future__ import annotations

import torch
from torch import Tensor

from examples.zoo.llama_static import StaticLlama


class GreedyDecoder:
    """Decodes ``batch`` sequences of one length side by side.

    On a CUDA device the step is captured when the object is made, on other devices it runs as it
    is; both compute the same.

    Parameters
    ----------
    model : StaticLlama
        In evaluation mode, on its device.
    batch, capacity : int
        Sequences, and tokens of each, prompt included.
    """

    def __init__(self, model: StaticLlama, batch: int, capacity: int) -> None:
        device = model.embed_tokens.weight.device
        self.model, self.past = model, model.cache(batch, capacity)
        self.token = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.tokens = torch.zeros(batch, capacity, dtype=torch.int64, device=device)
        self._graph = self._capture() if device.type == "cuda" else None

    @torch.inference_mode()
    def prefill(self, prompt: Tensor) -> None:
        """Read a prompt int64 ``[batch, length]`` and choose the first token after it."""
        length = prompt.shape[1]
        if length >= self.past.capacity:
            raise ValueError(
                f"a prompt of {length} tokens leaves no room in {self.past.capacity}; "
                "make the decoder with a larger capacity"
            )
        positions = torch.arange(length, device=self.position.device)
        self.tokens[:, :length] = prompt
        logits = self.model(prompt.to(self.position.device), positions, self.past)
        self.position.fill_(length)
        self._choose(logits)

    @torch.inference_mode()
    def generate(self, count: int) -> Tensor:
        """Choose ``count`` more tokens; return all so far, int64 ``[batch, length]``.

        The device works through the steps without waiting for the host.
        """
        room = self.past.capacity - 1 - int(self.position)
        if count > room:
            raise ValueError(f"{count} tokens asked for, room for {room}: make the capacity larger")
        for _ in range(count):
            if self._graph is None:
                self._step()
            else:
                self._graph.replay()
        return self.tokens[:, : int(self.position) + 1]

    def _step(self) -> None:
        logits = self.model(self.token, self.position, self.past)
        self.position.add_(1)
        self._choose(logits)

    def _choose(self, logits: Tensor) -> None:
        """Take the most probable token as the one at ``position``."""
        self.token.copy_(logits.argmax(dim=-1, keepdim=True))
        self.tokens.index_copy_(1, self.position, self.token)

    @torch.inference_mode()
    def _capture(self) -> torch.cuda.CUDAGraph:
        """Record one step; what the warm-up wrote is overwritten by the prompt."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self.position.zero_()
        return graph
