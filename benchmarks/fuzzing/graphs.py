"""Random valid ONNX graphs: a graph under construction, and how its values are chosen.

Which operators there are, and what each asks of its inputs, is in operators.py. Of every value it is known how far
engines may differ in it (`loose`, see compare.py) and whether it is `tame`, finite and small. Operators that jump at
certain arguments (comparisons, rounding, casts to integers) are given values that all engines have alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.fuzzing.case import ROUNDED, Case, reads
from benchmarks.fuzzing.compare import EPSILONS

FLOATS = ("float32", "float64", "float16", "bfloat16")
INTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
TYPES = (*FLOATS, *INTS, "bool")
#: Those that engines have most operators for. Bodies are of them: ONNX Runtime refuses a graph for one node.
COMMON = ("float32", "float64", "int64", "int32", "bool")
#: The versions of the domains besides ONNX's own one.
DOMAINS = {"ai.onnx.ml": 5, "ai.onnx.preview": 1, "ai.onnx.preview.training": 1, "com.microsoft": 1}
#: Odd sizes around the vectors of processors, and small ones; 0 comes by itself, see `Graph.dims`.
_SIZES = (1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 31, 32, 33, 65)
_MOST_ELEMENTS = 4096


class UnfitError(Exception):
    """The operator cannot be placed here: another is tried."""


@dataclass(frozen=True)
class Value:
    name: str
    dtype: str
    shape: tuple[int, ...]
    loose: float = 0.0
    tame: bool = True

    @property
    def rank(self) -> int:
        return len(self.shape)


class Graph:
    """A graph under construction, for one opset; every choice comes from `rng`."""

    def __init__(self, rng: np.random.Generator, opset: int, prefix: str = ""):
        self.rng = rng
        self.opset = opset
        #: What the names of values begin with: a body of a node names none as its surroundings do.
        self.prefix = prefix
        self.types: Sequence[str] = TYPES
        #: What a body may read of its surroundings, and its parameters.
        self.outer: dict[str, Value] = {}
        self.parameters: list[Value] = []
        self.values: list[Value] = []
        self.inputs: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[onnx.NodeProto] = []
        #: Results whose shape depends on data: nobody reads them. Their axes have names instead of sizes.
        self.ends: list[tuple[Value, onnx.ValueInfoProto]] = []
        #: What ONNX's own inference does not find out by itself.
        self.declared: list[onnx.ValueInfoProto] = []
        #: Whether there are infinities and nan in the data, and sizes of 0.
        self.special = rng.random() < 0.15
        self.empty = rng.random() < 0.07

    # Choices --------------------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, items: Sequence[Any]) -> Any:
        if not len(items):
            raise UnfitError
        return items[int(self.rng.integers(len(items)))]

    def number(self, low: int, high: int) -> int:
        """low <= number <= high."""
        if low > high:
            raise UnfitError
        return int(self.rng.integers(low, high + 1))

    def dims(self, low: int = 0, high: int = 4, most: int = _MOST_ELEMENTS) -> tuple[int, ...]:
        """A shape of low to high axes."""
        shape: list[int] = []
        for _ in range(self.number(low, high)):
            size = 0 if self.empty and self.chance(0.3) else self.pick(_SIZES)
            shape.append(size if size * int(np.prod(shape)) <= most else 1)
        return tuple(shape)

    def partner(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape that broadcasts with `shape`, often in one direction, sometimes in both."""
        other = [size if self.chance(0.7) else 1 for size in shape]
        if self.chance(0.15):
            other = [self.pick(_SIZES[:9]) if size == 1 else now for size, now in zip(shape, other, strict=True)]
        return tuple(other[self.number(0, len(other)) if self.chance(0.3) else 0 :])

    def axis(self, rank: int) -> int:
        """Any axis, from the front or from the back."""
        if not rank:
            raise UnfitError
        return self.number(-rank, rank - 1)

    def axes(self, rank: int, low: int = 0) -> list[int]:
        """Different axes, each from the front or the back, in any order."""
        chosen = self.rng.permutation(rank)[: self.number(min(low, rank), rank)]
        return [int(a) - (rank if self.chance(0.3) else 0) for a in chosen]

    # Values ---------------------------------------------------------------------------------------------

    def data(self, dtype: str, shape: Sequence[int], low: float | None = None, high: float | None = None) -> np.ndarray:
        """Random elements, between bounds if there are any."""
        rng = self.rng
        if dtype == "bool":
            return np.asarray(rng.integers(0, 2, shape), bool)
        if dtype in FLOATS:
            if low is not None and high is not None:
                array = rng.uniform(low, high, shape)
            else:
                array = rng.standard_normal(shape) * self.pick((1, 1, 1, 0.1, 8))
            if self.chance(0.2):
                array = np.rint(array)
            result = np.asarray(array).astype(_numpy(dtype))
            if self.special and low is None and result.size and self.chance(0.7):
                places = rng.random(shape) < 0.1
                words = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0]).astype(_numpy(dtype))
                result = np.where(places, words[rng.integers(0, 5, shape)], result)
            return np.asarray(result)
        info = np.iinfo(dtype)
        if low is None or high is None:
            low, high = (info.min, info.max) if self.chance(0.1) else (max(info.min, -9), 9)
        return np.asarray(rng.integers(int(low), int(high), shape, dtype=dtype, endpoint=True))

    def new(self, dtype: str, shape: Sequence[int], low: float | None = None, high: float | None = None,
            constant: bool | None = None) -> Value:  # fmt: skip
        """A new input or initializer."""
        return self.given(self.data(dtype, shape, low, high), self.chance(0.3) if constant is None else constant)

    def given(self, array: np.ndarray | Sequence[int], constant: bool = True) -> Value:
        """A value of these elements: an initializer, or an input."""
        array = np.asarray(array, None if isinstance(array, (np.ndarray, np.generic)) else np.int64)
        name = f"{self.prefix}{'c' if constant else 'x'}{len(self.inputs) + len(self.constants)}"
        (self.constants if constant else self.inputs)[name] = array
        with np.errstate(all="ignore"):
            tame = array.dtype == bool or not array.size or bool(np.all(np.abs(array.astype(np.float64)) < 100))
        value = Value(name, array.dtype.name, array.shape, tame=tame)
        if not constant or self.chance(0.3):
            self.values.append(value)
        return value

    def any(self, dtypes: Sequence[str], low: int = 0, high: int = 4, exact: bool = False, tame: bool = False,
            fits: Callable[[Value], bool] = lambda _: True) -> Value:  # fmt: skip
        """A value there is already, or a new one, of one of the types and of low to high axes."""
        known = [v for v in self.values if v.dtype in dtypes and low <= v.rank <= high and fits(v)
                 and not ((exact or v.dtype in INTS) and v.loose) and not (tame and not v.tame)]  # fmt: skip
        if known and self.chance(0.8):
            return self.pick(known[-4:]) if self.chance(0.6) else self.pick(known)
        for _ in range(20):
            shape = self.dims(low, high)
            dtype = self.dtype(dtypes)
            if fits(Value("", dtype, shape)):
                bounds = (0 if dtype in INTS and dtype[0] == "u" else -9, 9) if tame else (None, None)
                return self.new(dtype, shape, *bounds)
        raise UnfitError

    def like(self, dtype: str, shape: Sequence[int], exact: bool = False, **more: Any) -> Value:
        """A value of this very type."""
        shape = tuple(shape)
        exact = exact or dtype in INTS
        known = [v for v in self.values if v.dtype == dtype and v.shape == shape and not (exact and v.loose)]
        return self.pick(known) if known and self.chance(0.6) and not more else self.new(dtype, shape, **more)

    def dtype(self, dtypes: Sequence[str]) -> str:
        """One of the types, the common ones more often."""
        weights = np.array([6.0 if t == "float32" else 2.0 if t in ("int64", "float64", "float16") else 1.0
                            for t in dtypes])  # fmt: skip
        if not len(dtypes):
            raise UnfitError
        return str(self.rng.choice(list(dtypes), p=weights / weights.sum()))

    # Nodes ----------------------------------------------------------------------------------------------

    def node(self, op: str, inputs: Sequence[Value | None], outputs: int | Sequence[bool] = 1, exact: bool = False,
             loose: float | None = None, **attributes: Any) -> None:  # fmt: skip
        """Add a node. `outputs` is their number, or says of each whether it is there.

        `exact`: its result is as exact as its inputs are; `loose` says it outright.
        """
        node = self._node(op, inputs, [True] * outputs if isinstance(outputs, int) else outputs, attributes)
        node.doc_string = "" if exact else ROUNDED
        made = [name for name in node.output if name]
        types = self._inferred([*self.nodes, node], made)
        self.nodes.append(node)
        sources = [value for value in inputs if value is not None]
        worst = max((value.loose for value in sources), default=0.0)
        floats = [EPSILONS[v.dtype] for v in sources if v.dtype in EPSILONS]
        for name, (dtype, shape) in zip(made, types, strict=True):
            rounded = worst if exact else max([worst, EPSILONS.get(dtype, 0.0), *floats])
            off = rounded if dtype in FLOATS else loose or 0.0  # exact, unless it was said to be quantized
            self.values.append(Value(name, dtype, shape, off, tame=exact and all(v.tame for v in sources)))

    def inner(self, op: str, inputs: Sequence[Value | None], outputs: int | Sequence[bool] = 1,
              **attributes: Any) -> list[Value]:  # fmt: skip
        """Add a node whose results are for the caller alone: no tensors, or of types that nobody else takes."""
        node = self._node(op, inputs, [True] * outputs if isinstance(outputs, int) else outputs, attributes)
        self.nodes.append(node)
        worst = max((value.loose for value in inputs if value is not None), default=0.0)
        return [Value(name, "", (), worst) for name in node.output]

    def end(self, op: str, inputs: Sequence[Value | None], results: Sequence[tuple[str, int]], loose: bool = False,
            **attributes: Any) -> None:  # fmt: skip
        """Add a node whose results, of these types and numbers of axes, have shapes that only its run settles."""
        worst = max(value.loose for value in inputs if value is not None)
        found = [
            (dtype, (None,) * rank, max(worst, EPSILONS.get(dtype, 0.0)) if loose else worst) for dtype, rank in results
        ]
        self.declare(op, inputs, found, **attributes)

    def declare(self, op: str, inputs: Sequence[Value | None],
                results: Sequence[tuple[str, tuple[int | None, ...], float]], **attributes: Any) -> None:  # fmt: skip
        """Add a node whose results have these types, shapes (None: settled by its run) and errors, by our word."""
        node = self._node(op, inputs, [True] * len(results), attributes)
        self.nodes.append(node)
        for name, (dtype, shape, off) in zip(node.output, results, strict=True):
            info = _info(name, dtype, [f"{name}_{axis}" if size is None else size for axis, size in enumerate(shape)])
            if None in shape:
                self.ends.append((Value(name, dtype, (), off), info))
            else:
                self.declared.append(info)
                self.values.append(Value(name, dtype, shape, off, tame=False))

    def _node(self, op: str, inputs: Sequence[Value | None], outputs: Sequence[bool],
              attributes: dict[str, Any]) -> onnx.NodeProto:  # fmt: skip
        names = [value.name if value is not None else "" for value in inputs]
        while names and not names[-1]:
            names.pop()
        first = sum(len(node.output) for node in self.nodes)
        made = [f"{self.prefix}y{first + i}" if there else "" for i, there in enumerate(outputs)]
        given = {key: value for key, value in attributes.items() if value is not None and value != []}
        return helper.make_node(op, names, made, **given)

    # Bodies ---------------------------------------------------------------------------------------------

    def body(self, parameters: Iterable[tuple[str, tuple[int, ...], float]] = ()) -> Graph:
        """The graph of an attribute of the next node: it reads what there is here, and its parameters."""
        inner = Graph(self.rng, self.opset, f"{self.prefix}b{self.rng.integers(1 << 30)}_")
        inner.special, inner.empty = self.special, self.empty
        inner.types = COMMON
        inner.outer = {**self.outer, **{value.name: value for value in (*self.parameters, *self.values)}}
        for index, (dtype, shape, off) in enumerate(parameters):
            inner.parameters.append(Value(f"{inner.prefix}p{index}", dtype, shape, off, tame=False))
        inner.values = [*self.values, *inner.parameters]
        return inner

    def close(self, inner: Graph, results: Sequence[Value]) -> onnx.GraphProto:
        """The finished body. What it was given as inputs is given to this graph."""
        self.inputs.update(inner.inputs)
        return helper.make_graph(
            inner.nodes, inner.prefix + "body", [_info(v.name, v.dtype, v.shape) for v in inner.parameters],
            [_info(v.name, v.dtype, v.shape) for v in results],
            [numpy_helper.from_array(array, name) for name, array in inner.constants.items()],
        )  # fmt: skip

    def _inferred(self, nodes: Sequence[onnx.NodeProto], names: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
        """Types and shapes by ONNX's own inference; UnfitError where it does not know, or finds a fault."""
        try:
            model = onnx.shape_inference.infer_shapes(self.model(nodes, []), strict_mode=True, data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError) as error:  # the latter is its own fault
            raise UnfitError from error
        found = {value.name: value.type.tensor_type for value in model.graph.value_info}
        result = []
        for name in names:
            type = found.get(name)
            if type is None or not type.HasField("shape") or type.elem_type not in _CODES:
                raise UnfitError
            if not all(dim.HasField("dim_value") for dim in type.shape.dim):
                raise UnfitError
            shape = tuple(dim.dim_value for dim in type.shape.dim)
            if np.prod(shape, dtype=object) > 8 * _MOST_ELEMENTS or len(shape) > 6:
                raise UnfitError
            result.append((_CODES[type.elem_type], shape))
        return result

    def model(self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[Value]) -> onnx.ModelProto:
        used = {name for node in nodes for name in reads(node)} | {value.name for value in outputs}
        around = [value for value in (*self.outer.values(), *self.parameters) if value.name in used]
        graph = helper.make_graph(
            nodes, "fuzz",
            [_info(name, array.dtype.name, array.shape) for name, array in self.inputs.items() if name in used]
            + [_info(value.name, value.dtype, value.shape) for value in around],
            [_info(value.name, value.dtype, value.shape) for value in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items() if name in used],
            value_info=[info for info in self.declared if info.name not in {value.name for value in outputs}],
        )  # fmt: skip
        domains = {"": self.opset} | {node.domain: DOMAINS[node.domain] for node in nodes if node.domain}
        opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def case(self) -> Case:
        """The graph as a case: its outputs are what nobody reads, and now and then what is read, too."""
        read = {name for node in self.nodes for name in reads(node)}
        made = {name for node in self.nodes for name in node.output}
        outputs = [v for v in self.values if v.name in made and (v.name not in read or self.chance(0.1))]
        model = self.model(self.nodes, outputs)
        model.graph.output.extend(info for _, info in self.ends)
        outputs += [value for value, _ in self.ends]
        used = {value.name for value in model.graph.input}
        inputs = {name: array for name, array in self.inputs.items() if name in used}
        return Case(model, inputs, {value.name: value.loose for value in outputs})


def _numpy(dtype: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def _info(name: str, dtype: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(_numpy(dtype)), shape)


_CODES = {helper.np_dtype_to_tensor_dtype(_numpy(dtype)): dtype for dtype in TYPES}
