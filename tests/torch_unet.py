"""An independent PyTorch U-Net with the layout of :func:`cxnet.architectures.build_unet`."""

from __future__ import annotations

import torch
from torch import nn


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    def __init__(self, filters: tuple[int, ...] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        inputs = (1, *filters[:-1])
        self.down = nn.ModuleList(double_convolution(i, o) for i, o in zip(inputs, filters, strict=True))
        pairs = list(zip(filters[::-1], filters[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in pairs)
        self.merge = nn.ModuleList(double_convolution(2 * o, o) for _, o in pairs)
        self.out = nn.Conv2d(filters[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.out(x)
