"""Operands of matrix products as the tile of `gemm` asks for them: chunks of 16 bytes, of one row of the operand.

An operand is an array [x, k], where x counts the rows of A or the columns of B, and k what is summed over. A chunk has
neighbours along k (rows of a matrix, channels of a pixel) or along x (packed weights, a computed B); the other
coordinate counts elements. Where a chunk lies in memory as it is wanted, it is copied; where it lies there in float32
and is wanted in 16 bits, it is converted on the way; else each element is asked for by itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from passes.lower_precision import widens
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.kernel import CudaGroup
from targets.packing import Packing
from tensorc.errors import UnsupportedError
from tensorc.ir import OPS, Node, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.nn import multiplies_bytes
from tensorc.ir.types import STORED, numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.conversion import convert
from tensorc.lowering.indexing import Elements, Index, ravel, unravel
from tensorc.lowering.tir import Buffer, Expr, const

#: What a thread copies at once, and a row of what tensor cores read.
CHUNK_BYTES = 16
#: A row of what warpgroups multiply, and the columns of their widest tile.
ROW_BYTES = 128
_WIDEST = 256
#: Nodes that say from where elements are read, and nothing else.
_MOVES = frozenset({"reshape", "slice", "transpose"})
#: Of filters of more taps and channels of a plain image it is computed for each element where it lies. What is not
#: there has a row further down than images are high.
_MOST_TAPS = 1024
_BEYOND = 1 << 14
#: What a thread loads or not without a branch.
_LOADED = ("float32", "float16", "bfloat16", "uint8")
#: Of larger tensors behind moves it is not found out whether chunks lie together.
_MOST_TRACED = 1 << 25


def chunk_elements(dtype: str) -> int:
    return CHUNK_BYTES // int(numpy_dtype(dtype).itemsize)


def operand_dtype(x: Value, w: Value, gpu: Gpu) -> str:
    """The type that `x` is read in to be multiplied by `w`: that of `w`, or uint8 where that is int8. Raises
    UnsupportedError where tiles have none."""
    dtype = ""
    if multiplies_bytes(x.type, w.type):
        dtype = "uint8"
    elif w.dtype in ("float16", "bfloat16") and x.dtype in ("float32", w.dtype):
        dtype = w.dtype
    elif (x.dtype, w.dtype) == ("float32", "float32"):
        dtype = products_of(x) if products_of(x) == products_of(w) else "float32"
    if not dtype or (dtype in ("bfloat16", "uint8") and not gpu.multiplies_bfloat16):
        raise UnsupportedError(f"no tile of {gpu.name} multiplies {x.dtype} by {w.dtype}")
    return dtype


def products_of(x: Value) -> str:
    """The type that a computed operand is multiplied in: that which it lies in before it is widened, if it is."""
    return x.producer.inputs[0].dtype if x.producer is not None and widens(x.producer) else x.dtype


@dataclass(frozen=True)
class Lying:
    """Where the elements of a value lie: the buffer, the element's place in it by its index, and of neighbours along
    the last axis how many lie side by side, on an address that is a multiple of them."""

    buffer: Buffer
    dtype: str
    place: Callable[[Index], Expr]
    together: int


def find_lying(group: CudaGroup, value: Value) -> Lying | None:
    """None for what is computed. A conversion from 16 bits is no computation: what is converted is told of."""
    source = value.producer.inputs[0] if value.producer is not None and widens(value.producer) else value
    moves: list[Node] = []
    base = source
    while base not in group.buffers:
        if base.producer is None or base.producer.op not in _MOVES:
            return None
        moves.append(base.producer)
        base = base.producer.inputs[0]
    shape = static_shape(base.shape)
    places = Elements(group.builder, {base: lambda index: ravel(index, shape)})
    return Lying(group.buffers[base], base.dtype, lambda index: places.evaluate(source, index), _together(base, moves))


def lies_in_chunks(value: Value, dtype: str) -> bool:
    """Whether an input of a body, to be multiplied in `dtype`, can be told from its type to lie in chunks of it."""
    source = value.producer.inputs[0] if value.producer is not None and widens(value.producer) else value
    kin = {source.dtype, dtype} == {"uint8", "int8"} or source.dtype == dtype
    return kin and source.producer is None and static_shape(source.shape)[-1] % chunk_elements(source.dtype) == 0


def _together(base: Value, moves: list[Node]) -> int:
    shape = static_shape(base.shape)
    if not moves:
        return math.gcd(shape[-1], CHUNK_BYTES) if shape else 1
    if base.type.size > _MOST_TRACED:
        return 1
    places = np.arange(base.type.size, dtype=np.int32).reshape(shape)
    for node in reversed(moves):
        (places,) = OPS[node.op].evaluate([places], node.attrs)
    width = math.gcd(places.shape[-1], CHUNK_BYTES)
    while width > 1:
        rows = places.reshape(-1, width)
        if not (rows[:, 0] % width).any() and (np.diff(rows, axis=1) == 1).all():
            return width
        width //= 2
    return 1


class Operand(ABC):
    """Of `extent` rows and `depth` products, in `dtype`. `neighbours` chunks of one row (of one k, where they lie along
    x) lie side by side in memory: as many threads take them."""

    def __init__(self, group: CudaGroup, dtype: str, along_k: bool):
        self.group = group
        self.dtype = dtype
        self.along_k = along_k
        self.elements = chunk_elements(dtype)
        #: Of a chunk's elements, how many lie together: the pieces that it is copied in, which `place` counts.
        self.together = self.elements
        self.neighbours = 1
        self.lying: Lying | None = None

    @property
    def buffer(self) -> Buffer:
        assert self.lying is not None
        return self.lying.buffer

    @property
    def copies(self) -> bool:
        """Whether chunks lie in memory as they are wanted."""
        return self.lying is not None and self.lying.dtype == self.dtype

    @property
    def narrows(self) -> bool:
        return self.lying is not None and not self.copies

    def begin(self) -> None:  # noqa: B027  (most have nothing to do)
        """What all threads do together before the first step."""

    @abstractmethod
    def row(self, batch: Expr, x: Expr) -> Any:
        """What the chunks of a row have in common. `x` counts chunks where they lie along it."""

    @abstractmethod
    def is_inside(self, row: Any, k: Expr) -> Expr:
        """Whether the piece is not all zeros beyond an edge. `k` counts pieces where they lie along it."""

    @abstractmethod
    def place(self, row: Any, k: Expr) -> Expr:
        """Where the piece lies in the buffer, in elements."""

    def element(self, row: Any, k: Expr, number: Expr) -> Expr:  # noqa: ARG002
        """One of a chunk that does not lie so."""
        raise TypeError(f"{type(self).__name__} lies in chunks, which are copied whole")


class Matrix(Operand):
    """A computed matrix of a batch; `index(batch, x, k)` is an element's index in `value`. `along_k`: whether chunks
    are along k, and whether neighbours in memory are."""

    def __init__(self, group: CudaGroup, value: Value, dtype: str, along_k: tuple[bool, bool], extent: int,
                 depth: int, index: Callable[[Expr, Expr, Expr], Index]):  # fmt: skip
        super().__init__(group, dtype, along_k[0])
        self.value = value
        self.extent, self.depth = extent, depth
        self.index = index
        lying = find_lying(group, value) if along_k[0] == along_k[1] else None
        if lying is not None and lying.together % self.elements == 0 and _is_kin(lying.dtype, dtype):
            self.lying = lying
            self.neighbours = 8

    def row(self, batch: Expr, x: Expr) -> Any:
        return batch, x

    def is_inside(self, row: Any, k: Expr) -> Expr:
        _, x = row
        step = self.elements
        width, depth = (1, step) if self.along_k else (step, 1)
        return tir.logical("and", x < -(-self.extent // width), k < -(-self.depth // depth))

    def place(self, row: Any, k: Expr) -> Expr:
        assert self.lying is not None
        batch, x = row
        x, k = (x, k * self.elements) if self.along_k else (x * self.elements, k)
        return self.lying.place(self.index(batch, x, k))

    def element(self, row: Any, k: Expr, number: Expr) -> Expr:
        batch, x = row
        x, k = (x, k * self.elements + number) if self.along_k else (x * self.elements + number, k)
        last, at = (self.depth, k) if self.along_k else (self.extent, x)
        whole = last % self.elements == 0
        # The chunk begins inside; where it ends outside, what is read instead is taken back.
        inner = at if whole else tir.minimum(at, last - 1)
        index = self.index(batch, x, inner) if self.along_k else self.index(batch, inner, k)
        keep = self.group.builder.keep
        value = self.group.elements.evaluate(self.value, index)
        found = keep(convert(keep, value, self.value.dtype, self.dtype))
        return found if whole else tir.select(at < last, found, const(0.0, self.dtype))


def _is_kin(lying: str, wanted: str) -> bool:
    return lying == wanted or (lying == "float32" and wanted in ("float16", "bfloat16"))


class Weights(Operand):
    """Constants packed for tiles by `pack_weights`: [batch][columns / chunk][depth][chunk], or, along k,
    [batch][depth / chunk][columns][chunk]."""

    def __init__(self, group: CudaGroup, value: Value, along_k: bool, columns: int, depth: int):
        super().__init__(group, value.dtype, along_k)
        width, steps = (1, self.elements) if along_k else (self.elements, 1)
        self.extent, self.depth = -(-columns // width), -(-depth // steps)
        self.lying = Lying(group.buffers[value], value.dtype, lambda index: index[0], self.elements)

    def row(self, batch: Expr, x: Expr) -> Any:
        return batch, x

    def is_inside(self, row: Any, k: Expr) -> Expr:
        return tir.logical("and", row[1] < self.extent, k < self.depth)

    def place(self, row: Any, k: Expr) -> Expr:
        batch, x = row
        shape = (self.depth, self.extent) if self.along_k else (self.extent, self.depth)
        outer, inner = (k, x) if self.along_k else (x, k)
        return ((batch * shape[0] + outer) * shape[1] + inner) * self.elements


def pack_weights(name: str, batch: int, columns: int, depth: int, dtype: str, along_k: bool,
                 plain: Callable[[np.ndarray], np.ndarray]) -> Packing:  # fmt: skip
    """Weights for `Weights`; `plain` makes of the constant an array [batch, columns, depth]."""
    chunk = chunk_elements(dtype)
    wide, deep = (columns, -(-depth // chunk) * chunk) if along_k else (-(-columns // chunk) * chunk, depth)
    shape = (batch, deep // chunk, wide, chunk) if along_k else (batch, wide // chunk, deep, chunk)

    def apply(data: np.ndarray) -> np.ndarray:
        data = np.pad(plain(data), [(0, 0), (0, wide - columns), (0, deep - depth)])
        if along_k:
            return np.ascontiguousarray(data.reshape(batch, wide, deep // chunk, chunk).transpose(0, 2, 1, 3))
        return np.ascontiguousarray(data.reshape(batch, wide // chunk, chunk, deep).transpose(0, 1, 3, 2))

    return Packing(f"{name}, chunks of {chunk} along {'depth' if along_k else 'columns'}", shape, apply)


class WeightRows(Operand):
    """Constants packed by `pack_rows` as tiles have them in shared memory: [batch][step][column][128 bytes along k],
    the chunks of a row where swizzling has them. Rows of neighbouring columns lie together: a tile's are copied at
    once, by one thread."""

    def __init__(self, group: CudaGroup, value: Value, along_k: bool, columns: int, depth: int):
        super().__init__(group, value.dtype, along_k)
        self.wide, self.steps = _rows_shape(columns, depth, value.dtype)
        self.lying = Lying(group.buffers[value], value.dtype, lambda index: index[0], self.elements)

    def row(self, batch: Expr, x: Expr) -> Any:
        return batch, x

    def is_inside(self, row: Any, k: Expr) -> Expr:  # noqa: ARG002
        return True

    def place(self, row: Any, k: Expr) -> Expr:
        """`k` counts steps."""
        batch, x = row
        return ((batch * self.steps + k) * self.wide + x) * (ROW_BYTES // CHUNK_BYTES * self.elements)


def pack_rows(name: str, batch: int, columns: int, depth: int, dtype: str, along_k: bool,
              plain: Callable[[np.ndarray], np.ndarray]) -> Packing:  # fmt: skip
    """As `pack_weights`, for `WeightRows`."""
    assert along_k, "rows are along the depth"
    wide, steps = _rows_shape(columns, depth, dtype)
    chunks, chunk = ROW_BYTES // CHUNK_BYTES, chunk_elements(dtype)

    def apply(data: np.ndarray) -> np.ndarray:
        deep = steps * chunks * chunk
        data = np.pad(plain(data), [(0, 0), (0, wide - columns), (0, deep - depth)])
        data = data.reshape(batch, wide, steps, chunks, chunk).transpose(0, 2, 1, 3, 4)
        column = np.arange(wide)[:, None]
        # Chunks of neighbouring rows are in different banks (PTX ISA, "Shared Memory Matrix Layout", 128 bytes).
        swizzled = np.arange(chunks) ^ column % chunks
        return np.ascontiguousarray(data[:, :, column, swizzled].reshape(batch, steps, wide, -1))

    return Packing(f"{name}, swizzled rows of {ROW_BYTES} bytes", (batch, steps, wide, chunks * chunk), apply)


def _rows_shape(columns: int, depth: int, dtype: str) -> tuple[int, int]:
    """Columns, filled up to the widest tile, and steps."""
    row = ROW_BYTES // CHUNK_BYTES * chunk_elements(dtype)
    return -(-columns // _WIDEST) * _WIDEST, -(-depth // row)


@dataclass(frozen=True)
class Window:
    """The extents of a convolution: what `Image` needs to know to find the pixel of a tap."""

    batch: int
    in_h: int
    in_w: int
    out_h: int
    out_w: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    top: int
    left: int
    channels: int  #: of a group, in
    groups: int
    line: int  #: of the image as it is, where it is taken as one row; else 0

    @property
    def rows(self) -> int:
        return self.batch * self.out_h * self.out_w

    @property
    def is_padded(self) -> bool:
        """Whether some tap meets no pixel somewhere."""
        last = [(out - 1) * stride + (taps - 1) * dilation - before for out, stride, taps, dilation, before in zip(
            (self.out_h, self.out_w), self.strides, self.kernel, self.dilations, (self.top, self.left), strict=True
        )]  # fmt: skip
        return self.top > 0 or self.left > 0 or last[0] >= self.in_h or last[1] >= self.in_w


class Image(Operand):
    """Pixels of an image in blocks of channels [N, C/8, H, W, 8], or of a plain one [N, C, H, W]: a row is an output
    pixel, k runs over taps and, within them, channels."""

    def __init__(self, group: CudaGroup, value: Value, dtype: str, window: Window):
        super().__init__(group, dtype, along_k=True)
        self.value = value
        self.window = window
        self.plain = len(value.shape) == 4
        self.depth = window.channels * math.prod(window.kernel)
        lying = find_lying(group, value)
        block = 0 if self.plain else int(value.shape[4])
        together = min(block, self.elements)
        size = together * int(numpy_dtype(dtype).itemsize)
        fits = size in (4, 8, CHUNK_BYTES) and window.channels % together == 0
        if lying is not None and lying.dtype != dtype:  # what is converted is so a chunk at a time
            fits = fits and together == self.elements and _is_kin(lying.dtype, dtype)
        if fits and lying is not None and lying.together % together == 0:
            self.lying = lying
            self.together = together
            self.neighbours = block // together
        #: Of a plain image, by k: how far a tap's channel is from a pixel's first place, and (row, column) of the tap.
        self.table: Buffer = None
        if self.plain and value in group.buffers and value.dtype in _LOADED and self.depth <= _MOST_TAPS:
            self.table = group.builder.shared("int32", 2 * self._taps, "taps")

    @property
    def _taps(self) -> int:
        return -(-self.depth // self.elements) * self.elements

    def begin(self) -> None:
        if self.table is None:
            return
        builder, window, threads = self.group.builder, self.window, self.group.builder.threads
        for number in range(-(-self._taps // threads)):
            k = builder.bind(builder.thread + number * threads)

            def enter(k: Expr = k) -> None:
                h, w, channel = self._tap(k, window.channels)
                away = (channel * window.in_h + h) * window.in_w + w
                # What only fills up a chunk is beyond every image.
                row = tir.cast(h, "int32")
                if self._taps > self.depth:
                    row = builder.keep(tir.select(k < self.depth, row, const(_BEYOND, "int32")))
                builder.store(self.table, away, k * 2)
                builder.store(self.table, tir.shift_left(row, 16) + w, k * 2 + 1)

            builder.when(k < self._taps, enter)
        builder.sync()

    def row(self, batch: Expr, x: Expr) -> Any:
        """The image, where its rows and columns begin, the group, and whether there is such a pixel."""
        builder, window = self.group.builder, self.window
        image, h, w = unravel(x, [window.batch, window.out_h, window.out_w])
        first = (builder.bind(image), builder.bind(h * window.strides[0] - window.top),
                 builder.bind(w * window.strides[1] - window.left))  # fmt: skip
        return *first, batch, builder.bind(x < window.rows)

    def _tap(self, k: Expr, steps: int) -> tuple[Expr, Expr, Expr]:
        """(row, column) of the tap in the image, counted from a pixel's first one, and the rest of k."""
        window = self.window
        tap, rest = unravel(k, [math.prod(window.kernel), steps])
        h, w = unravel(tap, window.kernel)
        return h * window.dilations[0], w * window.dilations[1], rest

    def _meets(self, row: Any, h: Expr, w: Expr) -> Expr:
        if not self.window.is_padded and (self.table is None or self._taps == self.depth):
            return True
        inside: Expr = True
        for at, extent in ((row[1] + h, self.window.in_h), (row[2] + w, self.window.in_w)):
            # As unsigned numbers, those below zero are beyond any extent.
            inside = tir.logical("and", inside, tir.cast(at, "uint32") < const(extent, "uint32"))
        return inside

    def is_inside(self, row: Any, k: Expr) -> Expr:
        if self.lying is None:  # each element looks for itself
            return tir.logical("and", row[4], k < -(-self.depth // self.elements))
        inside = tir.logical("and", row[4], k < self.depth // self.together)
        h, w, _ = self._tap(k, self.window.channels // self.together)
        return tir.logical("and", inside, self._meets(row, h, w))

    def _index(self, row: Any, h: Expr, w: Expr, channel: Expr) -> Index:
        image, top, left, batch, _ = row
        h, w = top + h, left + w
        if self.window.line:
            h, w = tir.floor_div(w, self.window.line), tir.floor_mod(w, self.window.line)
        channel = channel + batch * self.window.channels if self.window.groups > 1 else channel
        if self.plain:
            return [image, channel, h, w]
        block = int(self.value.shape[4])
        return [image, tir.floor_div(channel, block), h, w, tir.floor_mod(channel, block)]

    def place(self, row: Any, k: Expr) -> Expr:
        assert self.lying is not None
        h, w, piece = self._tap(k, self.window.channels // self.together)
        return self.lying.place(self._index(row, h, w, piece * self.together))

    def element(self, row: Any, k: Expr, number: Expr) -> Expr:
        if self.table is not None:
            return self._entered(row, k * self.elements + number)
        builder, keep = self.group.builder, self.group.builder.keep
        at = builder.bind(k * self.elements + number)
        h, w, channel = (builder.bind(i) for i in self._tap(at, self.window.channels))
        inside = tir.logical("and", at < self.depth, self._meets(row, h, w))
        found = builder.registers(self.dtype, 1, "element")
        builder.store(found, const(0.0, self.dtype), 0)

        def read() -> None:
            value = self.group.elements.evaluate(self.value, self._index(row, h, w, channel))
            builder.store(found, convert(keep, value, self.value.dtype, self.dtype), 0)

        builder.when(inside, read)
        return builder.load(found, 0)

    def _entered(self, row: Any, k: Expr) -> Expr:
        """An element by the table."""
        builder, window = self.group.builder, self.window
        image, top, left, batch, _ = row
        away, tap = (builder.keep(builder.load(self.table, k * 2 + i)) for i in range(2))
        first = (image * window.groups + batch) * window.channels * (window.in_h * window.in_w)
        place = first + top * window.in_w + left + away
        inside = self._meets(row, tir.shift_right(tap, 16), tir.bitwise_and(tap, 0xFFFF))
        stored = STORED.get(self.value.dtype, self.value.dtype)
        source = builder.address(self.group.buffers[self.value], place)
        value = builder.value(stored, "tc_load_if", source, inside)
        return convert(builder.keep, value, self.value.dtype, self.dtype)
