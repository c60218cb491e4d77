"""The uncased WordPiece tokenizer of BERT, small enough to need no package.

Source: Devlin et al., "BERT", arXiv:1810.04805; Wu et al., arXiv:1609.08144, section 4.1 (greedy
longest match first). Lower case, accents stripped, every punctuation mark a word of its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LONGEST_WORD = 100  # a longer word becomes [UNK], as in the reference


class WordPiece:
    """Text to token ids.

    Parameters
    ----------
    vocabulary : iterable of str
        Tokens in the order of their ids, with ``[PAD] [UNK] [CLS] [SEP]`` among them.

    Examples
    --------
    >>> pieces = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "!"])
    >>> pieces.encode("Unaffable!")
    [2, 4, 5, 6, 7, 3]
    """

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self._ids = {token: number for number, token in enumerate(vocabulary)}

    @classmethod
    def from_file(cls, path: Path) -> WordPiece:
        """Read a ``vocab.txt``: one token a line."""
        return cls(path.read_text(encoding="utf-8").splitlines())

    def encode(self, text: str, longest: int = 256) -> list[int]:
        """Return the ids of ``[CLS] text [SEP]``, at most ``longest`` of them."""
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        return [self._ids["[CLS]"], *pieces[: longest - 2], self._ids["[SEP]"]]

    def feed(self, texts: Sequence[str], longest: int = 256) -> dict[str, NDArray[np.int64]]:
        """Return the three inputs of a BERT for a batch, padded to its longest text.

        Returns
        -------
        dict
            ``input_ids``, ``attention_mask``, ``token_type_ids``, each int64 ``[texts, length]``.
        """
        rows = [self.encode(text, longest) for text in texts]
        ids = np.full((len(rows), max(map(len, rows))), self._ids["[PAD]"], dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}

    def _pieces(self, word: str) -> list[int]:
        """Split one word greedily; a word with an unknown rest is unknown as a whole."""
        unknown = [self._ids["[UNK]"]]
        if len(word) > LONGEST_WORD:
            return unknown
        pieces: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self._ids:
                    pieces.append(self._ids[piece])
                    start = end
                    break
            else:
                return unknown
        return pieces


def _words(text: str) -> list[str]:
    """Split text at spaces and around punctuation and CJK characters, lower case, no accents."""
    out: list[str] = []
    for char in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(char)
        if char.isspace():
            out.append(" ")
        elif category == "Mn" or category.startswith("C"):
            continue
        elif _stands_alone(char, category):
            out.append(f" {char} ")
        else:
            out.append(char)
    return "".join(out).split()


def _stands_alone(char: str, category: str) -> bool:
    # ASCII symbols such as $ and + count as punctuation although Unicode calls them symbols.
    ascii_mark = char.isascii() and not char.isalnum()
    cjk = "\u4e00" <= char <= "\u9fff" or "\u3400" <= char <= "\u4dbf"
    return ascii_mark or category.startswith("P") or cjk
