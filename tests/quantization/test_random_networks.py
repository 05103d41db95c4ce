"""Random small networks in bytes against what they mean: floats rounded where the pass puts `quantize`, in numpy.

Convolutions of all kinds, matrix products, residual sums, concatenations, pooling; weights that are zero, one number,
tiny or huge, channels that are dead or a thousand times as large; samples that never change, or are huge.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import tensorc
from passes.quantize import QuantizeProducts
from tensorc.errors import TensorcWarning
from tensorc.ir import evaluate
from tensorc.ir.graph import clone
from tensorc.quantization.scheme import METHODS, Quantization

pytestmark = pytest.mark.compiler


SEEDS = (1, 4, 8, 14, 22, 38, 59, 98, 105, 141, 151, 157)


class Net:
    def __init__(self, rng):
        self.rng, self.nodes, self.weights, self.shapes = rng, [], [], {}

    def constant(self, array, dtype=np.float32):
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def add(self, op, inputs, shape, **attrs):
        name = f"v{len(self.shapes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        self.shapes[name] = tuple(shape)
        return name

    def draw(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def values(self, *shape):
        rng = self.rng
        data = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        kind = rng.integers(12)
        if kind == 0:
            data[rng.integers(shape[0])] = 0
        elif kind == 1:
            data *= 0
        elif kind == 2:
            data *= self.draw(1e-30, 1e-12, 1e6, 1e12)
        elif kind == 3:
            data[rng.integers(shape[0])] *= 1000
        elif kind == 4:
            data = np.abs(data)
        elif kind == 5:
            data = np.full(shape, data.flat[0])
        return data

    # image ops
    def conv(self, x):
        _, c, h, w = self.shapes[x]
        kernel = self.draw(1, 1, 3, 3, 5)
        kernel = kernel if min(h, w) >= kernel else 1
        stride = self.draw(1, 1, 2)
        dil = self.draw(1, 1, 1, 2) if kernel == 3 else 1
        pads = [
            int(self.rng.integers(0, kernel)) if self.rng.integers(2) else (kernel - 1) * dil // 2 for _ in range(4)
        ]
        group = self.draw(1, 1, 1, c, *(g for g in (2, 4) if c % g == 0))
        out = group * int(self.draw(1, 2, 3, 4, 8)) if group > 1 else int(self.draw(1, 3, 4, 8, 16, 17))
        size = [(e + pads[a] + pads[a + 2] - dil * (kernel - 1) - 1) // stride + 1 for a, e in enumerate((h, w))]
        if min(size) < 1:
            return x
        inputs = [x, self.constant(self.values(out, c // group, kernel, kernel))]
        if self.rng.integers(2):
            inputs.append(self.constant(self.rng.standard_normal(out)))
        return self.add(
            "Conv",
            inputs,
            (1, out, *size),
            kernel_shape=[kernel] * 2,
            pads=pads,
            strides=[stride] * 2,
            dilations=[dil] * 2,
            group=group,
        )

    def relu(self, x):
        op = self.draw(
            "Relu", "Relu", "Relu", "Sigmoid", "LeakyRelu", "Tanh", "HardSwish", "Neg", "Abs", "Gelu", "Clip6"
        )
        if op == "Clip6":
            lo, hi = self.draw((0, 6), (-1, 1), (0.5, 0.5), (1, 2))
            return self.add("Clip", [x, self.constant(lo), self.constant(hi)], self.shapes[x])
        return self.add(op, [x], self.shapes[x])

    def residual(self, x):
        same = [v for v, s in self.shapes.items() if s == self.shapes[x]]
        return self.add(self.draw("Add", "Add", "Mul", "Sub", "Max"), [x, self.draw(*same)], self.shapes[x])

    def scale(self, x):
        s = self.shapes[x]
        k = self.constant(
            self.values(*((1, s[1], 1, 1) if len(s) == 4 else s[-1:]))
            if self.rng.integers(2)
            else self.draw(0, 1, -3, 1e-6, 1e6)
        )
        return self.add(self.draw("Add", "Mul"), [x, k], s)

    def norm(self, x):
        c = self.shapes[x][1]
        p = [self.constant(a) for a in (self.values(c), self.values(c), self.values(c), self.rng.random(c) + 0.1)]
        return self.add("BatchNormalization", [x, *p], self.shapes[x])

    def pool(self, x):
        _, c, h, w = self.shapes[x]
        if self.rng.integers(5) == 0:
            return self.add(self.draw("GlobalAveragePool", "GlobalMaxPool"), [x], (1, c, 1, 1))
        if min(h, w) < 2:
            return x
        if self.rng.integers(2):
            return self.add(
                self.draw("MaxPool", "AveragePool"),
                [x],
                (1, c, (h - 2) // 2 + 1, (w - 2) // 2 + 1),
                kernel_shape=[2, 2],
                strides=[2, 2],
            )
        if min(h, w) < 3:
            return x
        return self.add(self.draw("MaxPool", "AveragePool"), [x], (1, c, h, w), kernel_shape=[3, 3], pads=[1] * 4)

    def concat(self, x):
        s = self.shapes[x]
        axis = self.draw(1, 1, len(s) - 1)
        same = [
            v
            for v, t in self.shapes.items()
            if len(t) == len(s) and all(a == b for i, (a, b) in enumerate(zip(s, t, strict=True)) if i != axis)
        ]
        o = self.draw(*same)
        shape = list(s)
        shape[axis] += self.shapes[o][axis]
        if shape[axis] > 64:
            return x
        return self.add("Concat", [x, o], shape, axis=axis)

    def move(self, x):
        s = self.shapes[x]
        if self.rng.integers(2):
            perm = [0, *(1 + self.rng.permutation(len(s) - 1)).tolist()]
            return self.add("Transpose", [x], [s[p] for p in perm], perm=perm)
        if len(s) == 4:
            return self.add(
                "Pad", [x, self.constant([0, 0, 1, 0, 0, 0, 0, 1], np.int64)], (s[0], s[1], s[2] + 1, s[3] + 1)
            )
        return x

    # matrix ops
    def flat(self, x):
        s = self.shapes[x]
        if len(s) == 4 and self.rng.integers(2):
            return self.add("Reshape", [x, self.constant([1, s[1], s[2] * s[3]], np.int64)], (1, s[1], s[2] * s[3]))
        return self.add("Flatten", [x], (s[0], int(np.prod(s[1:]))))

    def product(self, x):
        s = self.shapes[x]
        n = int(self.draw(1, 3, 4, 10, 16, 33))
        w = self.values(n, s[-1])
        if len(s) == 2 and self.rng.integers(2):
            t = int(self.rng.integers(2))
            more = [self.constant(self.rng.standard_normal(n))] if self.rng.integers(2) else []
            attrs = {"alpha": self.draw(1.0, 1.0, 0.5), "beta": self.draw(1.0, 2.0)}
            return self.add("Gemm", [x, self.constant(w if t else w.T), *more], (s[0], n), transB=t, **attrs)
        return self.add("MatMul", [x, self.constant(w.T)], (*s[:-1], n))


def random_net(seed):
    rng = np.random.default_rng(seed)
    net = Net(rng)
    if rng.integers(4):
        shape = (1, int(net.draw(1, 3, 4, 5, 16)), int(rng.integers(1, 13)), int(rng.integers(1, 13)))
    else:
        shape = tuple(int(n) for n in net.draw((1, 1), (1, 4), (5, 8), (2, 3, 8), (3, 12), (1, 7, 64), (4, 1)))
    net.shapes["x"] = shape
    x = "x"
    for _ in range(rng.integers(2, 9)):
        s = net.shapes[x]
        if len(s) == 4:
            f = net.draw(
                net.conv,
                net.conv,
                net.conv,
                net.relu,
                net.relu,
                net.residual,
                net.scale,
                net.norm,
                net.pool,
                net.concat,
                net.move,
                net.flat,
                net.product,
            )
        else:
            f = net.draw(net.product, net.product, net.relu, net.residual, net.scale, net.concat, net.move)
        x = f(x)
        if rng.integers(6) == 0:
            x = net.draw(*net.shapes)
    outs = list(dict.fromkeys([x, *([net.draw(*net.shapes)] if rng.integers(3) == 0 else [])]))
    outs = [o for o in outs if o != "x"] or [net.product("x")]
    graph = helper.make_graph(
        net.nodes,
        "n",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, net.shapes[o]) for o in outs],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    samples = rng.standard_normal((6, *shape))
    kind = rng.integers(10)
    if kind == 0:
        samples = np.abs(samples)
    elif kind == 1:
        samples *= net.draw(1e-20, 1e6, 1e15)
    elif kind == 2:
        samples = np.full_like(samples, net.draw(0.0, 1.0, -2.5))
    elif kind == 3:
        samples.reshape(-1)[:: max(1, samples.size // 5)] *= 1000
    return model, samples.astype(np.float32)


class Reader:
    def __init__(self, samples):
        self.left = list(samples)

    def get_next(self):
        return {"x": self.left.pop(0)} if self.left else None


@pytest.fixture
def meaning(monkeypatch):
    """The last quantized model as a function in numpy: the graph as the pass that quantizes leaves it."""
    quantize, seen = QuantizeProducts.run, []

    def run(self, graph):
        changed = quantize(self, graph)
        seen.append(clone(graph))
        return changed

    def evaluated(x):
        (name,) = [value.name for value in seen[-1].inputs]
        return evaluate(seen[-1], {name: x})

    monkeypatch.setattr(QuantizeProducts, "run", run)
    return evaluated


def distance(found, wanted):
    error, size = (np.linalg.norm(values.astype(np.float64)) for values in (found - wanted, wanted))
    return 0 if error == 0 else error / size


def check(model, samples, how, meaning):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TensorcWarning)  # of what is constant
        session = tensorc.compile(model, threads=1, quantize=how)
    with session:
        for x in samples:
            for got, wanted in zip(session.run(None, {"x": x}), meaning(x), strict=True):
                assert np.isfinite(got).all()
                # A sum of another order may round to the next byte.
                assert distance(got, wanted) < 3e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_network(seed, meaning):
    model, samples = random_net(seed)
    rng = np.random.default_rng(seed)
    if seed % 4 == 0:
        check(model, samples, Quantization("int8-dynamic", per_channel=seed % 8 == 0), meaning)
    else:
        method = sorted(METHODS)[rng.integers(len(METHODS))]
        check(model, samples, Quantization("int8", Reader(samples), method, per_channel=seed % 3 != 0), meaning)


def test_an_image_whose_range_is_found_as_it_runs_has_other_readers(meaning):
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[1,3,4,8] x, float[8,4] w) => (float[1,3,4,4] a, float[1,3,4,8] b) { a = MatMul(x, w)  b = Neg(x) }
    """)
    model.graph.input.pop()
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((8, 4)).astype(np.float32), "w"))
    check(model, rng.standard_normal((2, 1, 3, 4, 8)).astype(np.float32), Quantization("int8-dynamic"), meaning)
