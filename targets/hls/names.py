"""Names of a model, made identifiers of C, C++ and Verilog."""

from __future__ import annotations

import re

_WORDS = """
always and assign auto begin bool break case char class const continue default delete do double else end endmodule enum
explicit export extern false float for friend function goto if initial inline inout input int int8_t int16_t int32_t
int64_t integer long main module mutable namespace new not operator or output private protected public reg register
return short signed sizeof static struct switch template this throw true try typedef typename uint8_t uint16_t uint32_t
uint64_t union unsigned using virtual void volatile while wire word xor
assert bins bit buf byte cell checker config context cover cross deassign design disable dist edge event final force
fork generate global import inside instance join large let library local logic medium nand next nor null packed
parameter priority property pull0 pull1 pure rand real release repeat scalared sequence shortint small solve string
strong super supply0 supply1 table tagged task time tran tri type unique use var vectored wait wand weak wildcard with
within wor xnor fifo
EOF NULL and_eq ap_int ap_uint asm bitand bitor catch compl constexpr decltype errno hls linux noexcept not_eq nullptr
or_eq std typeid unix wchar_t xor_eq
known smaller greater leading_bit
"""
#: What nothing can be called in one of the languages.
RESERVED = frozenset(_WORDS.split())


def identifier(text: str) -> str:
    """`text` with an underscore for what is no letter, digit or underscore, not beginning with a digit. Names that hold
    two underscores in a row, or begin with one and a capital letter, belong to C++."""
    legal = re.sub(r"[\W_]+", "_", text, flags=re.ASCII).strip("_") or "n"
    return f"n{legal}" if legal[0].isdigit() else legal


def own_name(text: str) -> str:
    """An identifier that stands by itself, and is no word of the languages."""
    name = identifier(text)
    return f"n{name}" if name in RESERVED else name
