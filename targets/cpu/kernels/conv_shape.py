"""The extents of a convolution in blocked layout, and how its output is cut into tiles.

Padding costs nothing and copies nothing: rows and columns of the output are cut into tiles known when the kernel is
written, and the multiplications by padding are left out of the border tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

from targets.cpu.kernels.products import together
from targets.cpu.machine import Machine
from tensorc.ir import Node
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.tir import Expr, KernelBuilder


@dataclass(frozen=True)
class Run:
    """`count` equal tiles of `width` output positions along one axis, from `first` on. `inside[tap]` is the range of
    positions of a tile (counted from its own first) whose input at that tap of the filter lies in the image."""

    first: int
    width: int
    count: int
    inside: tuple[tuple[int, int], ...]


class ConvShape:
    """The extents of one `conv_blocked`; 1x1 convolutions run over the flattened image."""

    def __init__(self, node: Node, machine: Machine):
        x, w = node.inputs
        self.plain = len(x.shape) == 4
        self.blocks, self.channels, self.kh, self.kw, self.lanes = static_shape(w.shape)
        shape = static_shape(x.shape)
        #: Input channels that one step multiplies; `channels` counts steps, `in_lanes` those of a block.
        self.together = 1 if node.attrs["depthwise"] else together(x, w, machine)
        self.channels //= self.together
        self.in_lanes = self.channels if self.plain else shape[4] // self.together
        self.batch, self.in_h, self.in_w = shape[0], shape[2], shape[3]
        _, _, self.out_h, self.out_w, _ = static_shape(node.output.shape)
        self.strides, self.dilations = node.attrs["strides"], node.attrs["dilations"]
        self.top, self.left = node.attrs["pads"][:2]
        self.groups = 1 if node.attrs["depthwise"] else node.attrs["groups"]
        self.flat = (self.kh, self.kw) == (1, 1) and self.strides == (1, 1) and not any(node.attrs["pads"])
        if self.flat:  # every output pixel depends on one input pixel: one long row has no tails between rows
            self.row_w = self.out_w
            self.in_w = self.out_w = self.in_w * self.in_h
            self.in_h = self.out_h = 1

    @property
    def blocks_per_group(self) -> int:
        return self.blocks // self.groups

    @property
    def padded_rows(self) -> bool:
        """Whether some filter row meets padding somewhere."""
        last = (self.out_h - 1) * self.strides[0] - self.top + (self.kh - 1) * self.dilations[0]
        return bool(self.top > 0 or last >= self.in_h)

    def pixel(self, row: Expr, column: Expr) -> list[Expr]:
        """(h, w) in the result's own shape."""
        if not self.flat:
            return [row, column]
        if self.row_w == self.out_w:
            return [0, column]
        return [tir.floor_div(column, self.row_w), tir.floor_mod(column, self.row_w)]

    def pixel_in(self, h: Expr, w: Expr) -> list[Expr]:
        """(h, w) in the input's own shape."""
        if not self.flat or self.row_w == self.in_w:
            return [h, w]
        return [tir.floor_div(w, self.row_w), tir.floor_mod(w, self.row_w)]

    def filter_rows(self, builder: KernelBuilder, top: Expr) -> tuple[Expr, Expr]:
        """The range of filter rows that meet the image, for one output row whose input begins at row `top`."""
        if not self.padded_rows:
            return 0, self.kh
        step = self.dilations[0]
        low = builder.bind(tir.maximum(tir.floor_div(step - 1 - top, step), 0))
        high = builder.bind(tir.minimum(tir.floor_div(self.in_h - 1 - top, step) + 1, self.kh))
        return low, high

    def column_runs(self, width: int) -> list[Run]:
        return _runs(self.out_w, width, self.kw, self.strides[1], self.dilations[1], self.left, self.in_w)

    def row_runs(self, width: int) -> list[Run]:
        return _runs(self.out_h, width, self.kh, self.strides[0], self.dilations[0], self.top, self.in_h)


def _runs(extent: int, width: int, taps: int, stride: int, dilation: int, before: int, source: int) -> list[Run]:
    """Cut `extent` output positions into tiles of `width`; neighbours alike in their padding run together. `source`
    is the extent of the input, `before` its padding in front."""
    runs: list[Run] = []
    first = 0
    while first < extent:
        size = min(width, extent - first)
        inside = tuple(_inside(first, size, stride, tap * dilation - before, source) for tap in range(taps))
        last = runs[-1] if runs else None
        if last and last.width == size and last.inside == inside:
            runs[-1] = Run(last.first, size, last.count + 1, inside)
        else:
            runs.append(Run(first, size, 1, inside))
        first += size
    return runs


def _inside(first: int, size: int, stride: int, offset: int, source: int) -> tuple[int, int]:
    """The range of positions i of a tile for which 0 <= (first + i) * stride + offset < source."""
    low = max(0, -((first * stride + offset) // stride))
    high = min(size, -((first * stride + offset - source) // stride))
    return (low, high) if low < high else (0, 0)
