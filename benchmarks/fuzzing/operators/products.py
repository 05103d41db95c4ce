"""Products of matrices."""

from __future__ import annotations

from benchmarks.fuzzing.graphs import INTS, Graph, UnfitError
from benchmarks.fuzzing.operators.registry import place, types


@place("MatMul")
def _matmul(g: Graph, name: str) -> None:
    a = g.any(types(g, name), low=1, fits=lambda v: v.shape[-1] > 0)
    matrix = (*g.partner(a.shape[:-2]), a.shape[-1], g.pick((1, 2, 3, 8, 16, 17, 33)))
    g.node(name, [a, g.like(a.dtype, (a.shape[-1],) if g.chance(0.2) else matrix)])


@place("Gemm")
def _gemm(g: Graph, name: str) -> None:
    a = g.any(types(g, name), 2, 2, fits=lambda v: 0 not in v.shape)
    ta, tb = g.number(0, 1), g.number(0, 1)
    rows, inner = a.shape[::-1] if ta else a.shape
    columns = g.pick((1, 2, 7, 16, 40))
    b = g.like(a.dtype, (columns, inner) if tb else (inner, columns))
    c = g.like(a.dtype, g.pick(((), (columns,), (1, columns), (rows, 1), (rows, columns)))) if g.chance(0.6) else None
    factors = {k: float(g.pick((0.5, 2.0, -1.0, 0.0))) for k in ("alpha", "beta") if g.chance(0.3)}
    if a.dtype in INTS:  # small ones: engines compute them in floats, too
        factors = {}
        a, b, c = (v and g.new(v.dtype, v.shape, 0, 9) for v in (a, b, c))
    g.node(name, [a, b, c], transA=ta or None, transB=tb or None, **factors)


@place("MatMulNBits", domain="com.microsoft")
def _few_bits(g: Graph, name: str) -> None:
    if g.special:
        raise UnfitError  # ONNX Runtime's blocks may round what is multiplied
    width, block = g.pick((4, 4, 8)), g.pick((16, 32, 64))
    depth, columns = g.number(1, 100), g.number(1, 70)
    groups = -(-depth // block)
    a = g.like("float32", (*g.dims(0, 2, 20), depth))
    codes = g.given(g.data("uint8", (columns, groups, block * width // 8)))
    scales = g.given(g.data("float32", (columns * groups,), 0.01, 0.1))
    zeros = g.given(g.data("uint8", (columns * -(-groups * width // 8),))) if g.chance(0.5) else None
    g.declare(name, [a, codes, scales, zeros], [("float32", (*a.shape[:-1], columns), max(a.loose, 1e-3))],
              domain="com.microsoft", K=depth, N=columns, bits=width, block_size=block)  # fmt: skip


@place("Einsum")
def _einsum(g: Graph, name: str) -> None:
    equation, ranks = g.pick((("ij,jk->ik", (2, 2)), ("bij,bjk->bik", (3, 3)), ("ij->ji", (2,)), ("i,i->", (1, 1)),
                              ("bi,bj->bij", (2, 2)), ("ii->i", (2,)), ("...ij,...jk->...ik", (3, 3)),
                              ("bhwc,hkc->bhwk", (4, 3)), ("ij,ij->i", (2, 2))))  # fmt: skip
    sizes = {letter: g.number(1, 9) for letter in "bijkhwc."}
    dtype = g.dtype(types(g, name))
    terms = equation.split("->")[0].replace("...", ".").split(",")
    del ranks
    g.node(name, [g.like(dtype, [sizes[letter] for letter in term]) for term in terms], equation=equation)


@place("Det")
def _det(g: Graph, name: str) -> None:
    if g.special:
        raise UnfitError  # what an infinity becomes depends on the order of elimination
    size = g.number(1, 7)
    g.node(name, [g.like(g.dtype(types(g, name)), (*g.dims(0, 2, 20), size, size))])
