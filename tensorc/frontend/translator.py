"""The walk over the nodes of an ONNX graph: each becomes IR nodes by its operator's rule.

What cannot be translated is collected and reported at once; what is wrong with the model is reported where it is met,
by ONNX node and operator.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from tensorc.errors import IRError, UnsupportedError, UserError
from tensorc.frontend.call import Call, NeedsValueError
from tensorc.frontend.emitter import Emitter
from tensorc.frontend.functions import body_of, is_function
from tensorc.frontend.inline import reads
from tensorc.frontend.operators import find_rule, known_domains
from tensorc.frontend.reader import LoadedModel
from tensorc.frontend.regions import Region
from tensorc.frontend.registry import STANDARD, Result, Rule, domain_of
from tensorc.frontend.schema import check_node
from tensorc.frontend.scope import Datum, OnHost
from tensorc.ir.graph import Graph, Value
from tensorc.ir.types import TensorType


@dataclass(frozen=True)
class Work:
    """A node that is to be translated, by the operators of an opset.

    `depth` counts the function bodies around it. `iteration` is the next one of a loop that is written out, `gathered`
    has, for each output that it stacks, the names of its parts so far.
    """

    node: onnx.NodeProto
    opset: int
    depth: int = 0
    iteration: int = 0
    gathered: tuple[tuple[str, ...], ...] = ()

    def reads(self) -> set[str]:
        """All names that it needs."""
        return reads(self.node).union(*self.gathered)


@dataclass(frozen=True)
class Instead:
    """Nodes that stand in a node's place."""

    work: Sequence[Work]


_NOTHING = Instead(())


class Translator(abc.ABC):
    """Adds to `graph` what the nodes of a model, or of a graph inside it, compute."""

    def __init__(self, model: LoadedModel, graph: Graph, initializers: Iterable[onnx.TensorProto]):
        self.model = model
        self.graph = graph
        self.emitter = Emitter(graph)
        self.scope: dict[str, Datum] = {}
        self.initializers = {tensor.name: tensor for tensor in initializers}
        #: Names of values that an untranslated node would have defined.
        self.absent: set[str] = set()
        self.unsupported = Unsupported()
        #: Names that somebody reads.
        self.wanted: set[str] = set()

    def translate_all(self, work: Sequence[Work], outputs: Iterable[str]) -> None:
        self.wanted.update(outputs)
        for item in work:
            self.wanted |= item.reads()
        left = list(reversed(work))
        while left:
            instead = self.translate(left.pop()).work
            for item in instead:
                self.wanted |= item.reads()
            left += reversed(instead)

    def translate(self, work: Work) -> Instead:
        """Translate a node; gives those that stand in its place, if there are such."""
        node = work.node
        rule = find_rule(node)
        if rule is None and not is_function(node, work.opset) and not self.has_place(node):
            self.skip(node, why_unknown(node))
            return _NOTHING
        names = work.reads()
        if any(self.lacks(name) for name in names):
            self.absent.update(node.output)
            return _NOTHING
        for name in sorted(names):
            self.value(name, node)
        inputs = [self.value(name, node) if name else None for name in node.input]
        self.emitter.name = next((name for name in node.output if name), node.op_type)
        call = Call(node, work.opset, inputs, self.emitter, self.model, self)
        try:
            if domain_of(node) == STANDARD:
                check_node(node, work.opset)
            result = self.applied(work, rule, call)
        except UnsupportedError as error:
            self.skip(node, str(error))
            return _NOTHING
        except UserError:
            raise
        except (TypeError, ValueError, ArithmeticError, IndexError, IRError) as error:
            raise self.error(node, str(error)) from error
        if isinstance(result, Instead):
            return result
        if isinstance(result, OnHost):
            self.on_host(work, result)
        elif result is not None:
            self.define(node, result if isinstance(result, tuple | list) else (result,))
        return _NOTHING

    def by_rule(self, work: Work, rule: Rule | None, call: Call) -> Result | Instead:
        """By the operator's rule, or by the function body that the standard has for it."""
        if rule is not None:
            return rule(call)
        if not is_function(work.node, work.opset):
            raise UnsupportedError(why_unknown(work.node))
        body = body_of(work.node, work.opset, call.data, work.depth)
        return Instead([Work(node, body.opset, work.depth + 1) for node in body.nodes])

    @abc.abstractmethod
    def applied(self, work: Work, rule: Rule | None, call: Call) -> Result | Instead | None:
        """What becomes of a node. None: it waits."""

    @abc.abstractmethod
    def on_host(self, work: Work, call: OnHost) -> None:
        """A node that is done between stages."""

    @abc.abstractmethod
    def has_place(self, node: onnx.NodeProto) -> bool:
        """Whether something can become of a node without a rule."""

    # Names ----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def find(self, name: str) -> Datum | None:
        """What a name stands for, None if nothing defines it."""

    def lacks(self, name: str) -> bool:
        return name in self.absent

    def value(self, name: str, node: onnx.NodeProto) -> Datum:
        found = self.find(name)
        if found is None:
            raise self.error(node, f"reads {name!r}, which nothing before it defines")
        return found

    def output(self, name: str) -> Datum:
        found = self.find(name)
        if found is None:
            raise UserError(f"{self.model.name}: nothing defines the output {name!r}")
        return found

    def define(self, node: onnx.NodeProto, results: Sequence[Datum]) -> None:
        for index, name in enumerate(node.output):
            if not name:
                continue
            if name in self.scope or name in self.initializers:
                raise self.error(node, f"its output {name!r} is defined before")
            if index < len(results):
                self.scope[name] = self.defined(name, results[index])
            elif name in self.wanted:
                self.skip(node, f"its output {index} is used")

    def defined(self, _name: str, datum: Datum) -> Datum:
        """What a name stands for, of which a node gives `datum`."""
        return datum

    def skip(self, node: onnx.NodeProto, why: str) -> None:
        self.absent.update(name for name in node.output if name and name not in self.scope)
        self.unsupported.note(node, why)

    def error(self, node: onnx.NodeProto, what: str) -> UserError:
        return UserError(f"{self.model.name}: node {label_of(node)!r} ({node.op_type}): {what}")

    # Sub-graphs -----------------------------------------------------------------------------------------

    def translate_body(self, proto: onnx.GraphProto, types: Sequence[TensorType], opset: int) -> Region:
        """A graph that is an attribute, as a region whose first inputs are of these types."""
        body = _Body(self, proto, Graph(proto.name or "body"))
        names = [info.name for info in proto.input] + [""] * (len(types) - len(proto.input))
        inputs = [body.graph.add_input(name, type) for name, type in zip(names, types, strict=True)]
        body.graph.outputs = body.outputs(inputs, opset)
        body.graph.remove_dead()
        return Region(body.graph, list(body.captured))

    def inline_body(self, proto: onnx.GraphProto, inputs: Sequence[Value], opset: int) -> list[Value]:
        """What a graph that is an attribute makes of `inputs`, its nodes added to the graph around it."""
        return _Body(self, proto, self.graph).outputs(inputs, opset)


class _Body(Translator):
    """The translation of a graph that is an attribute of a node: it reads what the graphs around it define. All its
    types must be known now, and all that it does must be done by kernels."""

    def __init__(self, outer: Translator, proto: onnx.GraphProto, graph: Graph):
        super().__init__(outer.model, graph, proto.initializer)
        self.outer = outer
        self.proto = proto
        #: Values of the graph around -> the inputs that stand for them.
        self.captured: dict[Value, Value] = {}

    def outputs(self, inputs: Sequence[Value], opset: int) -> list[Value]:
        """The graph's inputs are given by position; there may be more than it has."""
        self.scope.update(zip((info.name for info in self.proto.input), inputs, strict=False))
        names = [info.name for info in self.proto.output]
        self.translate_all([Work(node, opset) for node in self.proto.node], names)
        self.unsupported.check("its body")
        if any(self.lacks(name) for name in names):
            raise UnsupportedError("it reads what is not supported")
        return [self.tensor(self.output(name)) for name in names]

    @staticmethod
    def tensor(datum: Datum) -> Value:
        if not isinstance(datum, Value):
            raise UnsupportedError("its body handles a sequence or an optional")
        return datum

    def applied(self, work: Work, rule: Rule | None, call: Call) -> Result | Instead:
        try:
            return self.by_rule(work, rule, call)
        except NeedsValueError as need:
            raise UnsupportedError(str(need)) from need

    def on_host(self, work: Work, _call: OnHost) -> None:
        self.skip(work.node, "it is done on the host")

    def has_place(self, _node: onnx.NodeProto) -> bool:
        return False

    def lacks(self, name: str) -> bool:
        return name not in self.scope and (name in self.absent or self.outer.lacks(name))

    def find(self, name: str) -> Datum | None:
        if name in self.scope:
            return self.scope[name]
        if name in self.initializers:
            self.scope[name] = self.graph.add_constant(self.model.constant(self.initializers[name]), name)
            return self.scope[name]
        found = self.outer.find(name)
        if found is not None:
            self.scope[name] = self.within(self.tensor(found))
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


class Unsupported:
    """What has no translation: an operator, with why, how often and an example."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[str]] = {}

    def note(self, node: onnx.NodeProto, why: str) -> None:
        self.found.setdefault((f"{domain_of(node)}.{node.op_type}", why), []).append(label_of(node))

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


def why_unknown(node: onnx.NodeProto) -> str:
    return "" if domain_of(node) in known_domains() else "unknown domain"


def label_of(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), node.op_type)
