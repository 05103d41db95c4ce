"""The walk over an ONNX graph: each node becomes IR nodes by its operator's rule.

All shapes are static from here on. What cannot be translated is collected over the whole model and reported at once;
what is wrong with the model is reported where it is met, by ONNX node and operator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx.inliner

from tensorc.errors import IRError, UnsupportedError, UserError
from tensorc.frontend.call import Call
from tensorc.frontend.emitter import Emitter
from tensorc.frontend.operators import find_rule, known_domains
from tensorc.frontend.reader import LoadedModel, Source, element_type, read_model
from tensorc.frontend.registry import OLDEST_OPSET, STANDARD, domain_of
from tensorc.frontend.schema import check_node
from tensorc.frontend.shapes import settle_shapes
from tensorc.ir.graph import Graph, Value
from tensorc.ir.types import TensorType
from tensorc.ir.verifier import verify


@dataclass(frozen=True)
class ImportedModel:
    """A graph, and what ONNX calls its inputs and outputs, in the graph's order. `source` is the file's name."""

    graph: Graph
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    source: str


def import_model(source: Source, shapes: Mapping[str, tuple[int, ...]] | None = None) -> ImportedModel:
    """Translate an ONNX model. `shapes` gives the sizes of inputs with free axes, by ONNX name.

    Raises UserError for a model or a shape that is wrong, UnsupportedError for operators that have no rule.
    """
    model = _inlined(read_model(source))
    return _Importer(model, _opset(model)).run(shapes or {})


def _inlined(model: LoadedModel) -> LoadedModel:
    if not model.proto.functions:
        return model
    try:
        return dataclasses.replace(model, proto=onnx.inliner.inline_local_functions(model.proto, True))
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        first, *_ = str(error).splitlines() or [""]
        raise UserError(f"{model.name}: its functions cannot be inlined: {first}") from error


def _opset(model: LoadedModel) -> int:
    versions = [int(entry.version) for entry in model.proto.opset_import if entry.domain in ("", STANDARD)]
    if not versions and all(domain_of(node) != STANDARD for node in model.proto.graph.node):
        return OLDEST_OPSET  # every node is of another domain, and will be reported as such
    if not versions:
        raise UserError(f"{model.name} imports no opset of {STANDARD}")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= versions[0] <= newest:
        raise UserError(f"{model.name} is of opset {versions[0]}; supported are {OLDEST_OPSET} to {newest}")
    return versions[0]


class _Importer:
    def __init__(self, model: LoadedModel, opset: int):
        self.model = model
        self.opset = opset
        self.proto = model.proto.graph
        self.graph = Graph(self.proto.name or "main")
        self.emitter = Emitter(self.graph)
        self.scope: dict[str, Value] = {}
        self.initializers = {tensor.name: tensor for tensor in self.proto.initializer}
        #: Names of values that an untranslated node would have defined.
        self.absent: set[str] = set()
        self.unsupported = _Unsupported()

    def run(self, shapes: Mapping[str, tuple[int, ...]]) -> ImportedModel:
        inputs = [info for info in self.proto.input if info.name not in self.initializers]
        self.add_inputs(inputs, shapes)
        self.unsupported.note_sparse(self.proto)
        read = {name for node in self.proto.node for name in node.input} | {info.name for info in self.proto.output}
        for node in self.proto.node:
            self.translate(node, read)
        self.unsupported.check(self.model.name)
        self.graph.outputs = [self.output(info.name) for info in self.proto.output]
        self.graph.remove_dead()
        verify(self.graph)
        return ImportedModel(
            self.graph,
            tuple(info.name for info in inputs),
            tuple(info.name for info in self.proto.output),
            self.model.name,
        )

    def add_inputs(self, inputs: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, tuple[int, ...]]) -> None:
        for info in inputs:
            if not info.type.HasField("tensor_type"):
                raise UnsupportedError(f"{self.model.name}: input {info.name!r} is no tensor")
        for name, shape in settle_shapes(self.model.name, inputs, shapes).items():
            info = next(info for info in inputs if info.name == name)
            try:
                dtype = element_type(info.type.tensor_type.elem_type)
            except UnsupportedError as error:
                raise UnsupportedError(f"{self.model.name}: input {name!r}: {error}") from error
            self.scope[name] = self.graph.add_input(name, TensorType(dtype, shape))

    def translate(self, node: onnx.NodeProto, read: set[str]) -> None:
        rule = find_rule(node)
        if rule is None:
            known = domain_of(node) in known_domains()
            self.skip(node, "" if known else "unknown domain")
            return
        if any(name in self.absent for name in node.input):
            self.absent.update(node.output)
            return
        inputs = [self.value(name, node) if name else None for name in node.input]
        self.emitter.name = next((name for name in node.output if name), node.op_type)
        try:
            check_node(node, self.opset)
            result = rule(Call(node, self.opset, inputs, self.emitter, self.model))
        except UnsupportedError as error:
            self.skip(node, str(error))
            return
        except UserError:
            raise
        except (TypeError, ValueError, ArithmeticError, IndexError, IRError) as error:
            raise self.error(node, str(error)) from error
        self.define(node, (result,) if isinstance(result, Value) else result, read)

    def define(self, node: onnx.NodeProto, results: Sequence[Value], read: set[str]) -> None:
        for index, name in enumerate(node.output):
            if not name:
                continue
            if name in self.scope or name in self.initializers:
                raise self.error(node, f"its output {name!r} is defined before")
            if index < len(results):
                self.scope[name] = results[index]
            elif name in read:
                self.skip(node, f"its output {index} is used")

    def skip(self, node: onnx.NodeProto, why: str) -> None:
        self.absent.update(name for name in node.output if name and name not in self.scope)
        self.unsupported.note(node, why)

    def value(self, name: str, node: onnx.NodeProto) -> Value:
        found = self.find(name)
        if found is None:
            raise self.error(node, f"reads {name!r}, which nothing before it defines")
        return found

    def find(self, name: str) -> Value | None:
        if name not in self.scope and name in self.initializers:
            constant = self.model.initializer(self.initializers[name])
            self.scope[name] = self.graph.add_constant(constant, name)
        return self.scope.get(name)

    def output(self, name: str) -> Value:
        found = self.find(name)
        if found is None:
            raise UserError(f"{self.model.name}: nothing defines the output {name!r}")
        return found

    def error(self, node: onnx.NodeProto, what: str) -> UserError:
        return UserError(f"{self.model.name}: node {_label(node)!r} ({node.op_type}): {what}")


class _Unsupported:
    """What has no translation: an operator, with why, how often and an example."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[str]] = {}

    def note(self, node: onnx.NodeProto, why: str) -> None:
        self.found.setdefault((f"{domain_of(node)}.{node.op_type}", why), []).append(_label(node))

    def note_sparse(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.sparse_initializer:
            self.found.setdefault(("sparse initializers", ""), []).append(tensor.values.name)

    def check(self, model: str) -> None:
        if not self.found:
            return
        listed = ", ".join(
            f"{operator} ({why + '; ' if why else ''}{len(nodes)}x, such as {nodes[0]!r})"
            for (operator, why), nodes in sorted(self.found.items())
        )
        raise UnsupportedError(f"{model} holds what is not supported: {listed}")


def _label(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), node.op_type)
