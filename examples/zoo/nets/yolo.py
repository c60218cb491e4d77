"""A detector in the style of YOLOv8: C2f and SPPF, a neck of two ways, an anchor-free head.

C2f splits channels in two, feeds one half through bottlenecks and concatenates every intermediate
result; SPPF concatenates one picture max-pooled again and again; the head predicts each side of a
box as a distribution over distances. Sources: arXiv:2305.09972 (the network), arXiv:2006.04388
(distances as distributions).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
BINS = 8  # distances 0..7 cells


class ConvUnit(nn.Module):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvUnit(width, width, 3), ConvUnit(width, width, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        h = self.cv2(self.cv1(x))
        return x + h if self.shortcut else h


class C2f(nn.Module):
    def __init__(self, inputs: int, outputs: int, count: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        self.half = outputs // 2
        self.cv1 = ConvUnit(inputs, outputs)
        self.cv2 = ConvUnit((2 + count) * self.half, outputs)
        self.m = nn.ModuleList([Bottleneck(self.half, shortcut) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).split(self.half, dim=1))
        for bottleneck in self.m:
            parts.append(bottleneck(parts[-1]))
        return self.cv2(torch.cat(parts, dim=1))


class SPPF(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvUnit(width, width // 2), ConvUnit(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(nn.functional.max_pool2d(parts[-1], 5, stride=1, padding=2))
        return self.cv2(torch.cat(parts, dim=1))


class Detect(nn.Module):
    """Feature maps of all strides to boxes and class probabilities, ``[n, 4 + classes, cells]``.

    A box is x, y of its centre, width and height, in pixels.
    """

    centres: Tensor
    strides: Tensor
    bins: Tensor

    def __init__(self, widths: tuple[int, int, int], classes: int, size: int) -> None:
        super().__init__()
        hidden = widths[0]
        self.box = nn.ModuleList(
            [nn.Sequential(ConvUnit(w, hidden, 3), nn.Conv2d(hidden, 4 * BINS, 1)) for w in widths]
        )
        self.cls = nn.ModuleList(
            [nn.Sequential(ConvUnit(w, hidden, 3), nn.Conv2d(hidden, classes, 1)) for w in widths]
        )
        centres, strides = [], []
        for stride in STRIDES:
            axis = torch.arange(size // stride) + 0.5
            rows, columns = torch.meshgrid(axis, axis, indexing="ij")
            centres.append(torch.stack((columns, rows)).flatten(1) * stride)
            strides.append(torch.full((1, (size // stride) ** 2), float(stride)))
        self.register_buffer("centres", torch.cat(centres, dim=1))
        self.register_buffer("strides", torch.cat(strides, dim=1))
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).view(1, 1, BINS, 1))

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        boxes = torch.cat([h(x).flatten(2) for h, x in zip(self.box, maps, strict=True)], dim=2)
        classes = torch.cat([h(x).flatten(2) for h, x in zip(self.cls, maps, strict=True)], dim=2)
        shares = boxes.view(boxes.shape[0], 4, BINS, boxes.shape[2]).softmax(dim=2)
        distances = (shares * self.bins).sum(dim=2) * self.strides
        low, high = self.centres - distances[:, :2], self.centres + distances[:, 2:]
        return torch.cat(((low + high) / 2, high - low, classes.sigmoid()), dim=1)


class Yolo(nn.Module):
    """Pictures ``[n, channels, size, size]`` to predictions ``[n, 4 + classes, cells]``."""

    def __init__(self, channels: int = 1, classes: int = 10, size: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvUnit(channels, 8, 3, 2), ConvUnit(8, 16, 3, 2), C2f(16, 16))
        self.down8 = nn.Sequential(ConvUnit(16, 32, 3, 2), C2f(32, 32))
        self.down16 = nn.Sequential(ConvUnit(32, 48, 3, 2), C2f(48, 48))
        self.down32 = nn.Sequential(ConvUnit(48, 64, 3, 2), C2f(64, 64), SPPF(64))
        self.up16 = C2f(64 + 48, 48, shortcut=False)
        self.up8 = C2f(48 + 32, 32, shortcut=False)
        self.back16 = ConvUnit(32, 32, 3, 2)
        self.out16 = C2f(32 + 48, 48, shortcut=False)
        self.back32 = ConvUnit(48, 48, 3, 2)
        self.out32 = C2f(48 + 64, 64, shortcut=False)
        self.detect = Detect((32, 48, 64), classes, size)

    def forward(self, x: Tensor) -> Tensor:
        p8 = self.down8(self.stem(x))
        p16 = self.down16(p8)
        p32 = self.down32(p16)
        n16 = self.up16(torch.cat((nn.functional.interpolate(p32, scale_factor=2), p16), dim=1))
        n8 = self.up8(torch.cat((nn.functional.interpolate(n16, scale_factor=2), p8), dim=1))
        m16 = self.out16(torch.cat((self.back16(n8), n16), dim=1))
        m32 = self.out32(torch.cat((self.back32(m16), p32), dim=1))
        return self.detect((n8, m16, m32))
