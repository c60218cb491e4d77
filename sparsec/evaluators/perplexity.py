"""``perplexity:FILE.npz``: how well a language model predicts the next token of a text.

Numbers are comparable only for the same text, windows of the same length and the same tokenizer, so
the first two are part of the report. Every window is judged by itself: its first token is not
predicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.evaluate import Run
from sparsec.ir.errors import CalibrationError
from sparsec.ir.run import Feeds
from sparsec.ir.sources import TEXT, load_feeds, read_npz

IDS, MASK = "input_ids", "attention_mask"


@dataclasses.dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of a causal language model.

    Parameters
    ----------
    text : str
        Name of the text.
    feeds : sequence of mappings
        With ``input_ids`` int [batch, length]; padding is where ``attention_mask``, if the model
        has one, is zero.
    output : str
        Logits float [batch, length, vocabulary].
    """

    text: str
    feeds: Sequence[Feeds]
    output: str

    @property
    def data(self) -> str:
        """What it is measured on, for reports."""
        lengths = sorted({feed[IDS].shape[1] for feed in self.feeds})
        span = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        windows = sum(len(feed[IDS]) for feed in self.feeds)
        return f"{self.text}: {windows} windows of {span} tokens"

    def __call__(self, run: Run) -> dict[str, float]:
        """Return ``perplexity``: exp of the mean negative log-likelihood, one feed at a time."""
        loss, tokens = 0.0, 0
        for feed in self.feeds:
            logits = np.asarray(run(feed)[self.output])
            if logits.shape[:2] != feed[IDS].shape or logits.ndim != 3:
                raise CalibrationError(
                    f"the output {self.output!r} has the shape {list(logits.shape)}; perplexity needs "
                    f"logits [batch, length, vocabulary] for {IDS!r} {list(feed[IDS].shape)}",
                    where=self.output,
                )
            real = feed[MASK] != 0 if MASK in feed else np.ones(feed[IDS].shape, np.bool_)
            for row, ids, kept in zip(logits, feed[IDS], real, strict=True):
                predicted = kept[1:] & kept[:-1]
                loss += _loss(row[:-1][predicted], ids[1:][predicted])
                tokens += int(np.count_nonzero(predicted))
        return {"perplexity": float(np.exp(loss / tokens))}


def _loss(logits: NDArray[Any], ids: NDArray[Any]) -> float:
    """Return the sum of negative log-likelihoods of ids [tokens] under logits [tokens, vocabulary]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    normaliser = np.log(np.exp(wide).sum(axis=-1))
    return float(np.sum(normaliser - wide[np.arange(len(ids)), ids]))


def perplexity(path: Path, model: ir.Model) -> Perplexity:
    """Build the evaluator from a file with the model's inputs, ``input_ids`` among them.

    The text is called as the array ``text`` says, otherwise as the file.

    Raises
    ------
    CalibrationError
        If the file cannot be used.
    """
    arrays = read_npz(path)
    name = str(arrays.pop(TEXT)) if TEXT in arrays else path.name
    feeds = load_feeds(str(path), model)
    if any(IDS not in feed or feed[IDS].ndim != 2 or feed[IDS].shape[1] < 2 for feed in feeds):
        raise CalibrationError(
            f"{path}: perplexity needs {IDS!r} [batch, length] of at least two tokens", where=IDS
        )
    names = [value.name or "" for value in model.graph.outputs]
    return Perplexity(name, feeds, "logits" if "logits" in names else names[0])
