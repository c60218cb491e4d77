"""Operators of object detection: boxes and regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.registry import op


def _corners(boxes: Tensor, center_point_box: int) -> Tensor:
    """Return boxes [n, 4] as lower corner, upper corner."""
    if center_point_box:
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return torch.cat((middle - half, middle + half), 1)
    return torch.cat(
        (torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])), 1
    )


def _suppress(boxes: Tensor, order: Tensor, limit: int, threshold: float) -> list[int]:
    """Go through boxes by score, keeping each one that overlaps no kept one too much."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept: list[int] = []
    while order.numel() and len(kept) < limit:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        common = (high - low).clamp(min=0).prod(1)
        union = area[best] + area[order] - common
        order = order[~((common > 0) & (common > threshold * union))]
    return kept


@op(
    "NonMaxSuppression",
    since=10,
    host=("max_per_class", "iou_threshold", "score_threshold"),
)
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_per_class: Any = None,
    iou_threshold: Any = None,
    score_threshold: Any = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """Keep the best of overlapping boxes: rows (batch, class, box) for boxes [B, n, 4]."""
    limit = 0 if max_per_class is None else hv.scalar(max_per_class)
    overlap = 0.0 if iou_threshold is None else hv.scalar(iou_threshold)
    rows = []
    for batch in range(scores.shape[0]):
        corners = _corners(boxes[batch], center_point_box)
        for label in range(scores.shape[1]):
            score = scores[batch, label]
            order = torch.argsort(score, descending=True, stable=True)
            if score_threshold is not None:
                order = order[score[order] > hv.scalar(score_threshold)]
            rows += [(batch, label, box) for box in _suppress(corners, order, limit, overlap)]
    return torch.tensor(rows, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _bilinear(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Sample maps [C, H, W] at [...]; more than one pixel outside counts as zero."""
    height, width = maps.shape[1:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    y0, x0 = y.floor().long(), x.floor().long()
    y1, x1 = (y0 + 1).clamp(max=height - 1), (x0 + 1).clamp(max=width - 1)
    dy, dx = y - y0, x - x0
    corners = (
        (1 - dy) * (1 - dx) * maps[:, y0, x0],
        (1 - dy) * dx * maps[:, y0, x1],
        dy * (1 - dx) * maps[:, y1, x0],
        dy * dx * maps[:, y1, x1],
    )
    return torch.stack(corners) * inside  # the four terms, [4, C, ...]


def _roi_align(
    x: Tensor,
    rois: Tensor,
    batch: Tensor,
    mode: str,
    size: tuple[int, int],
    sampling_ratio: int,
    scale: float,
    offset: float,
) -> Tensor:
    results = []
    for roi, index in zip(rois * scale - offset, batch.tolist(), strict=True):
        left, top, right, bottom = roi.unbind()
        extents = [bottom - top, right - left]
        if offset == 0:
            extents = [e.clamp(min=1.0) for e in extents]
        places = []
        for start, extent, bins in zip((top, left), extents, size, strict=True):
            samples = sampling_ratio or max(1, int(torch.ceil(extent / bins)))
            steps = (torch.arange(bins * samples, device=x.device) + 0.5) / samples
            places.append((start + steps * (extent / bins), samples))
        (rows, per_y), (columns, per_x) = places
        grid = torch.meshgrid(rows, columns, indexing="ij")
        terms = _bilinear(x[index], *grid)
        shape = (-1, size[0], per_y, size[1], per_x)
        if mode == "max":
            results.append(terms.amax(0).reshape(shape).amax((2, 4)))
        else:
            results.append(terms.sum(0).reshape(shape).mean((2, 4)))
    return torch.stack(results) if results else x.new_zeros((0, x.shape[1], *size))


@op("RoiAlign", since=16)
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Pool regions [n, 4] of x [N, C, H, W] to a fixed size by bilinear sampling.

    With mode "max" the largest weighted neighbour counts, as the specification's reference has it.
    """
    size = (output_height, output_width)
    offset = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    return _roi_align(x, rois, batch_indices, mode, size, sampling_ratio, spatial_scale, offset)


@op("RoiAlign", since=10)
def roi_align_from_corner(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Pool regions as before opset 16: no half-pixel shift."""
    size = (output_height, output_width)
    return _roi_align(x, rois, batch_indices, mode, size, sampling_ratio, spatial_scale, 0.0)


def _only_flat_images(attributes: Any) -> str | None:
    return None if len(attributes.get("strides", (1, 1))) == 2 else "other than 2 spatial axes"


@op("Col2Im", since=18, host=("image", "block"), refuse=_only_flat_images)
def col2im(
    x: Tensor,
    image: tuple[int, ...],
    block: tuple[int, ...],
    *,
    dilations: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    strides: Sequence[int] = (1, 1),
) -> Tensor:
    """Add columns of patches back into images."""
    top, left, bottom, right = pads
    canvas = (image[0] + top + bottom, image[1] + left + right)
    y = F.fold(x, canvas, tuple(block), tuple(dilations), 0, tuple(strides))
    return y[:, :, top : top + image[0], left : left + image[1]]
