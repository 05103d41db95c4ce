"""Runs a case on tensorc and on engines that know better, each in a process of its own, and says how it ended.

equal        tensorc agrees with ONNX Runtime, or else with the reference evaluator of the onnx package, or with what
             one of them says in double precision (widen.py)
sensitive    it does not, but the engine's own result moves as far when its inputs, and what is rounded on the way,
             move by a rounding; or operators meet nan or infinities for which they are not specified
unsupported  refused as that, in words
unchecked    no other engine takes the case (tensorc may have refused it as wrong)
wrong        another result than all engines have
error        refused as a wrong model, or by a fault of tensorc, though another engine takes it
crash, hang  the process died, or did not answer in time
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.fuzzing.case import ROUNDED, Arrays, Case, load_arrays, reads
from benchmarks.fuzzing.compare import EPSILONS, differences
from benchmarks.fuzzing.shrink import showing, with_output
from benchmarks.fuzzing.widen import factors_of_sizes, narrowed, widened
from tensorc.search.worker import Worker, WorkerError

STATUSES = ("equal", "sensitive", "unsupported", "unchecked", "wrong", "error", "crash", "hang")
FINDINGS = ("wrong", "error", "crash", "hang")
_WORKER = Path(__file__).with_name("worker.py")
#: How many times further than by a perturbed engine a result may be off.
_SENSITIVITY = 8.0


@dataclass(frozen=True)
class Outcome:
    """`detail` is what was said, or what differs; `engine` whose answer counted."""

    status: str
    detail: str = ""
    engine: str = ""

    @property
    def finding(self) -> bool:
        return self.status in FINDINGS


@dataclass(frozen=True)
class _Answer:
    status: str
    detail: str
    outputs: Arrays


class Judge:
    """`engines` are asked in order, until one agrees with tensorc, which compiles for `target`. Use it as a context
    manager: it has processes."""

    def __init__(self, engines: Sequence[str], limit: float = 60.0, target: str = "cpu"):
        self.engines = tuple(engines)
        self.limit = limit
        self._workers = {name: Worker([sys.executable, str(_WORKER), name, target]) for name in ("tensorc", *engines)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def judge(self, case: Case) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="tensorc-") as name:
            folder = Path(name)
            case.save(folder)
            ours = self._ask("tensorc", folder)
            outcome = self._judge(case, folder, ours)
            if outcome.status != "wrong" or len(case.model.graph.output) == 1:
                return outcome
            # What only a worse engine takes as a whole, a better one may take in parts.
            for value in case.model.graph.output:
                part = with_output(case, value.name)
                part.save(folder)
                found = self._judge(part, folder, replace(ours, outputs={value.name: ours.outputs[value.name]}))
                if found.status not in ("equal", "sensitive"):
                    return outcome
            return Outcome("equal", "", "by parts")

    def values(self, case: Case) -> Arrays:
        """The outputs by the first engine that takes the case; nothing if none does."""
        with tempfile.TemporaryDirectory(prefix="tensorc-") as name:
            case.save(Path(name))
            answers = (self._ask(engine, Path(name)) for engine in self.engines)
            return next((answer.outputs for answer in answers if answer.status == "ok"), {})

    def _judge(self, case: Case, folder: Path, ours: _Answer) -> Outcome:
        if ours.status in ("unsupported", "crash", "hang"):
            return Outcome(ours.status, ours.detail)
        found = ""
        taken = []
        for engine in filter(functools.partial(_to_be_asked, case), self.engines):
            theirs = self._ask(engine, folder)
            if theirs.status != "ok" or not _as_declared(case, theirs.outputs):
                continue
            if ours.status == "error":
                return Outcome("error", ours.detail, engine)
            difference = differences(ours.outputs, theirs.outputs, _allowed(case, engine))
            if not difference:
                return Outcome("equal", "", engine)
            taken.append((engine, theirs))
            found = found or f"{difference} ({engine})"
        if not taken and ours.status == "ok" and self._right_in_double(case, ours.outputs):
            return Outcome("equal", "", "in double precision")
        if not taken:
            return Outcome("unchecked", ours.detail)
        if any(self._moves_as_far(case, ours.outputs, engine, theirs.outputs) for engine, theirs in taken):
            return Outcome("sensitive", found)
        if self._right_in_double(case, ours.outputs):
            return Outcome("equal", "", "in double precision")
        if self._left_open(case):
            return Outcome("sensitive", found)
        return Outcome("wrong", found, taken[0][0])

    def _moves_as_far(self, case: Case, got: Arrays, engine: str, want: Arrays) -> bool:
        """Whether inputs that are off by a rounding move the engine's result about as far as `got` is from it."""
        if not any(case.loose.values()):
            return False
        given = [np.abs(a.astype(np.float64)) for a in case.inputs.values() if a.dtype.name in EPSILONS]
        with np.errstate(all="ignore"):
            # What should be 0 is a rounding of what it was computed from.
            floor = 0.01 * max((np.max(a, initial=0.0, where=np.isfinite(a)) for a in given), default=1.0)
        spread = {name: np.zeros(array.shape) for name, array in want.items()}
        with np.errstate(all="ignore"), tempfile.TemporaryDirectory(prefix="tensorc-") as folder:
            for seed in range(3):
                _moved_case(case, seed).save(Path(folder))
                answer = self._ask(engine, Path(folder))
                if answer.status != "ok":
                    return False
                for name, array in answer.outputs.items():
                    if array.shape != want[name].shape:
                        return False
                    spread[name] = np.maximum(spread[name], _distance(array, want[name]))
            for name, array in want.items():
                if got[name].shape != array.shape or got[name].dtype != array.dtype:
                    return False
                a, b = got[name].astype(np.float64), array.astype(np.float64)
                allowed = _SENSITIVITY * spread[name]
                loose = case.loose[name] * (np.abs(b) + np.max(np.abs(b), initial=floor, where=np.isfinite(b)))
                fine = (np.abs(a - b) <= allowed + loose) | (a == b) | (np.isnan(a) & np.isnan(b)) | np.isinf(allowed)
                if not fine.all():
                    return False
        return True

    def _left_open(self, case: Case) -> bool:
        """Whether nan or infinities come to operators of which it is not specified what they make of them."""
        names = {name for node in case.model.graph.node if node.op_type in _OPEN for name in node.input}
        made = {value.name for value in onnx.shape_inference.infer_shapes(case.model, data_prop=True).graph.value_info}
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in case.model.graph.initializer}
        arrays.update(case.inputs)
        if names & made:
            arrays.update(self.values(showing(case, sorted(names & made))))
        floats = (a.astype(np.float64) for name, a in arrays.items() if name in names and a.dtype.name in EPSILONS)
        return any(not np.isfinite(array).all() for array in floats)

    def _right_in_double(self, case: Case, got: Arrays) -> bool:
        wide = widened(case)
        if wide is None:
            return False
        with tempfile.TemporaryDirectory(prefix="tensorc-") as folder:
            wide.save(Path(folder))
            for engine in filter(functools.partial(_to_be_asked, case), self.engines):
                answer = self._ask(engine, Path(folder))
                if answer.status != "ok" or not _as_declared(wide, answer.outputs):
                    continue
                if not differences(got, narrowed(case, answer.outputs), _allowed(case, engine)):
                    return True
        return False

    def _ask(self, engine: str, folder: Path) -> _Answer:
        out = folder / f"{engine}.npz"
        out.unlink(missing_ok=True)
        try:
            row = self._workers[engine].call({"case": str(folder), "out": str(out)}, self.limit)
        except WorkerError as error:
            return _Answer("hang" if error.failure == "timeout" else "crash", error.detail, {})
        return _Answer(row["status"], row["detail"], load_arrays(out) if row["status"] == "ok" else {})


#: What these make of nan and infinities is not specified. Comparing or leaving out elements loses some; weighing them
#: with zeros, around an image or where nothing is to be taken, makes some; a sum that is moved along keeps them.
_OPEN = frozenset(
    ("AveragePool", "Conv", "ConvTranspose", "GlobalMaxPool", "LRN", "LpPool", "MaxPool", "PRelu", "ReduceMax",
     "ReduceMin", "Resize", "ScatterElements", "ScatterND")
)  # fmt: skip

#: Operators that the reference evaluator computes in float32, whatever the type: by its own code, or as it reads
#: attributes. OneHot gives sums instead of the values.
_REFERENCE_ROUNDS = frozenset(
    ("Celu", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "OneHot", "Selu", "Shrink", "Swish",
     "ThresholdedRelu")
)  # fmt: skip


_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _allowed(case: Case, engine: str) -> Mapping[str, float]:
    if engine != "reference" or not _REFERENCE_ROUNDS & {node.op_type for node in case.model.graph.node}:
        return case.loose
    types = {value.name: value.type.tensor_type.elem_type for value in case.model.graph.output}
    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return {
        name: max(loose, EPSILONS["float16" if types[name] in halves else "float32"])
        if types[name] in _FLOATS
        else loose
        for name, loose in case.loose.items()
    }


def _to_be_asked(case: Case, engine: str) -> bool:
    """The reference evaluator's batch normalization of opsets before 14 updates its statistics; its LRN takes every
    image to have five channels; its LpNormalization of p = 1 adds up elements with their signs."""
    old = any(entry.version < 14 for entry in case.model.opset_import if entry.domain == "")
    wrong = {"LRN", "BatchNormalization"} if old else {"LRN"}
    return engine != "reference" or not any(
        node.op_type in wrong
        or (node.op_type == "LpNormalization" and any(a.i == 1 for a in node.attribute if a.name == "p"))
        for node in case.model.graph.node
    )


def _as_declared(case: Case, outputs: Arrays) -> bool:
    """Whether an engine's results have the types of the model's outputs: the reference evaluator has a few wrong."""
    for value in case.model.graph.output:
        array, type = outputs[value.name], value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in type.shape.dim]
        if helper.np_dtype_to_tensor_dtype(array.dtype) != type.elem_type or array.ndim != len(sizes):
            return False
        if any(size not in (None, got) for size, got in zip(sizes, array.shape, strict=True)):
            return False
    return True


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of elements; what is nan or infinite here and finite there is as far as can be."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf))


def _moved_case(case: Case, seed: int) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = factors_of_sizes(model.graph)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.name in EPSILONS and array.size > 1 and tensor.name not in kept:
            tensor.CopyFrom(numpy_helper.from_array(_moved(array, seed), tensor.name))
    _move_results(model, seed)
    moved = {name: array if name in kept else _moved(array, seed) for name, array in case.inputs.items()}
    return replace(case, model=model, inputs=moved)


def _move_results(model: onnx.ModelProto, seed: int) -> None:
    """Rounded results that other nodes read are multiplied by a moved 1; zeros among them get either sign."""
    graph = model.graph
    read = {name for node in graph.node for name in reads(node)}
    types = {
        value.name: value.type.tensor_type
        for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    }
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            type = types.get(name)
            if node.doc_string != ROUNDED or name not in read or type is None or type.elem_type not in _FLOATS:
                continue
            if not all(dim.HasField("dim_value") for dim in type.shape.dim):
                continue
            dtype = helper.tensor_dtype_to_np_dtype(type.elem_type)
            ones = np.ones([dim.dim_value for dim in type.shape.dim], dtype)
            signs = np.random.default_rng(len(nodes)).choice([-1.0, 1.0], ones.shape) * (-1) ** seed
            least = signs * float(ml_dtypes.finfo(dtype).smallest_subnormal)
            before, factor, scaled, term = (f"{name}_{part}" for part in ("before", "factor", "scaled", "term"))
            graph.initializer.append(numpy_helper.from_array(_moved(ones, seed + 100 * len(nodes)), factor))
            graph.initializer.append(numpy_helper.from_array(np.asarray(least, dtype), term))
            node.output[index] = before
            nodes.append(helper.make_node("Mul", [before, factor], [scaled]))
            nodes.append(helper.make_node("Add", [scaled, term], [name]))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _moved(array: np.ndarray, seed: int) -> np.ndarray:
    if array.dtype.name not in EPSILONS:
        return array
    step = {"float64": 2.0**-52, "float32": 2.0**-22, "float16": 2.0**-10, "bfloat16": 2.0**-7}[array.dtype.name]
    noise = np.random.default_rng(seed).uniform(-1, 1, array.shape)
    return np.asarray(array.astype(np.float64) * (1 + step * noise)).astype(array.dtype)
