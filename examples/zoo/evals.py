"""Evaluators of the real models: ``--eval examples.zoo.evals:NAME``.

Each function takes ``run``, which maps a feed to the outputs by name, and returns metrics. The
samples are small: good as regression anchors, not as published accuracies.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.zoo import data, ocr, real
from examples.zoo.calib import minilm_tokenizer
from examples.zoo.feeding import Feed
from examples.zoo.packages import PACKAGES
from examples.zoo.smollm2 import load_tokenizer

Run = Callable[[Feed], Feed]


def minilm(run: Run) -> dict[str, float]:
    """Correlation of sentence similarity with people's, over the 1225 pairs of the Lee corpus.

    A weak metric alone, since it may rise while the vectors drift: judge by the cosine of the
    outputs to the dense model's as well.
    """
    pairs = data.lee_pairs()
    tokenizer = minilm_tokenizer()
    vectors = np.array([sentence_vector(run, tokenizer.feed([t])) for t in pairs.documents])
    upper = np.triu_indices(len(vectors), k=1)
    cosines = (vectors @ vectors.T)[upper]
    return {"pearson": float(np.corrcoef(cosines, pairs.similarity[upper])[0, 1])}


def sentence_vector(run: Run, feed: Feed) -> NDArray[np.float32]:
    """Return the mean of the hidden states of one text, of length 1: float32 ``[width]``."""
    mean = run(feed)["last_hidden_state"][0].mean(axis=0)
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean)
    return unit


def smollm2(run: Run) -> dict[str, float]:
    """Perplexity on 8 windows of 512 tokens of the test half of the Lee background corpus."""
    tokenizer = load_tokenizer(real.REAL["smollm2"].source)
    tokens = tokenizer.encode("\n".join(data.lee_background("test"))).ids
    return {"perplexity": perplexity(run, data.windows(tokens, 512, 8))}


def perplexity(run: Run, windows: NDArray[np.int64]) -> float:
    """Return exp of the mean negative log-likelihood of every token but the first of a window."""
    losses = []
    for window in windows:
        logits = run({"input_ids": window[None]})["logits"][0, :-1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        normaliser = np.log(np.exp(logits).sum(axis=-1))
        losses.append(normaliser - logits[np.arange(len(logits)), window[1:]])
    return float(np.exp(np.mean(losses)))


def effnet_lite0(run: Run) -> dict[str, float]:
    """Top-1 and top-5 accuracy on 20 pictures of ImageNet: a resolution of .05."""
    pictures, labels = data.imagenet_samples()
    scores = []
    for picture in pictures:
        from PIL import Image

        small = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
        scores.append(run({"x": (small.transpose(2, 0, 1)[None] - 127) / 128})["y"][0])
    best = np.argsort(-np.array(scores), axis=1, kind="stable")
    hits = best == labels[:, None]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits[:, :5].any(axis=1).mean())}


def ppocr_rec(run: Run) -> dict[str, float]:
    """Share of right lines and character error rate on 40 rendered lines, spaces ignored."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(real.path("ppocr_rec")))
    listed = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    characters = ["", *listed, " "]
    right = errors = length = 0
    for line in ocr.random_lines(" ".join(data.lee_pairs().documents).split(), 40, seed=0):
        (scores,) = run({"x": ocr.recogniser_input(ocr.render(line))}).values()
        read = ocr.greedy_ctc(scores[0], characters).replace(" ", "")
        truth = line.replace(" ", "")
        right += read == truth
        errors += ocr.edit_distance(read, truth)
        length += len(truth)
    return {"lines": right / 40, "cer": errors / length}


def magika(run: Run) -> dict[str, float]:
    """Share of local files whose type is told as their extension says.

    The files are Python sources and C headers of this Python, and pictures of the zoo.
    """
    config = json.loads(
        PACKAGES["magika"].file("magika/models/standard_v3_3/config.min.json").read_text()
    )
    labels = config["target_labels_space"]
    files = [(path, label) for label, paths in _labelled_files() for path in paths]
    right = 0
    for path, label in files:
        (scores,) = run({"bytes": magika_input(path.read_bytes())}).values()
        right += labels[int(scores[0].argmax())] == label
    return {"accuracy": right / len(files)}


def _labelled_files() -> list[tuple[str, list[Path]]]:
    library = Path(sysconfig.get_path("stdlib"))
    pictures = PACKAGES["scikit-image"].file("skimage/data")
    samples = PACKAGES["foolbox"].file("foolbox/data")
    return [
        ("python", list(islice(sorted(library.glob("*.py")), 60))),
        ("png", sorted(pictures.glob("*.png"))),
        ("jpeg", sorted(samples.glob("*.jpg"))),
        ("rst", data.kernel_docs()[::100]),
    ]


def magika_input(content: bytes) -> NDArray[np.int32]:
    """Bring the bytes of a file into the form int32 ``[1, 2048]`` of the model.

    The first 1024 bytes of the head block without leading white space and the last 1024 of the
    tail block without trailing white space, each padded with 256 away from the file.
    """
    head = np.frombuffer(content[:4096].lstrip()[:1024], np.uint8)
    tail = np.frombuffer(content[-4096:].rstrip()[-1024:], np.uint8)
    row = np.full(2048, 256, np.int32)
    row[: len(head)] = head
    row[2048 - len(tail) :] = tail
    return row[None]


def silero_vad(run: Run) -> dict[str, float]:
    """Share of windows taken for speech in five seconds of faint white noise: should be 0."""
    noise = np.random.default_rng(0).normal(0, 0.03, 5 * 16000 + 64).astype(np.float32)
    state = np.zeros((2, 1, 128), np.float32)
    speech = []
    for start in range(0, len(noise) - 576 + 1, 512):
        window = noise[None, start : start + 576]
        out = run({"input": window, "state": state, "sr": np.array(16000, np.int64)})
        state = out["stateN"]
        speech.append(float(out["output"][0, 0]) > 0.5)
    return {"speech": float(np.mean(speech))}


minilm_int8 = minilm
