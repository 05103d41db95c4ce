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
from tensorc.frontend.regions import Region
from tensorc.frontend.registry import OLDEST_OPSET, STANDARD, domain_of
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
    def __init__(self, model: LoadedModel, opset: int, proto: onnx.GraphProto | None = None):
        self.model = model
        self.opset = opset
        self.proto = proto if proto is not None else model.proto.graph
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
        read = _read_names(self.proto)
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
        if any(self.lacks(name) for name in node.input):
            self.absent.update(node.output)
            return
        inputs = [self.value(name, node) if name else None for name in node.input]
        self.emitter.name = next((name for name in node.output if name), node.op_type)
        try:
            result = rule(Call(node, self.opset, inputs, self.emitter, self.model, self))
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

    def lacks(self, name: str) -> bool:
        return name in self.absent

    def output(self, name: str) -> Value:
        found = self.find(name)
        if found is None:
            raise UserError(f"{self.model.name}: nothing defines the output {name!r}")
        return found

    def error(self, node: onnx.NodeProto, what: str) -> UserError:
        return UserError(f"{self.model.name}: node {_label(node)!r} ({node.op_type}): {what}")

    def translate_body(self, proto: onnx.GraphProto, types: Sequence[TensorType]) -> Region:
        """A graph that is an attribute, as a region whose first inputs are of these types."""
        body = _Body(self, proto, Graph(proto.name or "body"))
        names = [info.name for info in proto.input] + [""] * (len(types) - len(proto.input))
        outputs = body.translate_all([body.graph.add_input(n, t) for n, t in zip(names, types, strict=True)])
        body.graph.outputs = outputs
        body.graph.remove_dead()
        return Region(body.graph, list(body.captured))

    def inline_body(self, proto: onnx.GraphProto, inputs: Sequence[Value]) -> list[Value]:
        """What a graph that is an attribute makes of `inputs`, its nodes added to the graph around it."""
        return _Body(self, proto, self.graph).translate_all(inputs)


class _Body(_Importer):
    """The translation of a graph that is an attribute of a node: it reads what the graphs around it define."""

    def __init__(self, outer: _Importer, proto: onnx.GraphProto, graph: Graph):
        super().__init__(outer.model, outer.opset, proto)
        self.outer = outer
        self.graph = graph
        self.emitter = Emitter(graph)
        #: Values of the graph around -> the inputs that stand for them.
        self.captured: dict[Value, Value] = {}

    def translate_all(self, inputs: Sequence[Value]) -> list[Value]:
        """The outputs, with the graph's inputs given by position; there may be more than it has."""
        self.scope.update(zip((info.name for info in self.proto.input), inputs, strict=False))
        read = _read_names(self.proto)
        for node in self.proto.node:
            self.translate(node, read)
        self.unsupported.check("its body")
        if any(self.lacks(info.name) for info in self.proto.output):
            raise UnsupportedError("it reads what is not supported")
        return [self.output(info.name) for info in self.proto.output]

    def lacks(self, name: str) -> bool:
        return name not in self.scope and (name in self.absent or self.outer.lacks(name))

    def find(self, name: str) -> Value | None:
        if name in self.scope:
            return self.scope[name]
        if name in self.initializers:
            self.scope[name] = self.graph.add_constant(self.model.constant(self.initializers[name]), name)
            return self.scope[name]
        found = self.outer.find(name)
        if found is not None:
            self.scope[name] = self.within(found)
        return found and self.scope[name]

    def within(self, value: Value) -> Value:
        """A value of the graph around, as one of this graph."""
        if self.graph is self.outer.graph:
            return value
        if value.constant is not None:
            return self.graph.add_constant(value.constant, value.name)
        if value not in self.captured:
            self.captured[value] = self.graph.add_input(value.name, value.type)
        return self.captured[value]


def _read_names(proto: onnx.GraphProto) -> set[str]:
    """By the graph's nodes and outputs, or by graphs inside it."""
    names = {name for node in proto.node for name in node.input} | {info.name for info in proto.output}
    bodies = (attribute.g for node in proto.node for attribute in node.attribute if attribute.HasField("g"))
    return names.union(*map(_read_names, bodies))


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
