"""Operators in blocked layouts: what a layout pass rewrites plain convolutions and matrix products into.

A blocked image [N, C, H, W] with block c is [N, B, H, W, c] where B*c >= C: channel b*c + i is element i of block
b. With groups, each group's channels fill blocks of their own. Channels added to fill a block are zero after
`block` and hold anything finite afterwards; consumers give them zero weights, and `unblock` drops them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorc.ir import dims
from tensorc.ir.ops.nn import conv_numpy, matmul_numpy, product_dtype, window_output
from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, register
from tensorc.ir.types import TensorType


def blocks_of(channels: int, groups: int, block: int) -> int:
    """Blocks that hold `channels` in `groups` groups."""
    return groups * -(-(channels // groups) // block)


def _block(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    channels = dims.static_shape(x.shape[1:2])[0]
    if channels % attrs["groups"]:
        raise TypeError(f"{channels} channels do not divide into {attrs['groups']} groups")
    count = blocks_of(channels, attrs["groups"], attrs["block"])
    return [x.with_shape((x.shape[0], count, *x.shape[2:], attrs["block"]))]


def _block_numpy(x: np.ndarray, block: int, groups: int) -> np.ndarray:
    n, channels, *spatial = x.shape
    each = channels // groups
    x = x.reshape(n, groups, each, *spatial)
    x = np.pad(x, [(0, 0), (0, 0), (0, -each % block)] + [(0, 0)] * len(spatial))
    x = x.reshape(n, -1, block, *spatial)
    return np.ascontiguousarray(np.moveaxis(x, 2, -1))


def _unblock(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    if x.shape[1] != blocks_of(attrs["channels"], attrs["groups"], dims.static_shape(x.shape[-1:])[0]):
        raise TypeError(f"{x} does not hold {attrs['channels']} channels in {attrs['groups']} groups")
    return [x.with_shape((x.shape[0], attrs["channels"], *x.shape[2:-1]))]


def _unblock_numpy(x: np.ndarray, channels: int, groups: int) -> np.ndarray:
    n, _, *spatial, _ = x.shape
    x = np.moveaxis(x, -1, 2).reshape(n, groups, -1, *spatial)
    return np.ascontiguousarray(x[:, :, : channels // groups].reshape(n, channels, *spatial))


def _conv_blocked(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    x, w = types
    plain = x.rank == 4
    if w.rank != 5 or x.rank not in (4, 5):
        raise TypeError(f"conv_blocked takes [N,C,H,W] or [N,B,H,W,c] and [blocks,C/groups,KH,KW,c], not {x} and {w}")
    blocks, per_group, *kernel, block = dims.static_shape(w.shape)
    in_channels = x.shape[1] if plain else dims.mul(x.shape[1], x.shape[4])
    if attrs["depthwise"]:
        if plain or x.shape[1] != blocks or per_group != 1:
            raise TypeError(f"depthwise conv_blocked takes as many blocks in as out, not {x} and {w}")
    elif in_channels != per_group * attrs["groups"] or blocks % attrs["groups"]:
        raise TypeError(f"conv_blocked of {x} by {w} in {attrs['groups']} groups: the channels do not fit")
    strides, pads, dilations = attrs["strides"], attrs["pads"], attrs["dilations"]
    out = [window_output(x.shape[2 + i], kernel[i], strides[i], pads[i], pads[2 + i], dilations[i]) for i in range(2)]
    return [TensorType(product_dtype(x, w), (x.shape[0], blocks, *out, block))]


def _conv_blocked_numpy(x: np.ndarray, w: np.ndarray, strides: Sequence[int], pads: Sequence[int],
                        dilations: Sequence[int], groups: int, depthwise: int) -> np.ndarray:  # fmt: skip
    blocks, per_group, kh, kw, block = w.shape
    plain = x if x.ndim == 4 else _unblock_numpy(x, x.shape[1] * x.shape[4], 1)
    filters = np.moveaxis(w, -1, 1).reshape(blocks * block, per_group, kh, kw)
    count = blocks * block if depthwise else groups
    return _block_numpy(conv_numpy(plain, filters, strides, pads, dilations, count), block, 1)


def pack_conv_weight(w: np.ndarray, groups: int, block: int, in_block: int = 1) -> np.ndarray:
    """[O, I/groups, KH, KW] to [blocks, I/groups, KH, KW, block], zero-filled to whole blocks of each group.

    The input channels of each group are filled up to a multiple of `in_block`, as a blocked input has them.
    """
    out, inputs, kh, kw = w.shape
    each = out // groups
    w = w.reshape(groups, each, inputs, kh, kw)
    w = np.pad(w, [(0, 0), (0, -each % block), (0, -inputs % in_block), (0, 0), (0, 0)])
    w = w.reshape(-1, block, *w.shape[2:])
    return np.ascontiguousarray(np.moveaxis(w, 1, -1))


def _matmul_packed(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    a, b = types
    if b.rank != 3 or a.rank < 1 or a.shape[-1] != b.shape[1]:
        raise TypeError(f"matmul_packed takes [..., K] and [panels, K, columns], not {a} and {b}")
    panels, _, columns = dims.static_shape(b.shape)
    if not (panels - 1) * columns < attrs["columns"] <= panels * columns:
        raise TypeError(f"{b} does not hold {attrs['columns']} columns")
    return [TensorType(product_dtype(a, b), (*a.shape[:-1], attrs["columns"]))]


def pack_matmul_weight(b: np.ndarray, width: int) -> np.ndarray:
    """[K, N] to panels [ceil(N/width), K, width], zero-filled."""
    k, n = b.shape
    if n % width:
        b = np.pad(b, [(0, 0), (0, -n % width)])
    return np.ascontiguousarray(b.reshape(k, -1, width).transpose(1, 0, 2))


def _matmul_packed_numpy(a: np.ndarray, b: np.ndarray, columns: int) -> np.ndarray:
    plain = b.transpose(1, 0, 2).reshape(b.shape[1], -1)[:, :columns]
    return matmul_numpy(a, plain)


register("block", Kind.INJECTIVE, 1, _block, _block_numpy, "[N,C,H,W] to blocked", block=REQUIRED, groups=1)
register("unblock", Kind.INJECTIVE, 1, _unblock, _unblock_numpy, "blocked to [N,C,H,W]", channels=REQUIRED, groups=1)
register(
    "conv_blocked", Kind.ANCHOR, 2, _conv_blocked, _conv_blocked_numpy,
    "conv with x [N,B,H,W,c] (or plain, few channels), w [blocks,C/groups,KH,KW,c], result blocked",
    strides=REQUIRED, pads=REQUIRED, dilations=REQUIRED, groups=1, depthwise=0,
)  # fmt: skip
register(
    "matmul_packed", Kind.ANCHOR, 2, _matmul_packed, _matmul_packed_numpy,
    "[..., K] times packed panels [ceil(N/width), K, width]; `columns` is N", columns=REQUIRED,
)  # fmt: skip
register(
    "group", Kind.OPAQUE, (0, None), lambda _types, _attrs: (), lambda *xs: xs,
    "a fused group: its body is one kernel",
)  # fmt: skip
