"""The text form of a graph, printed and parsed back.

    graph @main(%x: f32[1,3,8,8]) {
      %w = constant @"conv1.weight" : f32[4,3,3,3]
      %zero = constant 0.0 : f32[]
      %0 = conv(%x, %w) {dilations=(1, 1), groups=1, pads=(1, 1, 1, 1), strides=(1, 1)} : f32[1,4,8,8]
      %1 = group(%0, %zero) {
        graph @body(%a: f32[1,4,8,8], %b: f32[]) {
          %c = max(%a, %b) : f32[1,4,8,8]
          return %c
        }
      } : f32[1,4,8,8]
      return %1
    }

Regions stand where a group's body does, behind the attributes. Constants of a few elements stand in the text, one
repeated element as `splat`, large ones by reference (`@label`): to parse those back give their data.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tensorc.errors import IRError
from tensorc.ir.dims import Dim, static_shape
from tensorc.ir.graph import Constant, Graph, Node, Value, result_types
from tensorc.ir.ops import OPS
from tensorc.ir.types import DTYPES, STORED, TensorType, is_integer, numpy_dtype

#: Constants up to this many elements are written out.
INLINE_ELEMENTS = 16


def print_graph(graph: Graph, indent: str = "") -> str:
    lines = [f"{indent}graph {_reference(graph.name)}({', '.join(map(repr, graph.inputs))}) {{"]
    inner = indent + "  "
    lines += [f"{inner}%{v.name} = constant {_print_constant(v)} : {v.type}" for v in graph.constants()]
    for node in graph.nodes:
        names = ", ".join(f"%{v.name}" for v in node.outputs)
        text = f"{inner}{names} = {node.op}({', '.join('%' + v.name for v in node.inputs)})"
        if node.attrs:
            text += " {" + ", ".join(f"{k}={node.attrs[k]!r}" for k in sorted(node.attrs)) + "}"
        graphs = [node.body] if node.body is not None else node.regions
        if graphs:
            text += " {\n" + "\n".join(print_graph(held, inner + "  ") for held in graphs) + f"\n{inner}}}"
        lines.append(f"{text} : {', '.join(str(v.type) for v in node.outputs)}")
    returned = ", ".join(f"%{v.name}" for v in graph.outputs)
    lines.append(f"{inner}return {returned}".rstrip())
    lines.append(indent + "}")
    return "\n".join(lines)


def _print_constant(value: Value) -> str:
    constant = value.constant
    assert constant is not None
    if constant.splat is not None:
        item = _item(constant.splat)
        return item if not constant.type.shape else f"splat {item}"
    if constant.type.size <= INLINE_ELEMENTS:
        items = ", ".join(_item(x) for x in constant.numpy().reshape(-1))
        return f"[{items}]"
    return _reference(constant.label or value.name, quoted=True)


def _reference(name: str, quoted: bool = False) -> str:
    """`@name`, in quotes (as JSON escapes them) where the name is not a plain word."""
    return "@" + (name if not quoted and re.fullmatch(r"[\w.]+", name) else json.dumps(name, ensure_ascii=False))


def _referenced(token: str) -> str:
    return str(json.loads(token[1:])) if token.startswith('@"') else token[1:]


def _item(scalar: object) -> str:
    # repr of float(float32) has digits enough to come back as the same number, infinities and nan included.
    array = np.asarray(scalar)
    if array.dtype.name not in STORED:
        return repr(array.astype(object).item())
    return repr(int(array) if is_integer(array.dtype.name) else float(array))


#: White space and comments.
_GAP = re.compile(r"(?:\s|#[^\n]*)*")
_TOKEN = re.compile(
    r"""(?P<ref>@"(?:[^"\\]|\\.)*"|@[\w.]+) | (?P<value>%[\w./-]+) | (?P<word>-?[A-Za-z_][\w.]*)
      | (?P<number>-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?) | (?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<mark>[()\[\]{}:,=*+/-])
    """,
    re.VERBOSE,
)


class _Parser:
    def __init__(self, text: str, data: Mapping[str, np.ndarray]):
        self.text = text
        self.data = data
        self.tokens: list[tuple[str, str, int]] = []
        position = self.skip_gap(0)
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.error(position, "unexpected character")
            kind = match.lastgroup or ""
            self.tokens.append((kind, match.group(kind), match.start(kind)))
            position = self.skip_gap(match.end())
        self.index = 0

    def skip_gap(self, position: int) -> int:
        match = _GAP.match(self.text, position)
        assert match is not None
        return match.end()

    def error(self, position: int, what: str) -> IRError:
        line = self.text.count("\n", 0, position) + 1
        here, *_ = self.text[position : position + 40].splitlines() or [""]
        return IRError(f"line {line}: {what}: {here!r}")

    def fail(self, what: str) -> IRError:
        position = self.tokens[self.index][2] if self.index < len(self.tokens) else max(len(self.text) - 1, 0)
        return self.error(position, what)

    def peek(self, text: str) -> bool:
        return self.index < len(self.tokens) and self.tokens[self.index][1] == text

    def peek_graph(self) -> bool:
        return self.peek("{") and self.index + 1 < len(self.tokens) and self.tokens[self.index + 1][1] == "graph"

    def accept(self, text: str) -> bool:
        if self.peek(text):
            self.index += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.fail(f"expected {text!r}")

    def take(self, *kinds: str) -> str:
        if self.index >= len(self.tokens) or self.tokens[self.index][0] not in kinds:
            raise self.fail(f"expected {' or '.join(kinds)}")
        self.index += 1
        return self.tokens[self.index - 1][1]

    # Grammar --------------------------------------------------------------------------------------------

    def graph(self) -> Graph:
        self.expect("graph")
        graph = Graph(_referenced(self.take("ref")))
        scope: dict[str, Value] = {}
        self.expect("(")
        while not self.accept(")"):
            name = self.define(scope)
            self.expect(":")
            scope[name] = graph.add_input(name, self.type())
            self.accept(",")
        self.expect("{")
        while not self.accept("return"):
            self.statement(graph, scope)
        while not self.peek("}"):
            graph.outputs.append(self.use(scope))
            self.accept(",")
        self.expect("}")
        return graph

    def define(self, scope: Mapping[str, Value], others: Sequence[str] = ()) -> str:
        name = self.take("value")[1:]
        if name in scope or name in others:
            self.index -= 1
            raise self.fail("defined before")
        return name

    def use(self, scope: Mapping[str, Value]) -> Value:
        name = self.take("value")[1:]
        if name not in scope:
            self.index -= 1
            raise self.fail("no such value")
        return scope[name]

    def statement(self, graph: Graph, scope: dict[str, Value]) -> None:
        names = [self.define(scope)]
        while self.accept(","):
            names.append(self.define(scope, names))
        self.expect("=")
        op = self.take("word")
        if op == "constant":
            if len(names) != 1:
                raise self.fail("a constant has one name")
            (name,) = names
            scope[name] = graph.add_constant(self.constant(), name)
            return
        if op not in OPS:
            self.index -= 1
            raise self.fail("unknown op")
        self.expect("(")
        inputs = []
        while not self.accept(")"):
            inputs.append(self.use(scope))
            self.accept(",")
        attrs = {}
        if not self.peek_graph() and self.accept("{"):
            while not self.accept("}"):
                key = self.take("word")
                self.expect("=")
                attrs[key] = self.literal()
                self.accept(",")
        graphs = []
        if self.peek_graph():
            self.expect("{")
            while not self.accept("}"):
                graphs.append(self.graph())
        row = OPS[op]
        try:
            body = graphs.pop() if len(graphs) == 1 and not row.regions else None
            node = Node(op, inputs, row.complete(attrs), body, graphs)
            row.check_arity(len(inputs))
            inferred = result_types(node)
        except (TypeError, ValueError, IRError) as error:
            raise self.fail(str(error)) from error
        self.expect(":")
        types = [self.type()]
        while self.accept(","):
            types.append(self.type())
        if types != inferred:
            raise self.fail(f"{op} gives {', '.join(map(str, inferred))}, the text says {', '.join(map(str, types))}")
        if len(names) != len(types):
            raise self.fail(f"{op} gives {len(types)} values, the text names {len(names)}")
        node.outputs = tuple(Value(graph.unique_name(name), t, node) for name, t in zip(names, types, strict=True))
        graph.nodes.append(node)
        scope.update(zip(names, node.outputs, strict=True))

    def constant(self) -> Constant:
        if self.index < len(self.tokens) and self.tokens[self.index][0] == "ref":
            label = _referenced(self.take("ref"))
            self.expect(":")
            type = self.type()
            if label not in self.data:
                return Constant(type, _missing(label), label)
            array = self.data[label]
            return Constant(type, lambda: array, label)
        splat = self.accept("splat")
        items = []
        if self.accept("["):
            while not self.accept("]"):
                items.append(self.literal())
                self.accept(",")
        else:
            items.append(self.literal())
        self.expect(":")
        type = self.type()
        if splat or not type.shape:
            return Constant.full(type, items[0])
        if len(items) != type.size:
            raise self.fail(f"{len(items)} elements do not make a {type}")
        return Constant.of(np.array(items, dtype=numpy_dtype(type.dtype)).reshape(static_shape(type.shape)))

    def literal(self) -> object:
        if self.accept("("):
            items = []
            while not self.accept(")"):
                items.append(self.literal())
                self.accept(",")
            return tuple(items)
        text = self.take("word", "number", "string")
        if text in ("inf", "-inf", "nan", "-nan"):
            return float(text)
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            self.index -= 1
            raise self.fail("no literal") from error

    def type(self) -> TensorType:
        short = self.take("word")
        if short not in DTYPES:
            self.index -= 1
            raise self.fail(f"unknown element type; known: {', '.join(DTYPES)}")
        self.expect("[")
        shape: list[Dim] = []
        while not self.accept("]"):
            start = self.index
            depth = 0
            while depth or not (self.peek(",") or self.peek("]")):
                depth += self.peek("(") - self.peek(")")
                self.index += 1
                if self.index >= len(self.tokens):
                    raise self.fail("type is not closed")
            text = "".join(token for _, token, _ in self.tokens[start : self.index])
            try:
                shape.append(int(text) if re.fullmatch(r"-?\d+", text) else _spaced(text))
            except (TypeError, ValueError) as error:
                self.index = start
                raise self.fail("no dimension") from error
            self.accept(",")
        return TensorType(DTYPES[short], tuple(shape))


def _spaced(text: str) -> Dim:
    """A symbolic dimension in the spelling that arithmetic gives it, so that equal ones compare equal."""
    if re.fullmatch(r"\w+", text):
        return text
    from tensorc.ir import dims

    return dims.add(dims.add(text, 1), -1)


def _missing(label: str) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        raise IRError(f"the data of constant @{label!r} was not given when the text was parsed")

    return load


def parse_graph(text: str, data: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that `text` describes; `data` gives the arrays of constants by reference, by label."""
    parser = _Parser(text, data or {})
    graph = parser.graph()
    if parser.index != len(parser.tokens):
        raise parser.fail("text after the graph")
    return graph
