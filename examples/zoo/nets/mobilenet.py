"""A MobileNetV3: inverted residuals, squeeze-excite and hard-swish. Source: arXiv:1905.02244."""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all of them."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * nn.functional.hardsigmoid(self.expand(self.reduce(pooled).relu()))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int, gated: bool) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        self.expand = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.Hardswish()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
        )
        self.gate: nn.Module = SqueezeExcite(hidden, hidden // 4) if gated else nn.Identity()
        self.project = nn.Sequential(
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + h if self.residual else h


class MobileNet(nn.Module):
    """Images ``[n, channels, h, w]`` to logits ``[n, classes]``."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()
        )
        self.blocks = nn.Sequential(
            InvertedResidual(16, 32, 24, stride=2, gated=False),
            InvertedResidual(24, 64, 24, stride=1, gated=False),
            InvertedResidual(24, 64, 40, stride=2, gated=True),
            InvertedResidual(40, 96, 40, stride=1, gated=True),
        )
        self.head = nn.Sequential(
            nn.Conv2d(40, 96, 1, bias=False), nn.BatchNorm2d(96), nn.Hardswish()
        )
        self.fc = nn.Linear(96, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.blocks(self.stem(x))).mean(dim=(2, 3)))
