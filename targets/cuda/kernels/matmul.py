"""Matrix products: by packed constant weights, and of two computed matrices."""

from __future__ import annotations

import math

import numpy as np

from targets.cuda.gpu import Gpu
from targets.cuda.kernels.gemv import lower_gemv
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from targets.cuda.kernels.operands import Matrix, lies_in_chunks, operand_dtype
from targets.cuda.kernels.warpgroups import engine_of
from targets.cuda.schedules import GEMV_ROWS, Extents, GemmSchedule, GemvSchedule, gemm_schedule
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.lowering.indexing import Index, unravel
from tensorc.lowering.tir import Expr
from tensorc.search.schedule import Schedule, checked


def extents_of_matmul(node: Node) -> Extents:
    """Of a product with packed weights the batch counts as rows."""
    *lead, columns = static_shape(node.output.shape)
    depth = static_shape(node.inputs[0].shape)[-1]
    a, b = node.inputs
    if node.op == "matmul_packed":
        return Extents(1, math.prod(lead), columns, depth, lies_in_chunks(a, b.dtype))
    both = bool(node.attrs["transpose_b"]) and lies_in_chunks(a, b.dtype) and lies_in_chunks(b, a.dtype)
    return Extents(math.prod(lead[:-1]), lead[-1], columns, depth, both)


def lower_matmul_packed(body: Graph, node: Node, gpu: Gpu, given: Schedule | None = None) -> Kernel:
    """A [.., K] times constant weights in panels, which the kernel has packed in chunks."""
    a, b = node.inputs
    if b not in body.inputs:
        raise UnsupportedError("the panels of a packed product must be an input of its group")
    *lead, columns = static_shape(node.output.shape)
    few = math.prod(lead) <= GEMV_ROWS and node.output.dtype != "int32"
    if isinstance(given, GemvSchedule) or (given is None and few):
        return lower_gemv(body, node, gpu, given)
    dtype = operand_dtype(a, b, gpu)
    extents = extents_of_matmul(node)
    depth = extents.depth
    schedule = checked(given, GemmSchedule) or gemm_schedule(extents, dtype, gpu)
    along_k = schedule.wants_chunks_along_depth(dtype)

    def plain(data: np.ndarray) -> np.ndarray:
        return data.transpose(0, 2, 1).reshape(1, -1, depth)[:, :columns]

    engine, weights, pack = engine_of(schedule)
    packing = pack(f"{columns} columns", 1, columns, depth, dtype, along_k, plain)
    group = CudaGroup(body, gpu, schedule.threads, {b: packing})
    operands = (
        Matrix(group, a, dtype, (True, True), extents.rows, depth, lambda _, x, k: [*unravel(x, lead), k]),
        weights(group, b, along_k, columns, depth),
    )
    return engine(
        group, extents, schedule, operands, group.sums_of(node), lambda _, row, column: [*unravel(row, lead), column]
    ).lower()


def lower_matmul(body: Graph, node: Node, gpu: Gpu, given: Schedule | None = None) -> Kernel:
    """A product of two computed matrices, or of batches of them."""
    a, b = node.inputs
    dtype = operand_dtype(a, b, gpu)
    extents = extents_of_matmul(node)
    batch, rows, columns, depth = static_shape(node.output.shape)[:-2], extents.rows, extents.columns, extents.depth
    schedule = checked(given, GemmSchedule) or gemm_schedule(extents, dtype, gpu)
    transposed = bool(node.attrs["transpose_b"])
    # Tensor cores transpose 16 bits on the way, no others.
    along_k = transposed or schedule.wants_chunks_along_depth(dtype)
    group = CudaGroup(body, gpu, schedule.threads)

    def in_batch(number: Expr, shape: tuple[int, ...]) -> list[Expr]:
        """The index in an operand's own batch, which may be broadcast."""
        own = shape[:-2]
        where = unravel(number, batch)[len(batch) - len(own) :]
        return [0 if extent == 1 else i for i, extent in zip(where, own, strict=True)]

    def left(number: Expr, x: Expr, k: Expr) -> Index:
        return [*in_batch(number, static_shape(a.shape)), x, k]

    def right(number: Expr, x: Expr, k: Expr) -> Index:
        return [*in_batch(number, static_shape(b.shape)), *((x, k) if transposed else (k, x))]

    operands = (
        Matrix(group, a, dtype, (True, True), rows, depth, left),
        Matrix(group, b, "int8" if dtype == "uint8" else dtype, (along_k, transposed), columns, depth, right),
    )
    return engine_of(schedule)[0](
        group, extents, schedule, operands, group.sums_of(node),
        lambda number, row, column: [*unravel(number, batch), row, column],
    ).lower()  # fmt: skip
