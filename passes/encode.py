"""Weights in few bits: products by constant matrices take them as codes and scales, `matmul_coded`.

What is multiplied by them stays float32; where its second moments are known, symmetric integers are rounded such that
the products suffer least (`tensorc.formats.compensated`). Formats that are not codes times scales
(`tensorc.formats.coded` says which are) have no kernel: weights are rounded to them and stay float32, which shows what
a format costs in accuracy and saves nothing. Convolutions and tables that rows are looked up in stay as they are.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tensorc.errors import TensorcWarning, UserError
from tensorc.formats import Encoded, Format, find_format
from tensorc.formats.coded import coded, is_coded
from tensorc.formats.compensated import compensated
from tensorc.formats.integers import Integers
from tensorc.ir.graph import Constant, Graph, Node, Value
from tensorc.quantization.calibration import Quantizer, Replacement

#: Of float32's bytes, so large a share is the most that encoded weights may take: what saves less stays float32.
_WORTH = 0.5


@dataclass
class _Found:
    """Of all graphs that a pass has met."""

    encoded: int = 0
    kept: int = 0
    convolutions: int = 0
    elements: int = 0
    nbytes: int = 0
    signal: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class EncodeWeights(Quantizer):
    """To the format of the name `format`, but for the layers `skipped`; `moments` of what weights are multiplied with,
    by the names of values."""

    format: str
    skipped: frozenset[str] = frozenset()
    moments: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)
    name: ClassVar[str] = "encode-weights"
    found: _Found = field(default_factory=_Found, compare=False)

    def watched(self, graph: Graph) -> list[Value]:  # noqa: ARG002  (nothing has a range)
        return []

    def multiplied(self, graph: Graph) -> list[Value]:
        return list(dict.fromkeys(node.inputs[0] for node in graph.nodes if _is_product(node)))

    def replacements(self, graph: Graph) -> list[Replacement]:
        made: dict[tuple[Value, int], Encoded | None] = {}
        found = []
        for node in list(graph.nodes):
            self.found.convolutions += node.op == "conv" and node.inputs[1].constant is not None
            if not _is_product(node) or node.output.name in self.skipped:
                continue
            key = node.inputs[1], node.attrs["transpose_b"]
            if key not in made:
                made[key] = self._encoded(node)
            encoded = made[key]
            if encoded is not None:
                found.append(Replacement((node.output.name,), node.output, self._product(graph, node, encoded)))
        return found

    def note(self) -> str:
        found = self.found
        if not found.encoded:
            return f"none: {self._left() or 'there are no products by constant matrices'}"
        ratio = -10 * math.log10(found.noise / found.signal) if found.noise and found.signal else math.inf
        how = "in" if is_coded(find_format(self.format)) else "rounded to"
        rest = self._left()
        return (
            f"{found.encoded} matri{'x' if found.encoded == 1 else 'ces'} {how} {self.format}, "
            f"{8 * found.nbytes / found.elements:.2f} bits a weight, {ratio:.1f} dB over the error of rounding"
            + (f"; {rest}" if rest else "")
        )

    def _left(self) -> str:
        found = self.found
        kept = [f"{found.kept} small ones"] if found.kept else []
        kept += [f"{found.convolutions} convolution{'s' * (found.convolutions != 1)}"] if found.convolutions else []
        return f"{' and '.join(kept)} in float32" if kept else ""

    def _encoded(self, node: Node) -> Encoded | None:
        """None where it is not worth it."""
        weights = node.inputs[1]
        assert weights.constant is not None
        format, axis = find_format(self.format), 1 if node.attrs["transpose_b"] else 0
        if format.nbytes(weights.shape, axis) > _WORTH * weights.type.nbytes:
            self.found.kept += 1
            return None
        data = weights.constant.numpy()
        try:
            encoded = self._rounded(format, data, node.inputs[0].name, axis)
        except UserError as error:
            raise UserError(f"the weights %{weights.name}: {error}") from error
        wide = data.astype(np.float64)
        self.found.encoded += 1
        self.found.elements += data.size
        self.found.signal += float(np.square(wide).sum())
        self.found.noise += float(np.square(wide - encoded.dequantize()).sum())
        self.found.nbytes += coded(encoded).nbytes if is_coded(format) else data.nbytes
        return encoded

    def _rounded(self, format: Format, data: np.ndarray, multiplied: str, axis: int) -> Encoded:
        moments = self.moments.get(multiplied)
        if moments is None or not isinstance(format, Integers):
            return format.quantize(data, axis)
        return compensated(format, data, moments, axis)

    def _product(self, graph: Graph, node: Node, encoded: Encoded) -> Value:
        x, weights = node.inputs
        assert weights.constant is not None
        label = weights.constant.label or weights.name
        if is_coded(encoded.format):
            return encoded_product(graph, x, encoded, weights.name, label)
        warnings.warn(f"no kernel takes weights in {self.format}: they are rounded to it and stay float32",
                      TensorcWarning, stacklevel=2)  # fmt: skip
        rounded = graph.add_constant(Constant.of(encoded.dequantize(), label=label), weights.name)
        return graph.add("matmul", [x, rounded], node.attrs, name=node.output.name)


def _is_product(node: Node) -> bool:
    if node.op != "matmul" or node.output.dtype != "float32":
        return False
    x, w = node.inputs
    return w.constant is not None and x.constant is None and w.type.rank == 2 and w.type.size > 0


def encoded_product(graph: Graph, x: Value, weights: Encoded, name: str = "w", label: str = "") -> Value:
    """x [..., K] times the encoded [N, K] transposed, or the encoded [K, N]: scales are shared along K. Of the weights
    `name` is the value's and `label` the model's."""
    made = coded(weights)
    if made.permutation is not None:
        order = graph.constant(made.permutation.astype(np.int64))
        x = graph.add("gather", [x, order], {"axis": x.type.rank - 1})
    given = {"codes": made.codes, "scales": made.scales, "zeros": made.zeros}
    parts = [
        graph.add_constant(Constant.of(part, label=label or name), f"{name}.{what}")
        for what, part in given.items()
        if part is not None
    ]
    attrs = {"width": made.width, "group": made.group, "element": made.element, "zero": made.zero}
    product = graph.add("matmul_coded", [x, *parts], attrs)
    return product if made.factor == 1 else graph.add("mul", [product, graph.constant(np.float32(made.factor))], {})
