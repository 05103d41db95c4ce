"""The FPGAs that a design can be made for: what each has, as in AMD's product tables, and how much of it to use."""

from __future__ import annotations

from dataclasses import dataclass

from targets.hls.hardware.resources import Family, Resources
from tensorc.errors import UserError

#: Designs meet their timing below these shares of a part; above, placement and routing fail or slow them down.
LUT_SHARE, FF_SHARE, BLOCK_SHARE = 0.7, 0.5, 0.8
#: What designs get of a memory's peak rate, if they read and write in bursts.
MEMORY_SHARE = 0.7


@dataclass(frozen=True)
class Part:
    """`number` is the vendor's full part number (package and speed included), as project files name it. A port to
    memory outside is `port` bytes wide; `memory` is the peak rate, in GB/s, of what common boards have there."""

    name: str
    number: str
    family: Family
    lut: int
    ff: int
    bram18: int
    uram: int
    dsp: int
    port: int = 8
    memory: float = 4.2

    @property
    def available(self) -> Resources:
        """All that the part has."""
        return Resources(lut=self.lut, ff=self.ff, bram18=self.bram18, uram=self.uram, dsp=self.dsp)

    @property
    def budget(self) -> Resources:
        """What a design should use of it at most."""
        return Resources(
            lut=int(LUT_SHARE * self.lut),
            ff=int(FF_SHARE * self.ff),
            bram18=int(BLOCK_SHARE * self.bram18),
            uram=int(BLOCK_SHARE * self.uram),
            dsp=int(BLOCK_SHARE * self.dsp),
        )


#: The smallest first, in each family. Memory: PYNQ (Zynq-7000), Arty, ZC706, Ultra96, ZCU104, ZCU102, VCU118, and the
#: cards' own.
PARTS = (
    Part("XC7Z010", "xc7z010clg400-1", "xc7", 17_600, 35_200, 120, 0, 80, 8, 4.2),
    Part("XC7A35T", "xc7a35tcpg236-1", "xc7", 20_800, 41_600, 100, 0, 90, 4, 1.3),
    Part("XC7Z020", "xc7z020clg400-1", "xc7", 53_200, 106_400, 280, 0, 220, 8, 4.2),
    Part("XC7A100T", "xc7a100tcsg324-1", "xc7", 63_400, 126_800, 270, 0, 240, 4, 1.3),
    Part("XC7Z045", "xc7z045ffg900-2", "xc7", 218_600, 437_200, 1_090, 0, 900, 8, 4.2),
    Part("XCZU3EG", "xczu3eg-sbva484-1-e", "xcup", 70_560, 141_120, 432, 0, 360, 16, 8.5),
    Part("XCZU7EV", "xczu7ev-ffvc1156-2-e", "xcup", 230_400, 460_800, 624, 96, 1_728, 16, 17.0),
    Part("XCZU9EG", "xczu9eg-ffvb1156-2-e", "xcup", 274_080, 548_160, 1_824, 0, 2_520, 16, 17.0),
    Part("XCVU9P", "xcvu9p-flga2104-2L-e", "xcup", 1_182_240, 2_364_480, 4_320, 960, 6_840, 64, 38.4),
    Part("U280", "xcu280-fsvh2892-2L-e", "xcup", 1_303_680, 2_607_360, 4_032, 960, 9_024, 32, 460.0),
    Part("U250", "xcu250-figd2104-2L-e", "xcup", 1_728_000, 3_456_000, 5_376, 1_280, 12_288, 64, 77.0),
)


def find_part(text: str) -> Part:
    """The part of that name or full part number, in capitals or not. Raises UserError, naming the legal ones."""
    for part in PARTS:
        if text.lower() in (part.name.lower(), part.number.lower()):
            return part
    raise UserError(f"unknown FPGA part {text!r}: choose one of {', '.join(part.name for part in PARTS)}")


def rate_of(part: Part, clock: float) -> float:
    """Bytes a cycle that designs get of memory outside the chip."""
    return MEMORY_SHARE * part.memory * clock
