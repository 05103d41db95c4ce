"""Names of formats: which there are, and what each means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import NamedTuple

from tensorc.errors import UserError
from tensorc.formats.base import Format
from tensorc.formats.bipolar import Bipolar
from tensorc.formats.block_float import BlockFloat
from tensorc.formats.elements import E2M1, E2M3, E3M2, E4M3, E5M2, Element
from tensorc.formats.integers import Integers
from tensorc.formats.microscaling import Microscaling
from tensorc.formats.nvfp4 import NvFp4
from tensorc.formats.olive import Olive
from tensorc.formats.rearranged import Rearranged
from tensorc.formats.ternary import Ternary

REARRANGED = "-rearranged"
#: Groups and blocks: whole bytes of codes of any width, and pairs.
SMALLEST_BLOCK, LARGEST_BLOCK = 8, 1024

_ELEMENTS = {
    f"mxfp{element.width}-{element.name}": element for element in (E4M3, E5M2, E2M3, E3M2, E2M1)
}  # fmt: skip
_USUAL = {"mxfp8": E4M3, "mxfp6": E2M3, "mxfp4": E2M1}


class _Family(NamedTuple):
    #: What the name must match whole.
    pattern: str
    #: From the groups of the match.
    make: Callable[..., Format]
    #: How names are written, for messages.
    written: str


def _block(text: str | None) -> int | None:
    if text is None:
        return None
    size = int(text)
    if size % SMALLEST_BLOCK or not SMALLEST_BLOCK <= size <= LARGEST_BLOCK:
        raise UserError(
            f"groups and blocks have a multiple of {SMALLEST_BLOCK} elements, up to {LARGEST_BLOCK}, not {size}"
        )
    return size


def _microscaling(name: str) -> Format:
    element: Element = _USUAL[name] if name in _USUAL else _ELEMENTS[name]
    return Microscaling(element)


_FAMILIES = (
    _Family(r"int([2-8])(?:-g(\d+))?(-asym)?", lambda b, g, a: Integers(int(b), _block(g), a is None),
            "int2..int8[-gSIZE][-asym]"),
    _Family(r"ternary(?:-g(\d+))?", lambda g: Ternary(_block(g)), "ternary[-gSIZE]"),
    _Family(r"bfp([2-8])-b(\d+)", lambda b, g: BlockFloat(int(b), _block(g) or 0), "bfp2..bfp8-bSIZE"),
    _Family("(" + "|".join((*_USUAL, *_ELEMENTS)) + ")", _microscaling, "mxfp8[-e5m2], mxfp6[-e3m2], mxfp4"),
    _Family("nvfp4", NvFp4, "nvfp4"),
    _Family(r"olive4(?:-g(\d+))?", lambda g: Olive(_block(g)), "olive4[-gSIZE]"),
    _Family(r"bipolar([1-8])", lambda b: Bipolar(int(b)), "bipolar1..bipolar8"),
)  # fmt: skip

#: The names that are listed; any that a family takes is legal.
LISTED = (
    "int8", "int8-asym", "int4", "int4-g128", "int4-g32", "int4-g32-asym", "int3", "int3-g64", "int3-g64-asym", "int2",
    "int2-g64", "int2-g64-asym", "ternary", "ternary-g64", "bfp8-b16", "bfp6-b16", "bfp4-b16", "bfp4-b16-rearranged",
    "bfp4-b32", "bfp4-b32-rearranged", "mxfp8", "mxfp8-e5m2", "mxfp6", "mxfp6-e3m2", "mxfp4", "mxfp4-rearranged",
    "nvfp4", "olive4", "olive4-g128", "bipolar1", "bipolar2", "bipolar3", "bipolar4",
)  # fmt: skip


def find_format(name: str) -> Format:
    """The format of this name; UserError says what is legal."""
    for family in _FAMILIES:
        if match := re.fullmatch(family.pattern, name.removesuffix(REARRANGED), re.ASCII):
            made = family.make(*match.groups())
            if not name.endswith(REARRANGED):
                return made
            if made.block is None:
                raise UserError(f"{made.name} has no blocks: rearranging channels changes nothing")
            return Rearranged(made)
    close = difflib.get_close_matches(name, LISTED, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    legal = ", ".join(family.written for family in _FAMILIES)
    raise UserError(f"no format {name!r}{hint}; formats: {legal}; those with blocks also with {REARRANGED}")


def listed_formats() -> list[Format]:
    return [find_format(name) for name in LISTED]
