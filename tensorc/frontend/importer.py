"""An ONNX model as graphs of the IR: one for each stage, most models have one stage only.

All shapes of a stage's graph are static. A node that needs to know more than the types of its inputs (the value of one,
or what an operator on the host makes of another) waits for the next stage, with all that depends on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
import onnx.inliner

from tensorc.dynamic.kinds import Binding, Kind
from tensorc.dynamic.stage import HostCall, Stage
from tensorc.errors import IRError, UnsupportedError, UserError
from tensorc.frontend.call import Call, NeedsValueError
from tensorc.frontend.fallback import ONNX_RUNTIME, on_onnx_runtime
from tensorc.frontend.functions import is_function
from tensorc.frontend.inline import subgraphs
from tensorc.frontend.operators import find_rule
from tensorc.frontend.reader import LoadedModel, Source, read_model
from tensorc.frontend.registry import OLDEST_OPSET, STANDARD, Result, Rule, domain_of
from tensorc.frontend.scope import Absent, Bound, Datum, Exits, Leaf, OnHost, bound_of, entered
from tensorc.frontend.shapes import Declared, declared_inputs, declared_type
from tensorc.frontend.structure import check_structure
from tensorc.frontend.translator import Instead, Translator, Work, label_of, why_unknown
from tensorc.frontend.unroll import expand
from tensorc.ir.graph import Constant, Graph, Value
from tensorc.ir.verifier import verify
from tensorc.options import Sizes

#: What a stage needs to be told, it works out by numpy when that takes so few operators and elements.
_LIGHT_NODES, _LIGHT_ELEMENTS = 200, 1 << 16


@dataclass(frozen=True)
class ImportedModel:
    """A graph, and what ONNX calls its inputs and outputs, in the graph's order. `source` is the file's name."""

    graph: Graph
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    source: str


def import_model(source: Source, shapes: Mapping[str, Sizes] | None = None) -> ImportedModel:
    """Translate an ONNX model that is one stage. `shapes` gives the sizes of inputs with free axes, by ONNX name.

    Raises UserError for a model or a shape that is wrong, UnsupportedError for operators that have no rule and for
    models of several stages.
    """
    return open_model(source, shapes).static()


def open_model(source: Source, shapes: Mapping[str, Sizes] | None = None, fallback: bool = False) -> StagedModel:
    """Read a model and what it declares. With `fallback`, what has no rule is left to ONNX Runtime, between stages.

    Raises as `import_model` does.
    """
    staged = reopen(_inlined(read_model(source)), shapes or {}, fallback)
    if not all(declared.is_static for declared in staged.inputs):  # else translating it finds out
        check_structure(staged.model, staged.opset, fallback)
    return staged


def reopen(model: LoadedModel, shapes: Mapping[str, Sizes], fallback: bool) -> StagedModel:
    """As `open_model`, for one that was opened before and stored."""
    return StagedModel(model, _opset(model), declared_inputs(model, shapes), fallback)


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


@dataclass(frozen=True)
class StagedModel:
    """A model that is ready to be translated for inputs of certain kinds."""

    model: LoadedModel
    opset: int
    inputs: Sequence[Declared]
    fallback: bool = False

    @property
    def outputs(self) -> list[Declared]:
        """What the model declares, which may be wrong."""
        return [declared_type(self.model.name, "output", info) for info in self.model.proto.graph.output]

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(info.name for info in self.model.proto.graph.output)

    def start(self, kinds: Mapping[str, Kind]) -> ImportedStage:
        """The first stage for inputs of these kinds, by name."""
        graph = self.model.proto.graph
        bound: dict[str, Bound] = {name: bound_of(name, kind) for name, kind in kinds.items()}
        work = tuple(Work(node, self.opset) for node in graph.node)
        return _Importer(self, _State(work, bound, {})).run()

    @cached_property
    def first(self) -> ImportedStage:
        """The first stage of a model whose inputs are static."""
        return self.start({declared.name: declared.kind() for declared in self.inputs})

    def static(self) -> ImportedModel:
        """The model as one graph, which may be changed and is not made again.

        Raises UserError where a shape is free, UnsupportedError where the model is not one stage.
        """
        for declared in self.inputs:
            declared.check_static(self.model.name)
        imported = self.first
        stage = imported.stage
        if not imported.is_whole:
            raise UnsupportedError(f"{self.model.name} is no single program: {imported.why()}")
        return ImportedModel(stage.graph, stage.inputs, self.output_names, self.model.name)


@dataclass(frozen=True)
class _State:
    """What is left to translate, what is known of names, and the values of those that decided types."""

    work: tuple[Work, ...]
    bound: Mapping[str, Bound]
    known: Mapping[str, np.ndarray]
    #: Names of what calls gave.
    given: frozenset[str] = frozenset()
    first: bool = True


@dataclass(frozen=True)
class ImportedStage:
    """A stage, and what the next one will start from."""

    stage: Stage
    #: Whether the stage's graph is all of the model, from its inputs to its outputs, in order.
    is_whole: bool
    _model: StagedModel
    _rest: _State
    #: What the demands are called in the model.
    _asked: Sequence[str]
    _reasons: Sequence[str]

    def next(self, kinds: Sequence[Kind], values: Sequence[np.ndarray]) -> ImportedStage:
        """`kinds` of what the calls gave, in order; `values` of the demands."""
        names = [name for call in self.stage.calls for name in call.outputs]
        bound = {**self._rest.bound, **{n: bound_of(n, kind) for n, kind in zip(names, kinds, strict=True) if n}}
        known = {**self._rest.known, **dict(zip(self._asked, values, strict=True))}
        given = self._rest.given.union(names)
        return _Importer(self._model, _State(self._rest.work, bound, known, given, False)).run()

    def why(self) -> str:
        """Why there is a next stage."""
        return "; ".join(self._reasons) or "its inputs or outputs are not all tensors"


@dataclass
class _Found:
    """What is met on the way that the next stage depends on: values by name, calls on the host."""

    demands: dict[str, Value] = field(default_factory=dict)
    calls: list[tuple[OnHost, Work]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class _Importer(Translator):
    """Translates one stage."""

    def __init__(self, staged: StagedModel, state: _State):
        self.proto = staged.model.proto.graph
        super().__init__(staged.model, Graph(self.proto.name or "main"), self.proto.initializer)
        self.staged = staged
        self.state = state
        self.inputs: dict[str, Value] = {}
        #: Names of what the next stage will know, and the nodes that read them.
        self.waiting: set[str] = set()
        self.pending: list[Work] = []
        self.found = _Found()

    def run(self) -> ImportedStage:
        if self.state.first:
            for name in self.state.bound:
                self.find(name)
            self.unsupported.note_sparse(self.proto)
        self.translate_all(self.state.work, [info.name for info in self.proto.output])
        self.unsupported.check(self.model.name)
        return self.early() or self.stage()

    # One node -------------------------------------------------------------------------------------------

    def translate(self, work: Work) -> Instead:
        if not self.state.given.isdisjoint(work.node.output):
            return Instead(())
        if not self.waiting.isdisjoint(work.reads()):
            self.foresee(work.node, work.opset)
            self.wait(work)
            return Instead(())
        return super().translate(work)

    def has_place(self, _node: onnx.NodeProto) -> bool:
        return self.staged.fallback

    def applied(self, work: Work, rule: Rule | None, call: Call) -> Result | Instead | None:
        try:
            if _is_control(work.node):
                return self.control(work, rule, call)
            return self.by_rule(work, rule, call)
        except NeedsValueError as need:
            name = work.node.input[need.index]
            value = call.input(need.index)
            self.found.demands[name] = value
            self.found.reasons.append(f"{_operator(work.node)} ({need}; such as {label_of(work.node)!r})")
            self.wait(work)
            return None
        except UnsupportedError:
            if not self.staged.fallback:
                raise
            inputs = {name: self.value(name, work.node) for name in sorted(work.reads())}
            return on_onnx_runtime(work.node, self.model, inputs)

    def control(self, work: Work, rule: Rule | None, call: Call) -> Result | Instead:
        """As regions of one program, if all is known that this takes; else written out, as far as it is known."""
        if rule is not None and not work.iteration and not _is_decided(call):
            try:
                return rule(call)
            except (UserError, TypeError, ValueError, ArithmeticError, IndexError, IRError):
                # Another branch, or a later iteration, may not even fit the shapes at hand.
                pass
        return Instead(expand(work, call.array))

    def on_host(self, work: Work, call: OnHost) -> None:
        self.found.calls.append((call, work))
        where = "by ONNX Runtime" if call.op == ONNX_RUNTIME else "on the host"
        self.found.reasons.append(f"{_operator(work.node)} (done {where}; such as {label_of(work.node)!r})")
        self.waiting.update(name for name in work.node.output if name)

    def foresee(self, node: onnx.NodeProto, opset: int) -> None:
        """Say now what is unsupported in a later stage, lest it be found out when the model runs."""
        if find_rule(node) is None and not is_function(node, opset) and not self.staged.fallback:
            self.unsupported.note(node, why_unknown(node))

    def wait(self, work: Work) -> None:
        for inner in _inside(work.node):
            self.foresee(inner, work.opset)
        self.pending.append(work)
        self.waiting.update(name for name in work.node.output if name)

    # Names ----------------------------------------------------------------------------------------------

    def find(self, name: str) -> Datum | None:
        if name not in self.scope:
            if name in self.state.known:
                constant = Constant.of(self.state.known[name], label=name)
                self.scope[name] = self.graph.add_constant(constant, name)
            elif name in self.state.bound:
                self.scope[name] = entered(self.state.bound[name], self.graph, self.inputs)
            elif name in self.initializers:
                constant = self.model.initializer(self.initializers[name])
                self.scope[name] = self.graph.add_constant(constant, name)
        return self.scope.get(name)

    def defined(self, name: str, datum: Datum) -> Datum:
        if name not in self.state.known:
            return datum
        return self.emitter.constant(Constant.of(self.state.known[name], label=name))

    # The stage ------------------------------------------------------------------------------------------

    def early(self) -> ImportedStage | None:
        """If what the next stage needs to be told is soon worked out: a stage of that alone; all else comes later."""
        if not self.pending and not self.found.calls:
            return None
        targets = [*self.found.demands.values()]
        for call, _ in self.found.calls:
            targets += [value for datum in call.inputs for value in _values(datum)]
        if not _is_light(targets):
            return None
        exits, calls, demands = self.exits()
        return self.finished(exits, calls, demands, self.state, by_numpy=True)

    def stage(self) -> ImportedStage:
        if not self.pending and not self.found.calls:
            outputs = [(info.name, self.output(info.name)) for info in self.proto.output]
            exits = Exits(self.inputs)
            results = tuple(exits.binding(name, datum) for name, datum in outputs)
            return self.finished(exits, (), {}, self.state, by_numpy=False, results=results)
        exits, calls, demands = self.exits()
        needed = {info.name for info in self.proto.output}
        for work in self.pending:
            needed |= work.reads()
        bound = {}
        for name in sorted(needed):
            datum = self.scope.get(name)
            if datum is not None:
                bound[name] = exits.kept(name, datum)
            elif name in self.state.bound:
                bound[name] = self.state.bound[name]
        rest = _State(tuple(self.pending), bound, self.state.known, self.state.given, False)
        return self.finished(exits, calls, demands, rest, by_numpy=False)

    def finished(self, exits: Exits, calls: tuple[HostCall, ...], demands: Mapping[str, str], rest: _State,
                 by_numpy: bool, results: tuple[Binding, ...] | None = None) -> ImportedStage:  # fmt: skip
        whole = self.whole() if results is not None else None
        outputs: list[str] | tuple[str, ...]
        if whole is not None:
            self.graph.outputs, outputs = whole, [info.name for info in self.proto.output]
        else:
            self.graph.outputs, outputs = list(exits.outputs), list(exits.outputs.values())
        self.graph.remove_dead()
        inputs = self.inputs
        if whole is None:
            read = {value for node in self.graph.nodes for value in node.inputs}.union(self.graph.outputs)
            inputs = {name: value for name, value in inputs.items() if value in read}
            self.graph.inputs = list(inputs.values())
        verify(self.graph)
        # Text is moved and compared like other data, but by no kernel.
        read_or_made = (value for node in self.graph.nodes for value in (*node.inputs, *node.outputs))
        by_numpy = by_numpy or any(value.dtype == "string" for value in read_or_made)
        stage = Stage(self.graph, tuple(inputs), tuple(outputs), by_numpy, calls, tuple(demands.values()), results)
        return ImportedStage(stage, whole is not None, self.staged, rest, tuple(demands), self.found.reasons)

    def whole(self) -> list[Value] | None:
        """The model's outputs, if this one stage gives them all and there are but tensors."""
        outputs = [self.output(info.name) for info in self.proto.output]
        values = [value for value in outputs if isinstance(value, Value)]
        tensors = self.state.bound.values()
        if not self.state.first or len(values) < len(outputs) or not all(isinstance(b, Leaf) for b in tensors):
            return None
        return None if any(value.dtype == "string" for value in (*values, *self.graph.inputs)) else values

    def exits(self) -> tuple[Exits, tuple[HostCall, ...], dict[str, str]]:
        """What leaves the graph for the calls and the demands; of these, where each is found."""
        exits = Exits(self.inputs)
        calls = self.host_calls(exits)
        return exits, calls, {name: exits.binding(name, value).name for name, value in self.found.demands.items()}

    def host_calls(self, exits: Exits) -> tuple[HostCall, ...]:
        calls = []
        for call, work in self.found.calls:
            names = (f"{label_of(work.node)}/{number}" for number in range(len(call.inputs)))
            inputs = tuple(exits.binding(name, datum) for name, datum in zip(names, call.inputs, strict=True))
            calls.append(HostCall(call.op, inputs, tuple(work.node.output), call.attrs, label_of(work.node)))
        return tuple(calls)


def _is_control(node: onnx.NodeProto) -> bool:
    return domain_of(node) == STANDARD and node.op_type in ("If", "Loop")


def _is_decided(call: Call) -> bool:
    """Whether it is a branch that is known to be taken: that is better written out than translated apart."""
    return call.node.op_type == "If" and call.input(0).constant is not None


def _operator(node: onnx.NodeProto) -> str:
    return f"{domain_of(node)}.{node.op_type}"


def _inside(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for graph in subgraphs(node):
        for inner in graph.node:
            yield inner
            yield from _inside(inner)


def _values(datum: Datum | None) -> list[Value]:
    if isinstance(datum, Value):
        return [datum]
    return [] if datum is None or isinstance(datum, Absent) else [v for item in datum.items for v in _values(item)]


def _is_light(targets: Sequence[Value]) -> bool:
    """Whether numpy works these values out at once."""
    nodes, elements = set(), 0
    stack = list(targets)
    while stack:
        node = stack.pop().producer
        if node is None or node in nodes:
            continue
        nodes.add(node)
        elements += sum(value.type.size for value in (*node.inputs, *node.outputs))
        if len(nodes) > _LIGHT_NODES or elements > _LIGHT_ELEMENTS:
            return False
        stack += node.inputs
    return True
