"""Models of several stages against ONNX Runtime: sequences, optionals, control flow, and shapes that data decide."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, parser
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from PIL import Image

from tensorc.errors import UnsupportedError, UserError
from tensorc.frontend.inline import subgraphs
from tensorc.frontend.operators import host, sequences
from tensorc.frontend.registry import find_rule, ruled_operators

X = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
TEXT = np.array(["a", "Bb", "x", "c d", "ccc"], object)


@dataclass(frozen=True)
class Case:
    """A graph in ONNX's text form and data for its inputs, by name."""

    name: str
    graph: str
    feed: dict[str, Any]
    opset: int = 17

    def model(self) -> onnx.ModelProto:
        return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {self.opset}]>\n{self.graph}')


CASES = [
    Case("reshape to a given shape", "g (float[3,4] x, int64[2] s) => (float[a,b] y) { t = Relu(x) y = Reshape(t, s) }",
         {"x": X, "s": np.array([2, 6])}),
    Case("shape arithmetic on given numbers", """
        g (float[3,4] x, int64[1] n) => (float[a,b] y) <int64[1] rest = {-1}> {
            twice = Add(n, n)  s = Concat<axis = 0>(twice, rest)  y = Reshape(x, s)
        }""", {"x": X, "n": np.array([2])}),
    Case("a shape that much work decides", """
        g (float[64,64] x) => (float[a,b] y) <int64[1] rest = {-1}, int64[1] two = {2}> {
            p = MatMul(x, x) m = Cast<to = 7>(p) s = ReduceMax<keepdims = 0>(m) z = Sub(s, s) n = Unsqueeze(z, zero)
            k = Add(n, two) shape = Concat<axis = 0>(k, rest) y = Reshape(p, shape)
        }""".replace("int64[1] two", "int64[1] zero = {0}, int64[1] two"), {"x": np.ones((64, 64), np.float32)}),
    Case("nonzero", """
        g (float[3,4] x) => (int64[d,n] y, float[n,m] rows) {
            i = NonZero(x)  y = Neg(i)  t = Transpose(i)  f = Cast<to = 1>(t)  rows = Exp(f)
        }""", {"x": np.maximum(X, 0)}),
    Case("nonzero of a scalar", "g (float x) => (int64[d,n] y) { y = NonZero(x) }", {"x": np.array(2, np.float32)}),
    Case("compress", """
        g (float[3,4] x, bool[3] c, bool[7] d) => (float[a,b] y, float[n] z) {
            y = Compress<axis = -2>(x, c)  z = Compress(x, d)
        }""", {"x": X, "c": np.array([True, False, True]), "d": np.array([0, 1, 1, 0, 0, 0, 1], bool)}),
    Case("unique", """
        g (float[6] x, float[3,2] m) => (float[n] y, int64[n] i, int64[k] j, int64[n] c, float[a,b] rows, float[u] z) {
            y, i, j, c = Unique(x)  rows = Unique<axis = 0>(m)  z = Unique<sorted = 0>(x)
        }""", {"x": np.array([2, 1, 1, 3, 4, 3], np.float32), "m": np.array([[1, 2], [0, 1], [1, 2]], np.float32)}),
    Case("boxes", """
        g (float[1,4,4] boxes, float[1,2,4] scores) => (int64[n,k] y) <int64[1] most = {3}, float[1] overlap = {0.4},
            float[1] least = {0.1}> { y = NonMaxSuppression(boxes, scores, most, overlap, least) }""",
         {"boxes": np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 2, 1, 3], [1, 3, 0, 2]]], np.float32),
          "scores": np.array([[[0.9, 0.8, 0.3, 0.5], [0.05, 0.2, 0.7, 0.6]]], np.float32)}),
    Case("sequences", """
        g (float[3,4] x, float[3,4] y, int64 k) => (float[3,4] a, int64 n, float[p,q] c, float[r,s,t] d) {
            e = SequenceEmpty()  s1 = SequenceInsert(e, x)  s2 = SequenceInsert(s1, y, zero)  s3 = SequenceErase(s2)
            a = SequenceAt(s2, k)  n = SequenceLength(s3)  s4 = SequenceConstruct(x, y, x)
            c = ConcatFromSequence<axis = 1>(s4)  d = ConcatFromSequence<axis = -1, new_axis = 1>(s4)
        }""".replace("=> (", "=> (", 1).replace(") {", ") <int64 zero = {0}> {", 1),
         {"x": X, "y": X + 1, "k": np.array(-1)}),
    Case("splits", """
        g (float[3,4] x) => (float[a,b] y, float[c] z, float[d,e] w)
        <int64 one = {1}, int64 two = {2}, int64[2] u = {1, 2}> {
            s1 = SplitToSequence<axis = 1>(x, two)  y = SequenceAt(s1, one)
            s2 = SplitToSequence<keepdims = 0>(x)  z = SequenceAt(s2, two)
            s3 = SplitToSequence(x, u)  w = SequenceAt(s3, one)
        }""", {"x": X}),
    Case("a sequence comes in and goes out", """
        g (seq(float[N]) s) => (seq(float[N]) t, float[m] first) <int64 zero = {0}> {
            a = SequenceAt(s, zero)  first = Relu(a)  t = SequenceInsert(s, first)
        }""", {"s": [X[0], X[1], X[2, :2]]}),
    Case("a branch", """
        g (float[3,4] x) => (float[n,m] y) {
            s = ReduceSum<keepdims = 0>(x)  zero = Sub(s, s)  c = Greater(s, zero)
            y = If(c) <then_branch = yes () => (float[n,m] a) { a = Exp(x) },
                       else_branch = no () => (float[n,m] b) { t = Transpose(x) b = Neg(t) }>
        }""", {"x": X}),
    Case("a branch in a branch", """
        g (float[2] x, bool p, bool q) => (float[n] y) {
            h = Neg(x)
            y = If(p) <
                then_branch = yes () => (float[n] a) {
                    t = Exp(h)
                    a = If(q) <then_branch = yy () => (float[n] c) { c = Add(t, h) },
                               else_branch = yn () => (float[n] d) { d = Concat<axis = 0>(t, h) }>
                },
                else_branch = no () => (float[n] b) { b = Relu(h) }>
        }""", {"x": X[0, :2], "p": np.array(True), "q": np.array(False)}),
    Case("a loop whose value grows", """
        g (float[2] x, int64 n) => (float[k] y, int64[i] log) <bool go = {1}> {
            y, log = Loop(n, go, x) <body = b (int64 i, bool c, float[p] v) => (bool d, float[q] w, int64 j) {
                d = Identity(c)  w = Concat<axis = 0>(v, x)  j = Add(i, i)
            }>
        }""", {"x": X[0, :2], "n": np.array(3)}),
    Case("a loop that ends by its condition", """
        g (float x) => (float y, float[n] log) <float least = {10.0}, bool go = {1}> {
            y, log = Loop("", go, x) <body = b (int64 i, bool c, float v) => (bool d, float w, float l) {
                w = Add(v, v)  d = Less(w, least)  l = Neg(w)
            }>
        }""", {"x": np.array(1, np.float32)}),
    Case("a loop that never runs", """
        g (float[2] x, int64 n) => (float[2] y, float[i,two] log) <bool go = {1}> {
            y, log = Loop(n, go, x) <body = b (int64 i, bool c, float[2] v) => (bool d, float[2] w, float[2] l) {
                d = Identity(c)  w = Neg(v)  l = Exp(v)
            }>
        }""", {"x": X[0, :2], "n": np.array(0)}),
    Case("a loop over a sequence", """
        g (float[2] x, int64 n) => (seq(float[2]) s, float[k] all) <bool go = {1}> {
            e = SequenceEmpty()
            s = Loop(n, go, e) <body = b (int64 i, bool c, seq(float[2]) v) => (bool d, seq(float[2]) w) {
                d = Identity(c)  f = Cast<to = 1>(i)  z = Add(x, f)  w = SequenceInsert(v, z)
            }>
            all = ConcatFromSequence<axis = 0>(s)
        }""", {"x": X[0, :2], "n": np.array(3)}),
    Case("text", """
        g (string[5] t, int64[1] k) => (string[n] a, string[m] b, bool[5] e) {
            a = StringNormalizer<case_change_action = "UPPER", stopwords = ["a", "ccc"]>(t)
            b = Gather(t, k)  e = Equal(t, b)
        }""", {"t": TEXT, "k": np.array([1])}),
    Case("parts of text", """
        g (string[5] t) => (string[5] a, string[n,m] b, int64[n] c, bool[5] d) {
            a = StringConcat(t, t)  b, c = StringSplit<delimiter = "c">(t)
            d = RegexFullMatch<pattern = "[a-z]+">(t)
        }""", {"t": TEXT}, opset=20),
    Case("numbers and text", """
        g (float[3] x, string[2] t) => (string[3] a, int64[2] b) { a = Cast<to = 8>(x)  b = Cast<to = 7>(t) }""",
         {"x": np.array([1.5, -3, 1000000], np.float32), "t": np.array(["12", "-7"], object)}),
    Case("n-grams", """
        g (int64[2,6] x) => (float[2,n] y) {
            y = TfIdfVectorizer<mode = "TF", min_gram_length = 2, max_gram_length = 2, max_skip_count = 2,
                ngram_counts = [0, 4], ngram_indexes = [0, 1, 2, 3, 4, 5, 6],
                pool_int64s = [2, 3, 5, 4, 5, 6, 7, 8, 6, 7]>(x)
        }""", {"x": np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]])}),
]  # fmt: skip


def expected(case: Case) -> list[Any]:
    model = case.model()
    try:
        return list(onnxruntime.InferenceSession(model.SerializeToString()).run(None, case.feed))
    except (ort_errors.NotImplemented, ort_errors.InvalidGraph, ort_errors.Fail, ort_errors.InvalidArgument):
        return list(ReferenceEvaluator(model).run(None, case.feed))


def agree(got: Any, want: Any) -> None:
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            agree(one, other)
        return
    assert got.shape == np.shape(want)
    if want.dtype.kind in "OU":
        np.testing.assert_array_equal(got, want)
        return
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_as_onnx_runtime(case: Case, staged: Callable[[onnx.ModelProto], Any]) -> None:
    model = staged(case.model())
    want = expected(case)
    agree(model.run(case.feed), want)
    programs = model.executable.programs
    agree(model.run(case.feed), want)
    assert model.executable.programs == programs, "what is known was built again"


def _operators(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    found = {node.op_type for node in nodes}
    for node in nodes:
        for graph in subgraphs(node):
            found |= _operators(graph.node)
    return found


def test_every_operator_of_stages_has_a_case() -> None:
    modules = (host.__name__, sequences.__name__)
    tested = {"LabelEncoder", "ImageDecoder", "Optional", "OptionalHasElement", "OptionalGetElement"}  # below
    names = {
        name
        for domain, name in ruled_operators()
        if find_rule(helper.make_node(name, [], [], domain=domain)).__module__ in modules
    }
    assert names - tested <= set().union(*(_operators(case.model().graph.node) for case in CASES))


@pytest.mark.parametrize("given", [None, X, [X, X]], ids=["nothing", "a tensor", "a sequence"])
def test_optionals(given: Any, staged: Callable[[onnx.ModelProto], Any]) -> None:
    tensor = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [3, 4])
    inner = helper.make_sequence_type_proto(tensor) if isinstance(given, list) else tensor
    nodes = [
        helper.make_node("OptionalHasElement", ["o"], ["has"]),
        helper.make_node("Identity", ["o"], ["same"]),
        helper.make_node("Optional", ["x"], ["made"]),
        helper.make_node("OptionalGetElement", ["made"], ["got"]),
    ]
    inputs = [
        helper.make_value_info("o", helper.make_optional_type_proto(inner)),
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, 4]),
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("has", "same", "got")]
    model = staged(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs),
                                     opset_imports=[helper.make_opsetid("", 18)]))  # fmt: skip
    has, same, got = model.run({"o": given, "x": X + 1})
    assert has == (given is not None)
    assert (same is None) == (given is None)
    if given is not None:
        agree(same, given)
    agree(got, X + 1)


def model_of(text: str, opset: int = 17) -> onnx.ModelProto:
    return Case("", text, {}, opset).model()


def test_another_shape_is_another_program(staged: Callable[[onnx.ModelProto], Any]) -> None:
    model = staged(model_of("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }"))
    for rows in (1, 2, 1, 3, 2):
        x = np.full((rows, 4), -1, np.float32)
        agree(model.run({"x": x}), [np.zeros_like(x)])
    assert model.executable.programs == 3


def test_what_data_do_not_decide_is_one_program(staged: Callable[[onnx.ModelProto], Any]) -> None:
    """The value that settles a shape is worked out by numpy; all the rest is compiled together."""
    model = staged(CASES[1].model())
    model.run(CASES[1].feed)
    assert [len(graph.nodes) for graph in model.graphs] == [1]


def test_no_more_programs_are_kept_than_may_be(
    staged: Callable[[onnx.ModelProto], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorc.dynamic.executable.MOST_PROGRAMS", 2)
    model = staged(model_of("g (float[n] x) => (float[n] y) { y = Neg(x) }"))
    for size in (1, 2, 1, 3, 1, 2):  # the last one was pushed out by the third
        x = np.ones(size, np.float32)
        agree(model.run({"x": x}), [-x])
    assert model.executable.programs == 4


def test_the_caller_keeps_its_arrays(staged: Callable[[onnx.ModelProto], Any]) -> None:
    graph = "g (float[n] x, int64[1] s) => (float[n] y, float[m] z) { y = Identity(x) z = Reshape(x, s) }"
    model = staged(model_of(graph))
    x, s = np.ones(4, np.float32), np.array([4])
    y, _ = model.run({"x": x, "s": s})
    y[:] = 7
    s[:] = 9
    agree(model.run({"x": x, "s": np.array([4])})[1], np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("graph", "feed", "message"),
    [
        ("g (float[n] x, int64[1] s) => (float[m] y) { y = Reshape(x, s) }", {"x": X[0], "s": np.array([5])},
         r"node 'y' \(Reshape\): cannot reshape"),
        ("g (seq(float[4]) s, int64 k) => (float[4] y) { y = SequenceAt(s, k) }", {"s": [X[0]], "k": np.array(1)},
         r"position 1 is outside a sequence of 1"),
        ("g (float[n] x, int64[n] k) => (float[n] y) { y = Gather(x, k) z = NonZero(x) w = Add(z, y) }",
         {"x": X[0], "k": np.arange(4)}, r"\(Add\)"),
    ],
)  # fmt: skip
def test_what_goes_wrong_when_it_runs(
    graph: str, feed: dict[str, Any], message: str, staged: Callable[[onnx.ModelProto], Any]
) -> None:
    model = staged(model_of(graph))
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            model.run(feed)


def test_what_is_unsupported_in_a_branch_is_said_at_once(staged: Callable[[onnx.ModelProto], Any]) -> None:
    model = staged(
        model_of("""
        g (float[2] x, bool c) => (float[2] y) {
            y = If(c) <then_branch = yes () => (float[2] a) { a = Unheard(x) },
                       else_branch = no () => (float[2] b) { b = Neg(x) }>
        }""")
    )
    with pytest.raises(UnsupportedError, match=r"ai\.onnx\.Unheard \(1x, such as 'a'\)"):
        model.run({"x": X[0, :2], "c": np.array(False)})


def test_endless_loops_end(staged: Callable[[onnx.ModelProto], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorc.frontend.unroll.MOST_ITERATIONS", 20)
    model = staged(
        model_of("""
        g (float x) => (float y) <bool go = {1}> {
            y = Loop("", go, x) <body = b (int64 i, bool c, float v) => (bool d, float w) {
                d = Identity(c)  w = Neg(v)
            }>
        }""")
    )
    with pytest.raises(UnsupportedError, match=r"Loop \(it makes more than 20 iterations"):
        model.run({"x": np.array(1, np.float32)})


def one_node(operator: str, dtype: int, shape: Sequence[int], domain: str = "", **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)
    inputs = [helper.make_tensor_value_info("x", dtype, shape)]
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 4)] if domain else [])]
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("y")])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize(
    ("x", "attributes", "want"),
    [
        (TEXT, {"keys_strings": ["a", "x"], "values_int64s": [1, 2], "default_int64": 7}, np.array([1, 7, 2, 7, 7])),
        (np.array([1, 5, 1]), {"keys_int64s": [1], "values_strings": ["one"]},
         np.array(["one", "_Unused", "one"], object)),
        (np.array([np.nan, 2], np.float32), {"keys_floats": [np.nan, 1], "values_floats": [3.0, 4.0]},
         np.array([3, -0.0], np.float32)),
    ],
)  # fmt: skip
def test_labels(x: np.ndarray, attributes: dict[str, Any], want: np.ndarray, staged: Callable[..., Any]) -> None:
    code = onnx.TensorProto.STRING if x.dtype == object else helper.np_dtype_to_tensor_dtype(x.dtype)
    (got,) = staged(one_node("LabelEncoder", code, x.shape, "ai.onnx.ml", **attributes)).run({"x": x})
    agree(got, want)


@pytest.mark.parametrize("wanted", ["RGB", "BGR", "Grayscale"])
def test_images(wanted: str, staged: Callable[..., Any]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    encoded = np.frombuffer(file.getvalue(), np.uint8)
    model = staged(one_node("ImageDecoder", onnx.TensorProto.UINT8, [None], pixel_format=wanted))
    (got,) = model.run({"x": encoded})
    if wanted == "Grayscale":
        assert got.shape == (5, 7, 1)
        assert np.abs(got[..., 0] - pixels @ [0.299, 0.587, 0.114]).max() < 1
    else:
        agree(got, pixels if wanted == "RGB" else pixels[..., ::-1])
    (nothing,) = model.run({"x": encoded[1:]})
    assert nothing.shape[:2] == (0, 0)


def test_no_more_ways_are_remembered_than_may_be(
    staged: Callable[[onnx.ModelProto], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither shapes nor the values that decide them may fill the memory of who runs for weeks."""
    monkeypatch.setattr("tensorc.dynamic.executable.MOST_PROGRAMS", 3)
    model = staged(model_of("g (float[n] x, int64[1] s) => (float[m] y) { y = Reshape(x, s) }"))
    for size in range(1, 9):
        for _ in range(2):
            agree(model.run({"x": X[0, :1].repeat(size), "s": np.array([size])})[0], X[0, :1].repeat(size))
    assert len(model.executable._first) == 3


def test_what_is_known_runs_while_something_new_is_compiled(staged: Callable[[onnx.ModelProto], Any]) -> None:
    model = staged(model_of("g (float[n] x) => (float[n] y) { y = Neg(x) }"))
    model.run({"x": X[0, :2]})
    build, compiling, go_on = model.executable._build, threading.Event(), threading.Event()

    def slowly(graph: Any) -> Any:
        compiling.set()
        assert go_on.wait(20)
        return build(graph)

    model.executable._build = slowly
    with ThreadPoolExecutor(1) as pool:
        new = pool.submit(model.run, {"x": X[0, :3]})
        assert compiling.wait(20)
        agree(model.run({"x": X[0, :2]}), [-X[0, :2]])
        assert not new.done()
        go_on.set()
        agree(new.result(20), [-X[0, :3]])
