"""Small sound models of many kinds, to be damaged: each is valid ONNX, whether or not tensorc compiles it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, parser


@dataclass(frozen=True)
class Sound:
    """A model, and the files of its external data by name."""

    proto: onnx.ModelProto
    files: Mapping[str, bytes] = field(default_factory=dict)


def _parse(body: str, weights: Mapping[str, np.ndarray] | None = None, opset: int = 18, functions: str = "",
           imports: str = "") -> onnx.ModelProto:  # fmt: skip
    text = f'<ir_version: 9, opset_import: ["" : {opset}{imports}]>\n{body}\n{functions}'
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in (weights or {}).items())
    onnx.checker.check_model(model)
    return model


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape, np.float32)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def convolution() -> Sound:
    body = """net (float[1,3,16,16] x) => (float[1,10] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
        b = BatchNormalization(a, scale, bias, mean, var)
        c = Relu(b)
        d = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)
        e = Conv<group = 2, dilations = [2, 2]>(d, w2)
        f = Clip(e, zero)
        g = GlobalAveragePool(f)
        h = Flatten(g)
        i = Gemm<transB = 1>(h, w3)
        y = Softmax(i)
    }"""
    weights = {"w1": _normal(8, 3, 3, 3), "b1": _normal(8), "scale": _normal(8), "bias": _normal(8),
               "mean": _normal(8), "var": np.ones(8, np.float32), "w2": _normal(8, 4, 3, 3),
               "zero": np.float32(0), "w3": _normal(10, 8)}  # fmt: skip
    return Sound(_parse(body, weights))


def transformer() -> Sound:
    body = """block (int64[1,6] ids) => (float[1,6,16] y) {
        x = Gather(table, ids)
        n = LayerNormalization<axis = -1>(x, scale, bias)
        q = MatMul(n, wq)
        k = MatMul(n, wk)
        v = MatMul(n, wv)
        qs = Reshape(q, heads)
        ks = Reshape(k, heads)
        vs = Reshape(v, heads)
        qt = Transpose<perm = [0, 2, 1, 3]>(qs)
        kt = Transpose<perm = [0, 2, 3, 1]>(ks)
        vt = Transpose<perm = [0, 2, 1, 3]>(vs)
        s = MatMul(qt, kt)
        d = Div(s, root)
        m = Where(mask, d, low)
        p = Softmax<axis = -1>(m)
        o = MatMul(p, vt)
        ot = Transpose<perm = [0, 2, 1, 3]>(o)
        r = Reshape(ot, flat)
        y = Add(r, x)
    }"""
    weights = {"table": _normal(11, 16), "scale": _normal(16), "bias": _normal(16), "wq": _normal(16, 16),
               "wk": _normal(16, 16), "wv": _normal(16, 16), "heads": _ints(1, 6, 2, 8), "flat": _ints(0, 0, 16),
               "root": np.float32(8**0.5), "low": np.float32(-1e9),
               "mask": np.tril(np.ones((6, 6), bool))}  # fmt: skip
    return Sound(_parse(body, weights))


def control_flow() -> Sound:
    body = """flow (bool c, float[3] x, int64 n) => (float[3] y, float[s,3] all, float[3] z) {
        y = If(c) <then_branch = t () => (float[3] a) { a = Relu(x) },
                   else_branch = e () => (float[3] b) { k = Constant<value_floats = [1.0, 2.0, 3.0]>() b = Add(x, k) }>
        z, all = Loop(n, c, x) <body = l (int64 i, bool go, float[3] v)
                                      => (bool on, float[3] w, float[3] o) {
            on = Identity(go)
            two = Constant<value_float = 2.0>()
            w = Mul(v, two)
            o = Identity(w)
        }>
    }"""
    return Sound(_parse(body))


def recurrent() -> Sound:
    body = """net (float[5,1,4] x) => (float[5,1,1,3] y, float[1,1,3] h) {
        y, h = LSTM<hidden_size = 3>(x, w, r, b)
    }"""
    return Sound(_parse(body, {"w": _normal(1, 12, 4), "r": _normal(1, 12, 3), "b": _normal(1, 24)}))


def shapes() -> Sound:
    """Operators whose result is as large as a constant says."""
    body = """net (float[2,3] x, int64[4] i)
            => (float[4,6] a, float[2,2,3] b, float[6] c, float[p,q] d, float[4,5] e, float[2,2] f, float g) {
        a = Tile(x, repeats)
        b = Expand(x, shape)
        c = Range(start, limit, delta)
        d = Pad(x, pads)
        e = OneHot(i, depth, values)
        f = Slice(x, begin, end, axes, steps)
        full = ConstantOfShape<value = float[1] {1.5}>(extent)
        tri = Trilu(full)
        eye = EyeLike<k = 1>(tri)
        sum = Add(tri, eye)
        s0, s1 = Split(sum, parts)
        g = ReduceSum<keepdims = 0>(s0)
    }"""
    weights = {"repeats": _ints(2, 2), "shape": _ints(2, 2, 3), "start": np.float32(0), "limit": np.float32(6),
               "delta": np.float32(1), "pads": _ints(0, 1, 0, 1), "depth": np.int64(5),
               "values": np.array([0, 1], np.float32), "begin": _ints(0), "end": _ints(-1), "axes": _ints(1),
               "steps": _ints(1), "extent": _ints(4, 4), "parts": _ints(1, 3)}  # fmt: skip
    return Sound(_parse(body, weights))


def external() -> Sound:
    body = "net (float[2,8] x) => (float[2,4] y) { h = MatMul(x, w) y = Add(h, b) }"
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]>\n{body}')
    data = b""
    for name, array in (("w", _normal(8, 4)), ("b", _normal(4))):
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "weights.bin", "offset": len(data), "length": array.nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
        data += array.tobytes()
        model.graph.initializer.append(tensor)
    return Sound(model, {"weights.bin": data})


def functions() -> Sound:
    body = "net (float[4] x) => (float[4] y) { a = local.twice(x) y = local.scaled<factor = 3.0>(a) }"
    text = """<domain: "local", opset_import: ["" : 18]> twice (v) => (w) { w = Add(v, v) }
    <domain: "local", opset_import: ["" : 18, "local" : 1]> scaled <factor: float = 1.0> (v) => (w) {
        f = Constant<value_float: float = @factor>()
        t = local.twice(v)
        w = Mul(t, f)
    }"""
    return Sound(_parse(body, functions=text, imports=', "local" : 1'))


def quantized() -> Sound:
    body = """net (float[1,3,8,8] x, uint8[2,4] a) => (float[1,4,6,6] y, int32[2,3] p) {
        q = QuantizeLinear(x, sx, zx)
        c = QLinearConv(q, sx, zx, w, sw, zw, sy, zx)
        y = DequantizeLinear(c, sy, zx)
        p = MatMulInteger(a, b, za)
    }"""
    rng = np.random.default_rng(0)
    weights = {"sx": np.float32(0.1), "zx": np.uint8(128), "w": rng.integers(-9, 9, (4, 3, 3, 3), np.int8),
               "sw": np.float32(0.05), "zw": np.int8(0), "sy": np.float32(0.2),
               "b": rng.integers(0, 9, (4, 3), np.uint8), "za": np.uint8(3)}  # fmt: skip
    return Sound(_parse(body, weights))


def images() -> Sound:
    """Operators with attributes in number: windows, resizing, images cut into depth."""
    body = """net (float[1,4,8,8] x) => (float[1,1,16,16] a, float[1,4,6,6] b, float[n,c,h,w] r, float[n,d,h2,w2] t) {
        a = DepthToSpace<blocksize = 2>(x)
        l = LRN<size = 3>(x)
        b = AveragePool<kernel_shape = [3, 3], count_include_pad = 1>(l)
        r = Resize<mode = "linear">(x, , scales)
        t = ConvTranspose<strides = [2, 2], output_padding = [1, 1]>(x, w)
    }"""
    return Sound(_parse(body, {"scales": np.array([1, 1, 2, 1.5], np.float32), "w": _normal(4, 2, 3, 3)}))


def sequences() -> Sound:
    body = """net (float[2,3] x) => (float[4,3] y, int64 n) {
        s = SequenceConstruct(x, x)
        n = SequenceLength(s)
        y = ConcatFromSequence<axis = 0>(s)
    }"""
    return Sound(_parse(body))


SOUND: dict[str, Callable[[], Sound]] = {
    make.__name__: make
    for make in (convolution, transformer, control_flow, recurrent, shapes, external, functions, quantized, images,
                 sequences)
}  # fmt: skip
