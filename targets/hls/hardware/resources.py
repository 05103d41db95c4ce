"""What arithmetic and memories cost on Xilinx parts, as yosys 0.23 (`synth_xilinx`) builds our own Verilog.

DSP blocks, block RAMs, UltraRAMs and the LUTs of distributed RAM are exact: the functions repeat the choices that yosys
makes (`mul2dsp` splits products, `memory_libmap` picks the cheapest way to tile a memory), for the code that our
generator writes: one registered product of operands no wider than their values need, and memories with one read port
that is registered and at most one write port that enables whole words. Logic in LUTs and flip-flops is an estimate,
within some 30 % on single operations, to be reported and not to be relied on.

`family` is "xc7" (7 series: DSP48E1, 25 x 18 bits) or "xcup" (UltraScale+: DSP48E2, 27 x 18 bits). Widths are in bits,
depths in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Family = Literal["xc7", "xcup"]
MemoryKind = Literal["registers", "distributed", "block"]


@dataclass(frozen=True)
class Resources:
    """An amount of each resource. LUTs count those that hold memory, too; a BRAM36 is two of 18 Kbit."""

    lut: int = 0
    ff: int = 0
    bram18: int = 0
    uram: int = 0
    dsp: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.lut + other.lut,
            self.ff + other.ff,
            self.bram18 + other.bram18,
            self.uram + other.uram,
            self.dsp + other.dsp,
        )

    def __mul__(self, times: int) -> Resources:
        return Resources(self.lut * times, self.ff * times, self.bram18 * times, self.uram * times, self.dsp * times)


# ---- products

#: The signed operands that one DSP block multiplies, the wider one first.
_DSP_WIDTHS: dict[Family, tuple[int, int]] = {"xc7": (25, 18), "xcup": (27, 18)}
#: Operands are cut into slices of so many signed bits; a slice of magnitude has one less.
_DSP_SLICE = 18
#: yosys leaves products to LUTs if an operand has fewer bits than this, or the result fewer than that.
_DSP_LEAST_OPERAND, _DSP_LEAST_RESULT = 2, 9


def dsp_of_product(
    a_bits: int, a_signed: bool, b_bits: int, b_signed: bool, family: Family = "xc7", result: int | None = None
) -> int:
    """DSP blocks of `p <= a * b`, p having `result` bits, by default a_bits + b_bits.

    yosys's mul2dsp.v with the widths that synth_xilinx gives it: blocks multiply signed numbers only, so an unsigned
    operand takes a bit more; the wider operand goes to the wide port and is cut into slices of 17 bits and a rest if it
    does not fit, then the other one. A product of a slice that is too small stays in LUTs. Registers, adders and
    accumulators around the product may move into its block (on xc7) and never change the count. Constants: a product
    with a power of two is wiring or a negation and costs none; any other constant counts as an operand of the fewest
    bits that hold it, in two's complement unless both operands are unsigned.
    """
    result = a_bits + b_bits if result is None else result
    if not a_signed and not b_signed and (min(a_bits, b_bits) < _DSP_LEAST_OPERAND or result < _DSP_LEAST_RESULT):
        return 0
    widths = a_bits + (not a_signed), b_bits + (not b_signed)
    return _dsp_of_slices(max(widths), min(widths), result, family)


def _dsp_of_slices(wide: int, narrow: int, result: int, family: Family) -> int:
    """The same for signed operands of which `wide` is at the wide port, whichever has more bits."""
    if min(wide, narrow) < _DSP_LEAST_OPERAND or result < _DSP_LEAST_RESULT:
        return 0
    most_wide, most_narrow = _DSP_WIDTHS[family]
    if wide > most_wide:
        slices, rest = _slices(wide, most_wide)
        full = _dsp_of_slices(_DSP_SLICE, narrow, min(result, narrow + _DSP_SLICE), family)
        return slices * full + _dsp_of_slices(rest, narrow, narrow + rest, family)
    if narrow > most_narrow:
        slices, rest = _slices(narrow, most_narrow)
        full = _dsp_of_slices(wide, _DSP_SLICE, min(result, wide + _DSP_SLICE), family)
        return slices * full + _dsp_of_slices(wide, rest, wide + rest, family)
    return 1


def _slices(bits: int, most: int) -> tuple[int, int]:
    """How many full slices are cut off an operand until at most `most` bits are left, and how many are left."""
    count = _ceil(bits - most, _DSP_SLICE - 1)
    return count, bits - count * (_DSP_SLICE - 1)


def product(a_bits: int, a_signed: bool, b_bits: int, b_signed: bool, family: Family = "xc7") -> Resources:
    """A registered product: its DSP blocks, or else 1.25 LUTs for a pair of bits (4 x 4 may take up to 2.2)."""
    dsp = dsp_of_product(a_bits, a_signed, b_bits, b_signed, family)
    if not dsp:
        return Resources(lut=_ceil(5 * a_bits * b_bits, 4), ff=a_bits + b_bits)
    # yosys moves registers into DSP48E1 only; it adds the parts of a split product in the cascade there, in LUTs here.
    if family == "xc7":
        return Resources(dsp=dsp)
    return Resources(dsp=dsp, ff=a_bits + b_bits, lut=(dsp - 1) * max(a_bits, b_bits))


# ---- memories


@dataclass(frozen=True)
class _Tile:
    """A way to use a memory primitive, in the words of yosys's memory libraries (xilinx/brams_*.txt, lutrams_*.txt).

    A tile holds 2**address words of widths[0] bits, half as many of widths[1], and so on; write enables are for
    `byte` bits. `cost` is what yosys minimises; its part `scaled` counts only for the columns in use. `units` is what
    a tile costs us.
    """

    address: int
    widths: tuple[int, ...]
    byte: int
    cost: int
    units: int
    scaled: int = 0


_BLOCK_WIDTHS = (1, 2, 4, 9, 18, 36, 72)
#: RAMB18, RAMB36 and two cascaded RAMB36 as true dual-port memories, then RAMB18 and RAMB36 with one port each way.
_BLOCK_TILES = (
    _Tile(14, _BLOCK_WIDTHS[:5], 9, 129, 1),
    _Tile(15, _BLOCK_WIDTHS[:6], 9, 257, 2),
    _Tile(16, _BLOCK_WIDTHS[:4], 9, 513, 4),
    _Tile(14, _BLOCK_WIDTHS[:6], 9, 129, 1),
    _Tile(15, _BLOCK_WIDTHS, 9, 257, 2),
)
_ULTRA_TILES = (_Tile(12, (72,), 8, 1024, 1), _Tile(12, (72,), 9, 1024, 1))
#: In LUTs: RAM64M, RAM32M, RAM128X1D; in UltraScale+ RAM64M8, RAM32M16, RAM256X1D, RAM128X1D. The first of equals wins.
_DISTRIBUTED_TILES: dict[Family, tuple[_Tile, ...]] = {
    "xc7": (
        _Tile(6, (3,), 3, 8, 4, 7),
        _Tile(5, (6,), 6, 8, 4, 7),
        _Tile(7, (1,), 1, 8, 4, 8),
        _Tile(6, (2,), 2, 8, 4, 8),
        _Tile(5, (4,), 4, 8, 4, 8),
    ),
    "xcup": (
        _Tile(6, (7,), 7, 16, 8, 16),
        _Tile(5, (14,), 14, 16, 8, 16),
        _Tile(8, (1,), 1, 16, 8, 16),
        _Tile(7, (2,), 2, 16, 8, 16),
        _Tile(6, (4,), 4, 16, 8, 16),
        _Tile(5, (8,), 8, 16, 8, 16),
    ),
}


def _tile(tiles: tuple[_Tile, ...], width: int, depth: int, writable: bool) -> tuple[int, int]:
    """The cheapest tiling as yosys finds it (memory_libmap, handle_geom): units, and the tiles one below another.

    Tiles one below another share the bits of a wide one where they fit: 2,048 words of 8 bits in a tile of 1,024 x 18
    are one tile. Half a point each is paid for a bit of the multiplexer behind them and a write enable before them.
    """
    best = None
    for tile in tiles:
        for halvings, tile_width in enumerate(tile.widths):
            byte = min(tile.byte, tile_width) if writable else 1
            below = _ceil(depth, 1 << (tile.address - halvings))
            count = _ceil(below * _ceil(width, byte) * byte, tile_width)
            cost = (tile.cost - tile.scaled) * count + tile.scaled * below * width / tile_width
            cost += (below - 1) * width / 2 + (below / 2 if writable and below > 1 else 0)
            if best is None or cost < best[0]:
                best = cost, count * tile.units, below
    assert best is not None
    return best[1], best[2]


@lru_cache(maxsize=4096)
def bram18(width: int, depth: int, writable: bool = True) -> int:
    """Block RAMs of 18 Kbit of a memory with `ram_style = "block"`: one registered read port, one write port or none.

    The usual formula (w <= 9: ceil(d / 2048) and so on) is an upper bound of this from 512 words on.
    """
    return _tile(_BLOCK_TILES, width, depth, writable)[0]


@lru_cache(maxsize=4096)
def bram18_rom(width: int, depth: int, ports: int) -> int:
    """Block RAMs of a ROM that is read at several addresses at once: two a copy, where one port would do with fewer."""
    if ports == 1:
        return bram18(width, depth, writable=False)
    return _tile(_BLOCK_TILES[:3], width, depth, False)[0] * _ceil(ports, 2)


@lru_cache(maxsize=4096)
def uram(width: int, depth: int) -> int:
    """UltraRAMs (4,096 x 72) of a writable memory with `ram_style = "ultra"`. They cannot be initialised."""
    return _tile(_ULTRA_TILES, width, depth, True)[0]


@lru_cache(maxsize=4096)
def lutram(width: int, depth: int, family: Family = "xc7") -> int:
    """LUTs that hold a writable memory with `ram_style = "distributed"`, without those that join its tiles."""
    return _tile(_DISTRIBUTED_TILES[family], width, depth, True)[0]


def rom_luts(width: int, depth: int) -> int:
    """LUTs of a ROM in logic: one a bit and 64 words, whose four go through hard multiplexers, then through LUTs."""
    return width * (_ceil(depth, 64) + _ceil(_ceil(depth, 256) - 1, 3))


#: LUTs that we spend to save a block RAM: parts have 190 (XC7Z020) to 370 (XCZU7EV) of them for each.
_LUTS_FOR_BLOCK = 64


def memory_kind(width: int, depth: int, writable: bool) -> MemoryKind:
    """Where a memory goes, as the value of its attribute `ram_style`: the same on every part, so is the Verilog.

    In LUTs where that is cheap against block RAMs. yosys refuses "distributed" for a ROM: one in LUTs is "registers",
    as is a memory of one word.
    """
    if depth == 1:
        return "registers"
    luts = lutram(width, depth) if writable else rom_luts(width, depth)
    if luts > _LUTS_FOR_BLOCK * bram18(width, depth, writable):
        return "block"
    return "distributed" if writable else "registers"


def memory(width: int, depth: int, writable: bool, family: Family = "xc7") -> Resources:
    """A memory of the kind that `memory_kind` chooses, with its read register and what joins its tiles."""
    kind = memory_kind(width, depth, writable)
    if kind == "registers":
        return Resources(ff=2 * width) if writable else Resources(lut=rom_luts(width, depth), ff=width)
    if kind == "distributed":
        luts, below = _tile(_DISTRIBUTED_TILES[family], width, depth, True)
        return Resources(lut=luts + _joining(width, below).lut, ff=width)
    blocks, below = _tile(_BLOCK_TILES, width, depth, writable)
    return Resources(bram18=blocks) + _joining(width, below)


def _joining(width: int, below: int) -> Resources:
    """What `below` tiles need: a multiplexer behind, the register of its choice and a decoder of write enables."""
    if below == 1:
        return Resources()
    return multiplexer(width, below) + Resources(lut=below, ff=(below - 1).bit_length())


# ---- logic: estimates


def adder(bits: int) -> Resources:
    """A sum or difference of which the wider operand has `bits`, without a register: a LUT a bit before the carries."""
    return Resources(lut=bits)


def comparator(bits: int) -> Resources:
    """a < b or a == b of so many bits: measured 0.5 to 0.75 LUTs a bit."""
    return Resources(lut=_ceil(2 * bits, 3))


def multiplexer(bits: int, inputs: int) -> Resources:
    """One of `inputs` words: a LUT a bit chooses one of four."""
    return Resources(lut=bits * _ceil(inputs - 1, 3))


def register(bits: int) -> Resources:
    return Resources(ff=bits)


def delay(bits: int, cycles: int) -> Resources:
    """A word delayed by shift registers without reset: flip-flops below three cycles, else LUTs of 32 cycles (SRL).

    One or two cycles more than a multiple of 32, or one more than 16, are in flip-flops behind.
    """
    full, rest = divmod(cycles, 32)
    behind = 1 if rest == 17 else rest if rest < 3 else 0
    return Resources(lut=bits * (full + (rest > 2)), ff=bits * behind)


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)
