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
