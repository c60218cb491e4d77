"""The networks of torchvision, with random weights: what structural pruning must follow.

torchvision is read from the cache of the zoo, without its compiled part, which wants CUDA libraries.
The operators of that part are declared instead, so that the package imports; no network here runs them.

A graph is exported once and kept without its large weights, which are drawn anew when it is loaded:
all of torchvision would be 20 GB. The draw is fixed by the network's name.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from examples.zoo.cache import cache_dir, publishing
from examples.zoo.packages import PACKAGES
from sparsec.ir.load import load_model

_REVISION = 1  # raised when what is exported changes
_KEPT = 4096  # elements: smaller tensors stay in the file
_DRAWN = "zoo.drawn"  # "mean std" of a tensor that is drawn anew

# What the compiled part would define, as far as importing the package needs it.
_ROIS = "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_ROIS}, int sampling_ratio, bool aligned) -> Tensor",
    "_roi_align_backward(Tensor grad) -> Tensor",
    f"ps_roi_align({_ROIS}, int sampling_ratio) -> (Tensor, Tensor)",
    f"roi_pool({_ROIS}) -> (Tensor, Tensor)",
    f"ps_roi_pool({_ROIS}) -> (Tensor, Tensor)",
    "_ps_roi_align_backward(Tensor grad) -> Tensor",
    "_roi_pool_backward(Tensor grad) -> Tensor",
    "_ps_roi_pool_backward(Tensor grad) -> Tensor",
    "deform_conv2d(Tensor input) -> Tensor",
    "_deform_conv2d_backward(Tensor grad) -> Tensor",
)

_CLASSIFIERS = """
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161
densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l
efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75
mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf
regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf
regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf
regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d
resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t
vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16
vit_l_32 wide_resnet101_2 wide_resnet50_2
"""
_SEGMENTERS = """
deeplabv3_mobilenet_v3_large deeplabv3_resnet101 deeplabv3_resnet50 fcn_resnet101 fcn_resnet50
lraspp_mobilenet_v3_large
"""
_FLOWS = ["raft_large", "raft_small"]
# The backbones of the detectors that differ: Mask and Keypoint R-CNN have those of Faster R-CNN.
_DETECTORS = """
fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2
fcos_resnet50_fpn retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 ssd300_vgg16
ssdlite320_mobilenet_v3_large
"""


@dataclasses.dataclass(frozen=True, slots=True)
class VisionNet:
    """One network of torchvision.

    Parameters
    ----------
    name : str
        As ``torchvision.models.get_model`` knows it.
    family : str
        ``classification``, ``segmentation``, ``flow``, or ``detection``: then it is the backbone with
        its feature pyramid only, for the rest of a detector depends on the data.
    size : int
        Height and width of its input.
    """

    name: str
    family: str
    size: int

    @property
    def path(self) -> Path:
        """Where the graph without its weights is, or will be."""
        folder = f"torchvision-{PACKAGES['torchvision'].version}-r{_REVISION}"
        return cache_dir() / "built" / folder / self.name / "model.onnx"


def _sized(name: str) -> int:
    """Return a size that every layer of a classifier gets something to do with."""
    return 299 if name == "inception_v3" else 224


NETWORKS: dict[str, VisionNet] = {
    net.name: net
    for net in (
        *(VisionNet(name, "classification", _sized(name)) for name in _CLASSIFIERS.split()),
        *(VisionNet(name, "segmentation", 224) for name in _SEGMENTERS.split()),
        *(VisionNet(name, "flow", 128) for name in _FLOWS),
        *(VisionNet(name, "detection", 320) for name in _DETECTORS.split()),
    )
}

_libraries: list[Any] = []  # torch forgets the operators of a library that nobody holds


def torchvision() -> Any:
    """Import the package.

    Raises
    ------
    UnavailableError
        If it was not fetched.
    """
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    if importlib.util.find_spec("torchvision") is None:
        sys.path.append(str(PACKAGES["torchvision"].file("torchvision").parent))
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _OPERATORS:
        library.define(schema)
    _libraries.append(library)
    return importlib.import_module("torchvision")


def module(name: str) -> Any:
    """Make a network with random weights, in evaluation mode; returns a ``torch.nn.Module``."""
    import torch

    vision = torchvision()
    torch.manual_seed(zlib.crc32(name.encode()))
    options: dict[str, Any] = {"weights": None}
    if NETWORKS[name].family in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    made = vision.models.get_model(name, **options)
    return (made.backbone if NETWORKS[name].family == "detection" else made).eval()


def example_inputs(name: str, batch: int = 1) -> tuple[Any, ...]:
    """Return inputs of a network as tensors."""
    import torch

    net = NETWORKS[name]
    images = 2 if net.family == "flow" else 1
    return tuple(torch.rand(batch, 3, net.size, net.size) for _ in range(images))


def load(name: str) -> ir.Model:
    """Return the graph of a network, exporting it if that was not done before.

    Raises
    ------
    UnavailableError
        If it has to be exported and torchvision was not fetched.
    """
    path = NETWORKS[name].path
    if not path.is_file():
        with publishing(path.parent) as folder:
            graph = load_model(module(name), example_inputs=example_inputs(name))
            strip_weights(graph)
            ir.save(graph, folder / path.name)
    graph = ir.load(path)  # as load_model left it, but for the weights
    draw_weights(graph, zlib.crc32(name.encode()))
    return graph


def strip_weights(graph: ir.Model) -> None:
    """Put one zero in place of each large tensor, and note how to draw it again."""
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        if tensor.dtype != ir.DataType.FLOAT or tensor.size < _KEPT:
            continue
        array = tensor.numpy()
        shape = " ".join(map(str, array.shape))
        value.metadata_props[_DRAWN] = f"{array.mean():.9g} {array.std():.9g} {shape}"
        value.const_value = ir.tensor(np.zeros((1,) * array.ndim, np.float32), name=value.name)
        value.shape = ir.Shape((1,) * array.ndim)


def draw_weights(graph: ir.Model, seed: int) -> None:
    """Draw what :func:`strip_weights` left out, normally distributed."""
    for number, value in enumerate(graph.graph.initializers.values()):
        note = value.metadata_props.pop(_DRAWN, None)
        if note is None:
            continue
        mean, std, *shape = note.split()
        sizes = tuple(map(int, shape))
        rng = np.random.Generator(np.random.SFC64([seed, number]))
        array = rng.standard_normal(sizes, np.float32)
        array *= np.float32(std)
        array += np.float32(mean)
        value.const_value = ir.tensor(array, name=value.name)
        value.shape = ir.Shape(sizes)
