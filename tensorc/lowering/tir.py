"""The thin wall around TVM's tensor IR: every name of `tvm.tirx` that the project uses is used here.

A kernel is a function with the C calling convention and nothing of TVM's runtime in it:

    void NAME(T0 *p0, T1 *p1, ..., int32_t begin, int32_t end)

It does the tasks [begin, end) of its outermost loop. Buffers are flat; `KernelBuilder` writes the loops:

    with k.serial(8) as i, k.vector(16) as v:
        k.store(out, k.load(a, i * 16 + v) + 1.0, i * 16 + v)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tvm import ir
from tvm import tirx as T  # noqa: N812  (as TVM's own scripts call it)
from tvm_ffi import structural_walk

from tensorc.errors import UnsupportedError
from tensorc.ir.types import STORED, numpy_dtype

#: An expression, a variable or a plain number. TVM's classes carry no types that a checker could use.
Expr = Any
Buffer = Any


def const(value: float | bool, dtype: str) -> Expr:
    """A literal. Infinities and nan are legal for floats; what is held as its bytes is the integer of them."""
    if dtype in STORED:
        stored = np.asarray(value, numpy_dtype(dtype)).view(STORED[dtype])
        return T.IntImm(STORED[dtype], int(stored))
    if dtype == "bool":
        return T.IntImm("bool", int(bool(value)))
    if dtype.startswith(("int", "uint")):
        return T.IntImm(dtype, int(value)) if abs(int(value)) < 2**63 else T.const(int(value), dtype)
    return T.FloatImm(dtype, float(value))


def dtype_of(expression: Expr) -> str:
    return str(expression.dtype) if hasattr(expression, "dtype") else str(expression.ty.dtype)


def cast(expression: Expr, dtype: str) -> Expr:
    if isinstance(expression, int):
        return const(expression, dtype)
    return T.Cast(dtype, expression) if dtype_of(expression) != dtype else expression


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Both sides are evaluated: neither may trap nor read outside its buffer.

    TVM simplifies each side by what the condition says of indices, also the limits that keep a load inside its buffer:
    what `yes` and `no` load must have been kept before (`KernelBuilder.keep`).
    """
    if isinstance(condition, bool):
        return yes if condition else no
    return T.Select(condition, yes, no)


def minimum(a: Expr, b: Expr) -> Expr:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else T.min(a, b)


def maximum(a: Expr, b: Expr) -> Expr:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else T.max(a, b)


_COMPARISONS = {"equal": T.EQ, "not_equal": T.NE, "less": T.LT, "less_equal": T.LE, "greater": T.GT,
                "greater_equal": T.GE}  # fmt: skip


def compare(op: str, a: Expr, b: Expr) -> Expr:
    """A comparison by name. Python's == and != give promises of an expression, which have no type yet.

    "not_equal" is false for nan, and so may be the negation of "equal", which TVM takes for the same.
    """
    if dtype_of(a) == "bool":  # which TVM would compare as floats
        a, b = cast(a, "int8"), cast(b, "int8")
    return _COMPARISONS[op](a, b)


#: Float type -> the integer of its width and the bits of its infinity.
_INFINITIES = {"float16": ("int16", 0x7C00), "float32": ("int32", 0x7F800000), "float64": ("int64", 0x7FF0 << 48)}


def is_nan(expression: Expr) -> Expr:
    """By its bits: a comparison of x with itself would be simplified away."""
    bits, infinity = _INFINITIES[dtype_of(expression)]
    magnitude = bitwise_and(reinterpret(expression, bits), (1 << int(bits[3:]) - 1) - 1)
    return T.GT(magnitude, T.IntImm(bits, infinity))


def logical(op: str, a: Expr, b: Expr) -> Expr:
    """`and` or `or`."""
    if isinstance(a, bool) or isinstance(b, bool):
        known, other = (a, b) if isinstance(a, bool) else (b, a)
        return other if known == (op == "and") else known
    return {"and": T.And, "or": T.Or}[op](a, b)


def reinterpret(expression: Expr, dtype: str) -> Expr:
    """The same bits under another type of the same width."""
    return T.reinterpret(dtype, expression)


def shift_left(a: Expr, bits: int) -> Expr:
    return T.shift_left(a, T.IntImm(dtype_of(a), bits))


def shift_right(a: Expr, bits: int) -> Expr:
    return T.shift_right(a, T.IntImm(dtype_of(a), bits))


def bitwise_and(a: Expr, mask: int) -> Expr:
    return T.bitwise_and(a, T.IntImm(dtype_of(a), mask))


def bitwise(op: str, a: Expr, b: Expr) -> Expr:
    """`and`, `or` or `xor` of two integers' bits."""
    return {"and": T.bitwise_and, "or": T.bitwise_or, "xor": T.bitwise_xor}[op](a, b)


def bitwise_not(a: Expr) -> Expr:
    return T.bitwise_not(a)


def shift(a: Expr, bits: Expr, left: bool) -> Expr:
    """By a number from 0 to one less than the type's bits; to the right, a signed type's sign is kept."""
    return T.shift_left(a, bits) if left else T.shift_right(a, bits)


def bitwise_or(a: Expr, bits: Expr) -> Expr:
    return T.bitwise_or(a, T.IntImm(dtype_of(a), bits) if isinstance(bits, int) else bits)


def intrinsic(name: str, *arguments: Expr) -> Expr:
    """An intrinsic that LLVM has an instruction for on vectors: sqrt, floor, ceil, nearbyint, fabs, trunc."""
    return {"sqrt": T.sqrt, "floor": T.floor, "ceil": T.ceil, "nearbyint": T.nearbyint, "abs": T.abs,
            "trunc": T.trunc}[name](*arguments)  # fmt: skip


def spread(scalar: Expr, lanes: int) -> Expr:
    """A vector that repeats one number."""
    return T.Broadcast(scalar, lanes)


def permute_floats(table: Expr, numbers: Expr) -> Expr:
    """For each of 16 lanes that of the 16 float32 which the lowest four bits of its int32 name. AVX-512."""
    return T.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", table, numbers)


def permute_bytes(table: Expr, numbers: Expr) -> Expr:
    """For each of 64 bytes that of the 64 which its lowest six bits name. AVX-512 VBMI."""
    return T.call_llvm_pure_intrin("int8x64", "llvm.x86.avx512.permvar.qi.512", table, numbers)


def dot_bytes(total: Expr, unsigned: Expr, signed: Expr, lanes: int) -> Expr:
    """Vectors of int32: to each lane, four products of the unsigned bytes of one by the signed bytes of the other."""
    return T.call_llvm_pure_intrin(
        f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", total,
        T.reinterpret(f"uint8x{4 * lanes}", unsigned), T.reinterpret(f"int8x{4 * lanes}", signed),
    )  # fmt: skip


def library(name: str, *arguments: Expr) -> Expr:
    """A function of C's mathematical library on float64, called for one element at a time."""
    return T.call_pure_extern("float64", name, *arguments)


def truncated_div(a: Expr, b: Expr) -> Expr:
    return T.truncdiv(a, b)


def truncated_mod(a: Expr, b: Expr) -> Expr:
    return T.truncmod(a, b)


def floor_div(a: Expr, b: Expr) -> Expr:
    return a // b if isinstance(a, int) and isinstance(b, int) else T.floordiv(a, b)


def floor_mod(a: Expr, b: Expr) -> Expr:
    return a % b if isinstance(a, int) and isinstance(b, int) else T.floormod(a, b)


#: TVM 0.27 crashes on vectors of bfloat16, which the instruction's intrinsic asks for: they are named here only.
_PAIR_PRODUCTS = """
declare <{lanes} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(<{lanes} x float>, <{both} x bfloat>, <{both} x bfloat>)

define linkonce_odr <{lanes} x float> @{name}(<{lanes} x float> %sums, <{lanes} x i32> %a, <{lanes} x i32> %b) #0 {{
  %x = bitcast <{lanes} x i32> %a to <{both} x bfloat>
  %y = bitcast <{lanes} x i32> %b to <{both} x bfloat>
  %total = call <{lanes} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(
    <{lanes} x float> %sums, <{both} x bfloat> %x, <{both} x bfloat> %y)
  ret <{lanes} x float> %total
}}

attributes #0 = {{ alwaysinline }}
"""


class KernelBuilder:
    """Writes one kernel's statements in order. Buffers hold `elements` items of `dtype` in a row."""

    def __init__(self) -> None:
        self._blocks: list[list[Any]] = [[]]
        self._params: list[Any] = []
        self._declarations: list[Any] = []
        self._names = 0
        self._lane: tuple[Expr, int] = (0, 1)  #: the open vector loop's variable and extent
        self._imports: dict[str, str] = {}  #: functions in LLVM's own language, by name
        self.begin = T.Var("begin", "int32")
        self.end = T.Var("end", "int32")

    def _name(self, hint: str) -> str:
        self._names += 1
        return f"{hint}{self._names}"

    # Buffers --------------------------------------------------------------------------------------------

    def parameter(self, name: str, dtype: str, elements: int) -> Buffer:
        """The next pointer parameter. Booleans are bytes in memory, and so is what no instruction computes with."""
        stored = "int8" if dtype == "bool" else STORED.get(dtype, dtype)
        if elements >= 2**31:
            raise UnsupportedError(f"a tensor of {elements} elements: kernels count in 32 bits")
        pointer = T.Var(name, ir.PointerType(ir.PrimType(stored)))
        # Alignment 4: inputs come from anybody's memory, and unaligned vector moves cost nothing when aligned.
        buffer = T.decl_buffer((max(elements, 1),), stored, name, data_alignment=min(4, _bytes(stored)))
        self._params.append(pointer)
        self._declarations.append(T.DeclBuffer(buffer, data=pointer))
        return buffer

    def registers(self, dtype: str, elements: int, name: str = "acc") -> Buffer:
        """An array that the compiler keeps in registers when every index is a constant after unrolling."""
        buffer = T.decl_buffer((elements,), STORED.get(dtype, dtype), self._name(name), scope="local")
        self._blocks[-1].append(T.AllocBuffer(buffer))
        return buffer

    def load(self, buffer: Buffer, index: Expr) -> Expr:
        return T.BufferLoad(buffer, [_index(index)])

    def store(self, buffer: Buffer, value: Expr, index: Expr) -> None:
        self._blocks[-1].append(T.BufferStore(buffer, value, [_index(index)]))

    def word(self, buffer: Buffer, index: Expr, elements: int = 4) -> Expr:
        """Neighbouring elements, 32 bits together, as one int32."""
        return T.reinterpret("int32", T.BufferLoad(buffer, [_ramp(index, elements)]))

    def add_products(self, sums: Buffer, at: Expr, word: Expr, weights: Buffer, index: Expr, lanes: int) -> None:
        """To each of `lanes` sums in int32 from `at` on, add four products: the unsigned bytes of `word` by the signed
        bytes from weights[index + 4 * lane] on. One instruction of x86, on vectors of 4, 8 or 16 lanes."""
        places = [_ramp(at, lanes)]
        total = T.call_llvm_pure_intrin(
            f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", T.BufferLoad(sums, places),
            T.reinterpret(f"uint8x{4 * lanes}", T.Broadcast(word, lanes)),
            T.BufferLoad(weights, [_ramp(index, 4 * lanes)]),
        )  # fmt: skip
        self._blocks[-1].append(T.BufferStore(sums, total, places))

    def load_lanes(self, buffer: Buffer, index: Expr, lanes: int, dtype: str = "") -> Expr:
        """`lanes` neighbours as one vector, outside of a vector loop; `dtype` may name elements of another width."""
        if not dtype or dtype == str(buffer.dtype):
            return T.BufferLoad(buffer, [_ramp(index, lanes)])
        wide = lanes * _bytes(dtype) // _bytes(str(buffer.dtype))
        return T.reinterpret(f"{dtype}x{lanes}", T.BufferLoad(buffer, [_ramp(index, wide)]))

    def store_lanes(self, buffer: Buffer, vector: Expr, index: Expr, lanes: int) -> None:
        """A vector to `lanes` neighbours."""
        self._blocks[-1].append(T.BufferStore(buffer, vector, [_ramp(index, lanes)]))

    def add_pair_products(self, sums: Buffer, at: Expr, word: Expr, weights: Buffer, index: Expr, lanes: int) -> None:
        """To each of `lanes` sums in float32 from `at` on, add two products: the two bfloat16 of `word` by those from
        weights[index + 2 * lane] on. One instruction of x86 (AVX512-BF16), on vectors of 4, 8 or 16 lanes, which takes
        subnormal numbers for zero."""
        places, name = [_ramp(at, lanes)], f"tensorc_dpbf16ps_{lanes}"
        self._imports[name] = _PAIR_PRODUCTS.format(name=name, lanes=lanes, both=2 * lanes, bits=32 * lanes)
        total = T.call_pure_extern(
            f"float32x{lanes}", name, T.BufferLoad(sums, places), T.Broadcast(word, lanes),
            T.reinterpret(f"int32x{lanes}", T.BufferLoad(weights, [_ramp(index, 2 * lanes)])),
        )  # fmt: skip
        self._blocks[-1].append(T.BufferStore(sums, total, places))

    def prefetch(self, buffer: Buffer, index: Expr) -> None:
        """Ask for the cache line of `buffer[index]`; the address may lie outside the buffer."""
        address = T.address_of(T.BufferLoad(buffer, [_index(index)]))
        zero, three, one = (T.IntImm("int32", n) for n in (0, 3, 1))
        self._blocks[-1].append(T.Evaluate(T.call_intrin("void", "tirx.prefetch", address, zero, three, one)))

    def bind(self, value: Expr, name: str = "t") -> Expr:
        """Compute once; gives the variable. A plain number stays one."""
        if isinstance(value, int | float):
            return value
        variable = T.Var(self._name(name), dtype_of(value))
        self._blocks[-1].append(T.Bind(variable, value))
        return variable

    def keep(self, value: Expr) -> Expr:
        """As `bind`, for values that are computed with rather than addressed by.

        They go through a register slot, not a variable: TVM's simplifier substitutes variables into every condition
        that it tries to prove, which takes minutes on transcendental functions.
        """
        if isinstance(value, int | float):
            return value
        lane, lanes = self._lane
        slot = T.decl_buffer((lanes,), dtype_of(value), self._name("r"), scope="local")
        # Allocated once a task, outside every loop that is unrolled: unrolling would allocate it again.
        self._blocks[min(1, len(self._blocks) - 1)].insert(0, T.AllocBuffer(slot))
        self.store(slot, value, lane)
        return self.load(slot, lane)

    # Control --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _loop(self, kind: Any, extent: Expr, begin: Expr, name: str) -> Iterator[Expr]:
        if isinstance(extent, int) and extent == 1:
            yield begin  # no loop: keeps the code that is printed and compiled small
            return
        variable = T.Var(self._name(name), "int32")
        self._blocks.append([])
        yield variable
        body = _sequence(self._blocks.pop())
        if kind == T.ForKind.VECTORIZED and _binds_and_calls(body):
            kind = T.ForKind.SERIAL
        self._blocks[-1].append(T.For(variable, _index(begin), _index(extent), kind, body))

    def serial(self, extent: Expr, begin: Expr = 0, name: str = "i") -> contextlib.AbstractContextManager[Expr]:
        return self._loop(T.ForKind.SERIAL, extent, begin, name)

    def unrolled(self, extent: int, name: str = "u") -> contextlib.AbstractContextManager[Expr]:
        return self._loop(T.ForKind.UNROLLED, extent, 0, name)

    @contextlib.contextmanager
    def vector(self, lanes: int, name: str = "v") -> Iterator[Expr]:
        """Vector loops do not nest."""
        with self._loop(T.ForKind.VECTORIZED, lanes, 0, name) as lane:
            self._lane = (lane, lanes)
            yield lane
        self._lane = (0, 1)

    def tasks(self) -> contextlib.AbstractContextManager[Expr]:
        """The outermost loop, over this call's share of the tasks."""
        return self._loop(T.ForKind.SERIAL, self.end - self.begin, self.begin, "task")

    def when(self, condition: Expr, yes: Callable[[], None], no: Callable[[], None] | None = None) -> None:
        """`yes()` writes what happens where `condition` holds, `no()` the rest; only one where it is known by now."""
        if isinstance(condition, bool):
            chosen = yes if condition else no
            if chosen is not None:
                chosen()
            return
        branches = []
        for write in (yes, no):
            self._blocks.append([])
            if write is not None:
                write()
            branches.append(self._blocks.pop())
        otherwise = _sequence(branches[1]) if branches[1] else None
        self._blocks[-1].append(T.IfThenElse(condition, _sequence(branches[0]), otherwise))

    def function(self, name: str, in_place: bool = False) -> Any:
        """The finished PrimFunc; `in_place` says that a parameter which is written may be one that is read."""
        (statements,) = self._blocks
        body = _sequence([*self._declarations, *statements])
        for text in self._imports.values():
            body = T.AttrStmt(_index(0), "pragma_import_llvm", ir.StringImm(text), body)
        function = T.PrimFunc([*self._params, self.begin, self.end], body)
        return function.with_attr("global_symbol", name).with_attr("tirx.noalias", not in_place)


def _binds_and_calls(body: Any) -> bool:
    """Whether a loop's body has variables of its own and calls the C library. TVM vectorises the variables, then takes
    the statement that calls apart into single lanes, where they are not to be found."""
    found: set[str] = set()

    def call(node: Any) -> None:
        if getattr(node.op, "name", "") == "tirx.call_pure_extern":
            found.add("call")

    def bind(_: Any) -> None:
        found.add("bind")

    structural_walk(body, [(ir.Call, call), (T.Bind, bind)])
    return len(found) == 2


def _bytes(dtype: str) -> int:
    return max(int("".join(ch for ch in dtype if ch.isdigit())) // 8, 1)


def _index(value: Expr) -> Expr:
    return T.IntImm("int32", value) if isinstance(value, int) else value


def _ramp(first: Expr, lanes: int) -> Expr:
    return _index(first) if lanes == 1 else T.Ramp(_index(first), _index(1), lanes)


def _sequence(statements: Sequence[Any]) -> Any:
    if not statements:
        return T.Evaluate(T.IntImm("int32", 0))
    return statements[0] if len(statements) == 1 else T.SeqStmt(list(statements))
