"""Text lines by construction: rendered words for a recogniser, and how to read its answer."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from examples.zoo.cache import UnavailableError
from examples.zoo.packages import PACKAGES

HEIGHT, MARGIN, FONT_SIZE = 48, 8, 30


def random_lines(words: Sequence[str], n: int, seed: int) -> list[str]:
    """Draw ``n`` lines of two to four words of plain letters."""
    rng = random.Random(seed)
    plain = sorted({word for word in words if word.isascii() and word.isalpha()})
    return [" ".join(rng.sample(plain, rng.randint(2, 4))) for _ in range(n)]


def render(text: str) -> NDArray[np.uint8]:
    """Draw a line in DejaVu Sans, black on white.

    Returns
    -------
    uint8 [48, width, 3]

    Raises
    ------
    UnavailableError
        If Pillow is not installed or the font was not fetched.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise UnavailableError("rendering text needs pillow, which is not installed") from None
    fonts = PACKAGES["fonts-dejavu-core"].file("usr/share/fonts/truetype/dejavu")
    font = ImageFont.truetype(fonts / "DejaVuSans.ttf", FONT_SIZE)
    image = Image.new("RGB", (round(font.getlength(text)) + 2 * MARGIN, HEIGHT), "white")
    ImageDraw.Draw(image).text((MARGIN, HEIGHT / 2), text, "black", font, anchor="lm")
    return np.asarray(image)


def recogniser_input(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bring a line, uint8 ``[48, width, 3]`` RGB, into the form ``[1, 3, 48, width]`` of PP-OCR."""
    bgr = image[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)
    return np.ascontiguousarray(bgr / 127.5 - 1)


def greedy_ctc(scores: NDArray[np.float32], characters: Sequence[str]) -> str:
    """Read ``[steps, classes]`` scores: the best class per step, repeats merged, blank (0) dropped.

    Examples
    --------
    >>> greedy_ctc(np.eye(3, dtype=np.float32)[[1, 1, 0, 1, 2]], ["", "a", "b"])
    'aab'
    """
    best = scores.argmax(axis=-1)
    fresh = np.append(True, best[1:] != best[:-1]) & (best != 0)
    return "".join(characters[number] for number in best[fresh])


def edit_distance(a: str, b: str) -> int:
    """Return the least number of insertions, deletions and replacements from ``a`` to ``b``.

    Examples
    --------
    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        above, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (char != other)))
    return row[-1]
