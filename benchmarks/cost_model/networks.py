"""Well-known families of networks, generated: what the cost model is trained on.

A cost model learns from many different workloads, so each stage here has only as many blocks as show its distinct
shapes, vocabularies are small, and batch normalisations are folded already. Weights are seeded noise of He's scale.

    python benchmarks/cost_model/networks.py                    the tuning tasks of every network, counted
    python benchmarks/cost_model/networks.py resnet18_224       of some of them, which are written to *.onnx here
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Network = Callable[..., onnx.ModelProto]

#: Random numbers that all weights are cut from, each at a place of its own: equal weights would be folded into one.
_POOL = 1 << 22
_WORDS = 1000


@cache
def _noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(_POOL, np.float32)


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]


class Net:
    """Writes an ONNX graph, layer by layer; every method that adds a layer gives its output."""

    def __init__(self, name: str):
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def input(self, *shape: int, kind: int = TensorProto.FLOAT) -> Tensor:
        name = f"in{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return Tensor(name, shape)

    def constant(self, array: np.ndarray) -> Tensor:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return Tensor(name, array.shape)

    def number(self, value: float) -> Tensor:
        return self.constant(np.array(value, np.float32))

    def weight(self, *shape: int, scale: float = 0.02, shift: float = 0.0) -> Tensor:
        size = math.prod(shape)
        start = int(self.rng.integers(_POOL - min(size, _POOL // 2)))
        noise = np.resize(_noise()[start:], size).reshape(shape)
        return self.constant(noise * np.float32(scale) + np.float32(shift))

    def op(self, kind: str, *inputs: Tensor, shape: Sequence[int] | None = None, **attributes: Any) -> Tensor:
        """Any operator of one output, whose shape is the inputs' broadcast one unless it is given."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [x.name for x in inputs], [name], **attributes))
        return Tensor(name, tuple(shape) if shape is not None else np.broadcast_shapes(*(x.shape for x in inputs)))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self.op("Add", a, b)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return self.op("Mul", a, b)

    def act(self, x: Tensor, kind: str) -> Tensor:
        """`kind` is "" for none, silu, gelu, or an operator's name."""
        if kind == "silu":
            return self.mul(x, self.op("Sigmoid", x))
        if kind == "gelu":
            erf = self.op("Erf", self.op("Div", x, self.number(math.sqrt(2))))
            return self.mul(self.mul(x, self.add(erf, self.number(1))), self.number(0.5))
        if kind == "Relu6":
            return self.op("Clip", x, self.number(0), self.number(6))
        attributes: dict[str, Any] = {"LeakyRelu": {"alpha": 0.1}, "HardSigmoid": {"alpha": 1 / 6}}.get(kind, {})
        return self.op(kind, x, **attributes) if kind else x

    def conv(self, x: Tensor, width: int, kernel: int | tuple[int, ...] = 1, stride: int | tuple[int, ...] = 1,
             groups: int = 1, act: str = "Relu", pad: int | None = None, dilation: int = 1) -> Tensor:  # fmt: skip
        """With a bias, over one or two axes. `pad` of None keeps the size, but for the stride."""
        axes = len(x.shape) - 2
        kernels = (kernel,) * axes if isinstance(kernel, int) else kernel
        strides = (stride,) * axes if isinstance(stride, int) else stride
        pads = [dilation * (k // 2) if pad is None else pad for k in kernels]
        fan = x.shape[1] // groups * math.prod(kernels)
        weight = self.weight(width, x.shape[1] // groups, *kernels, scale=math.sqrt((2 if act else 1) / fan))
        spatial = [
            (n + 2 * p - dilation * (k - 1) - 1) // s + 1
            for n, p, k, s in zip(x.shape[2:], pads, kernels, strides, strict=True)
        ]
        y = self.op("Conv", x, weight, self.weight(width), shape=(x.shape[0], width, *spatial), kernel_shape=kernels,
                    pads=pads * 2, strides=strides, dilations=[dilation] * axes, group=groups)  # fmt: skip
        return self.act(y, act)

    def depthwise(self, x: Tensor, kernel: int = 3, stride: int = 1, act: str = "Relu") -> Tensor:
        return self.conv(x, x.shape[1], kernel, stride, x.shape[1], act)

    def pool(self, x: Tensor, kernel: int, stride: int, pad: int = 0, kind: str = "MaxPool") -> Tensor:
        axes = len(x.shape) - 2
        spatial = [(n + 2 * pad - kernel) // stride + 1 for n in x.shape[2:]]
        return self.op(kind, x, shape=(*x.shape[:2], *spatial), kernel_shape=[kernel] * axes, strides=[stride] * axes,
                       pads=[pad] * 2 * axes)  # fmt: skip

    def mean(self, x: Tensor) -> Tensor:
        return self.op("GlobalAveragePool", x, shape=(*x.shape[:2], *[1] * (len(x.shape) - 2)))

    def dense(self, x: Tensor, width: int, act: str = "", bias: bool = True) -> Tensor:
        """Over the last axis."""
        depth = x.shape[-1]
        scale = math.sqrt((2 if act else 1) / depth)
        if len(x.shape) == 2 and bias:
            weight = self.weight(width, depth, scale=scale)
            y = self.op("Gemm", x, weight, self.weight(width), shape=(x.shape[0], width), transB=1)
        else:
            y = self.op("MatMul", x, self.weight(depth, width, scale=scale), shape=(*x.shape[:-1], width))
            y = self.add(y, self.weight(width)) if bias else y
        return self.act(y, act)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        return self.op("MatMul", a, b, shape=(*a.shape[:-1], b.shape[-1]))

    def classify(self, x: Tensor, classes: int = 1000) -> Tensor:
        """Of an image: mean over the pixels, then a dense layer."""
        return self.dense(self.reshape(self.mean(x), *x.shape[:2]), classes)

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        return self.op("Reshape", x, self.constant(np.array(shape)), shape=shape)

    def transpose(self, x: Tensor, *axes: int) -> Tensor:
        return self.op("Transpose", x, shape=[x.shape[axis] for axis in axes], perm=axes)

    def concat(self, *parts: Tensor, axis: int = 1) -> Tensor:
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.op("Concat", *parts, shape=shape, axis=axis)

    def split(self, x: Tensor, parts: int, axis: int) -> list[Tensor]:
        shape = list(x.shape)
        shape[axis] //= parts
        names = [f"v{len(self.nodes)}_{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [x.name], names, axis=axis))
        return [Tensor(name, tuple(shape)) for name in names]

    def layer_norm(self, x: Tensor, epsilon: float = 1e-5) -> Tensor:
        scale, bias = self.weight(x.shape[-1], scale=0.1, shift=1), self.weight(x.shape[-1])
        return self.op("LayerNormalization", x, scale, bias, shape=x.shape, axis=-1, epsilon=epsilon)

    def rms_norm(self, x: Tensor) -> Tensor:
        square = self.op("Pow", x, self.number(2))
        mean = self.op("ReduceMean", square, shape=(*x.shape[:-1], 1), axes=[-1], keepdims=1)
        root = self.op("Sqrt", self.add(mean, self.number(1e-6)))
        return self.mul(self.op("Div", x, root), self.weight(x.shape[-1], scale=0.1, shift=1))

    def upsample(self, x: Tensor) -> Tensor:
        """Every pixel becomes 2 by 2."""
        n, c, h, w = x.shape
        x = self.reshape(x, n, c, h, 1, w, 1)
        x = self.op("Expand", x, self.constant(np.array([n, c, h, 2, w, 2])), shape=(n, c, h, 2, w, 2))
        return self.reshape(x, n, c, 2 * h, 2 * w)

    def shuffle(self, x: Tensor, groups: int) -> Tensor:
        n, c, h, w = x.shape
        return self.reshape(self.transpose(self.reshape(x, n, groups, c // groups, h, w), 0, 2, 1, 3, 4), n, c, h, w)

    def squeeze_excite(self, x: Tensor, width: int, act: str = "Relu", gate: str = "Sigmoid") -> Tensor:
        return self.mul(x, self.conv(self.conv(self.mean(x), width, act=act), x.shape[1], act=gate))

    def attention(self, x: Tensor, heads: int, kv_heads: int = 0, mask: Tensor | None = None, bias: bool = True,
                  fused: bool = False) -> Tensor:  # fmt: skip
        """Of x [B,L,W] over itself, with projections; `fused`: one product makes queries, keys and values."""
        batch, length, width = x.shape
        depth, kv_heads = width // heads, kv_heads or heads
        if fused:
            parts = self.split(self.dense(x, 3 * width, bias=bias), 3, 2)
        else:
            parts = [self.dense(x, n * depth, bias=bias) for n in (heads, kv_heads, kv_heads)]
        q, k, v = (self.reshape(y, batch, length, y.shape[2] // depth, depth) for y in parts)
        q, k, v = (self.transpose(y, 0, 2, 1, 3) for y in (q, k, v))
        if kv_heads < heads:
            k, v = (self._repeat(y, heads // kv_heads) for y in (k, v))
        scores = self.product(q, self.transpose(k, 0, 1, 3, 2))
        scores = self.op("Div", scores, self.number(math.sqrt(depth)))
        if mask is not None:
            scores = self.add(scores, mask)
        y = self.product(self.op("Softmax", scores, axis=-1), v)
        return self.dense(self.reshape(self.transpose(y, 0, 2, 1, 3), batch, length, width), width, bias=bias)

    def _repeat(self, x: Tensor, times: int) -> Tensor:
        """Each head of [B,H,L,D] `times` times."""
        batch, heads, length, depth = x.shape
        shape = (batch, heads, times, length, depth)
        x = self.reshape(x, batch, heads, 1, length, depth)
        x = self.op("Expand", x, self.constant(np.array(shape)), shape=shape)
        return self.reshape(x, batch, heads * times, length, depth)

    def embed(self, length: int, width: int, batch: int = 1, positions: bool = True) -> Tensor:
        words = self.input(batch, length, kind=TensorProto.INT64)
        x = self.op("Gather", self.weight(_WORDS, width, scale=1), words, shape=(batch, length, width))
        return self.add(x, self.weight(length, width, scale=1)) if positions else x

    def causal(self, length: int) -> Tensor:
        return self.constant(np.triu(np.full((length, length), -1e9, np.float32), 1))

    def model(self, *results: Tensor) -> onnx.ModelProto:
        outputs = [helper.make_tensor_value_info(x.name, TensorProto.FLOAT, x.shape) for x in results]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# Convolutional networks


def resnet(size: int, expand: int = 4, inner: int = 1, groups: int = 1, batch: int = 1) -> onnx.ModelProto:
    """`expand` of 1: basic blocks. `inner` widens the 3x3 convolutions (wide ResNet, ResNeXt)."""
    net = Net("resnet")
    x = net.pool(net.conv(net.input(batch, 3, size, size), 64, 7, 2), 3, 2, 1)
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            if expand == 1:
                y = net.conv(net.conv(x, width, 3, stride), width, 3, act="")
            else:
                y = net.conv(net.conv(x, inner * width), inner * width, 3, stride, groups)
                y = net.conv(y, expand * width, act="")
            if x.shape != y.shape:
                x = net.conv(x, expand * width, stride=stride, act="")
            x = net.act(net.add(y, x), "Relu")
    return net.model(net.classify(x))


def resnet_cifar(batch: int) -> onnx.ModelProto:
    """The ResNets of 32x32 images, before their activations."""
    net = Net("resnet_cifar")
    x = net.conv(net.input(batch, 3, 32, 32), 16, 3)
    for stage, width in enumerate((16, 32, 64)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = net.conv(net.conv(x, width, 3, stride), width, 3, act="")
            x = net.act(net.add(y, x if x.shape == y.shape else net.conv(x, width, 1, stride, act="")), "Relu")
    return net.model(net.classify(x, 10))


def vgg(size: int, stages: Sequence[tuple[int, ...]]) -> onnx.ModelProto:
    net = Net("vgg")
    x = net.input(1, 3, size, size)
    for stage in stages:
        for width in stage:
            x = net.conv(x, width, 3)
        x = net.pool(x, 2, 2)
    x = net.reshape(net.mean(x), *x.shape[:2])
    return net.model(net.dense(net.dense(net.dense(x, 4096, "Relu"), 4096, "Relu"), 1000))


def mobilenet_v1(size: int, scale: float = 1.0, batch: int = 1) -> onnx.ModelProto:
    net = Net("mobilenet_v1")
    x = net.conv(net.input(batch, 3, size, size), int(32 * scale), 3, 2)
    for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (1024, 2), (1024, 1)):
        x = net.conv(net.depthwise(x, 3, stride), int(width * scale))
    return net.model(net.classify(x))


def inverted(net: Net, x: Tensor, inner: int, width: int, kernel: int, stride: int, act: str,
             squeeze: int = 0, squeeze_act: str = "Relu", gate: str = "Sigmoid") -> Tensor:  # fmt: skip
    """MobileNet's inverted residual."""
    y = x if inner == x.shape[1] else net.conv(x, inner, act=act)
    y = net.depthwise(y, kernel, stride, act)
    if squeeze:
        y = net.squeeze_excite(y, squeeze, squeeze_act, gate)
    y = net.conv(y, width, act="")
    return net.add(y, x) if y.shape == x.shape else y


def mobilenet_v2(size: int) -> onnx.ModelProto:
    net = Net("mobilenet_v2")
    x = net.conv(net.input(1, 3, size, size), 32, 3, 2, act="Relu6")
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2), (6, 64, 2, 2), (6, 96, 2, 1), (6, 160, 2, 2), (6, 320, 1, 1))
    for factor, width, blocks, stride in rows:
        for block in range(blocks):
            x = inverted(net, x, factor * x.shape[1], width, 3, 1 if block else stride, "Relu6")
    return net.model(net.classify(net.conv(x, 1280, act="Relu6")))


def mobilenet_v3(size: int) -> onnx.ModelProto:
    """The large one."""
    net = Net("mobilenet_v3")
    x = net.conv(net.input(1, 3, size, size), 16, 3, 2, act="HardSwish")
    rows = (  # kernel, inner width, width, squeeze, activation, stride
        (3, 16, 16, 0, "Relu", 1), (3, 64, 24, 0, "Relu", 2), (3, 72, 24, 0, "Relu", 1), (5, 72, 40, 24, "Relu", 2),
        (5, 120, 40, 32, "Relu", 1), (3, 240, 80, 0, "HardSwish", 2), (3, 200, 80, 0, "HardSwish", 1),
        (3, 184, 80, 0, "HardSwish", 1), (3, 480, 112, 120, "HardSwish", 1), (3, 672, 112, 168, "HardSwish", 1),
        (5, 672, 160, 168, "HardSwish", 2), (5, 960, 160, 240, "HardSwish", 1),
    )  # fmt: skip
    for kernel, inner, width, squeeze, act, stride in rows:
        x = inverted(net, x, inner, width, kernel, stride, act, squeeze, gate="HardSigmoid")
    x = net.mean(net.conv(x, 960, act="HardSwish"))
    return net.model(net.dense(net.dense(net.reshape(x, 1, 960), 1280, "HardSwish"), 1000))


def efficientnet(size: int, scale: float) -> onnx.ModelProto:
    def wide(width: int) -> int:
        """A multiple of 8, no more than a tenth below what was asked for."""
        rounded = max(8, int(scale * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scale * width else rounded

    net = Net("efficientnet")
    x = net.conv(net.input(1, 3, size, size), wide(32), 3, 2, act="silu")
    rows = ((1, 16, 3, 1), (6, 24, 3, 2), (6, 40, 5, 2), (6, 80, 3, 2), (6, 112, 5, 1), (6, 192, 5, 2), (6, 320, 3, 1))
    for factor, width, kernel, stride in rows:
        for block in range(2):
            narrow = x.shape[1]
            x = inverted(net, x, factor * narrow, wide(width), kernel, 1 if block else stride, "silu",
                         max(narrow // 4, 1), "silu")  # fmt: skip
    return net.model(net.classify(net.conv(x, wide(1280), act="silu")))


def densenet(size: int, growth: int, stem: int, blocks: Sequence[int]) -> onnx.ModelProto:
    """Normalisations stand before the activations, so they stay as a multiply and an add."""
    net = Net("densenet")

    def normal(x: Tensor) -> Tensor:
        scale, bias = net.weight(x.shape[1], 1, 1, scale=0.1, shift=1), net.weight(x.shape[1], 1, 1)
        return net.act(net.add(net.mul(x, scale), bias), "Relu")

    x = net.pool(net.conv(net.input(1, 3, size, size), stem, 7, 2), 3, 2, 1)
    for stage, layers in enumerate(blocks):
        if stage:
            x = net.pool(net.conv(normal(x), x.shape[1] // 2, act=""), 2, 2, kind="AveragePool")
        for _ in range(layers):
            x = net.concat(x, net.conv(net.conv(normal(x), 4 * growth), growth, 3, act=""))
    return net.model(net.classify(normal(x)))


def inception_v3(size: int) -> onnx.ModelProto:
    net = Net("inception_v3")
    conv = net.conv

    def mixed_5(x: Tensor, pooled: int) -> Tensor:
        parts = [conv(x, 64), conv(conv(x, 48), 64, 5), conv(conv(conv(x, 64), 96, 3), 96, 3)]
        return net.concat(*parts, conv(net.pool(x, 3, 1, 1, "AveragePool"), pooled))

    def mixed_6(x: Tensor, inner: int) -> Tensor:
        once = conv(conv(conv(x, inner), inner, (1, 7)), 192, (7, 1))
        twice = conv(conv(conv(x, inner), inner, (7, 1)), inner, (1, 7))
        twice = conv(conv(twice, inner, (7, 1)), 192, (1, 7))
        return net.concat(conv(x, 192), once, twice, conv(net.pool(x, 3, 1, 1, "AveragePool"), 192))

    def mixed_7(x: Tensor) -> Tensor:
        a, b = conv(x, 384), conv(conv(x, 448), 384, 3)
        both = [conv(y, 384, kernel) for y in (a, b) for kernel in ((1, 3), (3, 1))]
        return net.concat(conv(x, 320), *both, conv(net.pool(x, 3, 1, 1, "AveragePool"), 192))

    x = conv(conv(conv(net.input(1, 3, size, size), 32, 3, 2, pad=0), 32, 3, pad=0), 64, 3)
    x = net.pool(conv(conv(net.pool(x, 3, 2), 80), 192, 3, pad=0), 3, 2)
    x = mixed_5(mixed_5(x, 32), 64)
    x = net.concat(conv(x, 384, 3, 2, pad=0), conv(conv(conv(x, 64), 96, 3), 96, 3, 2, pad=0), net.pool(x, 3, 2))
    for inner in (128, 160, 192):
        x = mixed_6(x, inner)
    y = conv(conv(conv(conv(x, 192), 192, (1, 7)), 192, (7, 1)), 192, 3, 2, pad=0)
    x = net.concat(conv(conv(x, 192), 320, 3, 2, pad=0), y, net.pool(x, 3, 2))
    return net.model(net.classify(mixed_7(mixed_7(x))))


def squeezenet(size: int) -> onnx.ModelProto:
    net = Net("squeezenet")
    x = net.conv(net.input(1, 3, size, size), 64, 3, 2, pad=0)
    for stage in ((16, 16), (32, 32), (48, 48, 64, 64)):
        x = net.pool(x, 3, 2)
        for width in stage:
            y = net.conv(x, width)
            x = net.concat(net.conv(y, 4 * width), net.conv(y, 4 * width, 3))
    return net.model(net.reshape(net.mean(net.conv(x, 1000)), 1, 1000))


def shufflenet_v1(size: int, groups: int, widths: Sequence[int]) -> onnx.ModelProto:
    net = Net("shufflenet_v1")
    x = net.pool(net.conv(net.input(1, 3, size, size), 24, 3, 2), 3, 2, 1)
    for stage, width in enumerate(widths):
        for block in range(2):
            rest = width if block else width - x.shape[1]
            y = net.shuffle(net.conv(x, width // 4, groups=groups if stage or block else 1), groups)
            y = net.conv(net.depthwise(y, 3, 1 if block else 2, act=""), rest, groups=groups, act="")
            y = net.add(y, x) if block else net.concat(y, net.pool(x, 3, 2, 1, "AveragePool"))
            x = net.act(y, "Relu")
    return net.model(net.classify(x))


def shufflenet_v2(size: int) -> onnx.ModelProto:
    net = Net("shufflenet_v2")
    x = net.pool(net.conv(net.input(1, 3, size, size), 24, 3, 2), 3, 2, 1)
    for width in (116, 232, 464):
        half = width // 2
        left = net.conv(net.depthwise(x, 3, 2, act=""), half)
        right = net.conv(net.depthwise(net.conv(x, half), 3, 2, act=""), half)
        for _ in range(2):
            left, right = net.split(net.shuffle(net.concat(left, right), 2), 2, 1)
            right = net.conv(net.depthwise(net.conv(right, half), 3, act=""), half)
        x = net.shuffle(net.concat(left, right), 2)
    return net.model(net.classify(net.conv(x, 1024)))


def regnet(size: int, widths: Sequence[int], group: int, squeeze: bool = False) -> onnx.ModelProto:
    net = Net("regnet")
    x = net.conv(net.input(1, 3, size, size), 32, 3, 2)
    for width in widths:
        for block in range(2):
            stride = 1 if block else 2
            y = net.conv(net.conv(x, width), width, 3, stride, width // group)
            if squeeze:
                y = net.squeeze_excite(y, x.shape[1] // 4)
            y = net.conv(y, width, act="")
            x = net.act(net.add(y, x if block else net.conv(x, width, stride=stride, act="")), "Relu")
    return net.model(net.classify(x))


def convnext(size: int, widths: Sequence[int]) -> onnx.ModelProto:
    net = Net("convnext")

    def normal(x: Tensor) -> Tensor:
        """Over the channels; they stay last."""
        return net.layer_norm(net.transpose(x, 0, 2, 3, 1), 1e-6)

    x = net.input(1, 3, size, size)
    for stage, width in enumerate(widths):
        if stage:
            x = net.conv(net.transpose(normal(x), 0, 3, 1, 2), width, 2, 2, act="", pad=0)
        else:
            x = net.transpose(normal(net.conv(x, width, 4, 4, act="", pad=0)), 0, 3, 1, 2)
        for _ in range(2):
            y = net.dense(net.dense(normal(net.depthwise(x, 7, act="")), 4 * width, "gelu"), width)
            x = net.add(x, net.transpose(net.mul(y, net.weight(width, scale=0.1)), 0, 3, 1, 2))
    return net.model(net.dense(net.layer_norm(net.reshape(net.mean(x), 1, widths[-1])), 1000))


def unet(size: int, width: int, depth: int = 4) -> onnx.ModelProto:
    net = Net("unet")
    x, skips = net.input(1, 3, size, size), []
    for level in range(depth):
        x = net.conv(net.conv(x, width << level, 3), width << level, 3)
        skips.append(x)
        x = net.pool(x, 2, 2)
    x = net.conv(net.conv(x, width << depth, 3), width << depth, 3)
    for level in reversed(range(depth)):
        x = net.concat(skips[level], net.conv(net.upsample(x), width << level, 3))
        x = net.conv(net.conv(x, width << level, 3), width << level, 3)
    return net.model(net.conv(x, 2, act="Sigmoid"))


def yolo_v3(size: int) -> onnx.ModelProto:
    """Darknet, and two of the three heads."""
    net = Net("yolo_v3")
    conv = partial(net.conv, act="LeakyRelu")
    x, stages = conv(net.input(1, 3, size, size), 32, 3), []
    for width in (64, 128, 256, 512, 1024):
        x = conv(x, width, 3, 2)
        x = net.add(x, conv(conv(x, width // 2), width, 3))
        stages.append(x)
    x = conv(conv(conv(x, 512), 1024, 3), 512)
    low = net.conv(conv(x, 1024, 3), 255, act="")
    x = net.concat(net.upsample(conv(x, 256)), stages[3])
    return net.model(low, net.conv(conv(conv(x, 256), 512, 3), 255, act=""))


def yolo_v5(size: int, width: int = 32) -> onnx.ModelProto:
    """Cross-stage partial blocks with silu, and spatial pyramid pooling."""
    net = Net("yolo_v5")
    conv = partial(net.conv, act="silu")

    def partial_block(x: Tensor, width: int, shortcut: bool = True) -> Tensor:
        y = conv(x, width // 2)
        z = conv(conv(y, width // 2), width // 2, 3)
        return conv(net.concat(net.add(y, z) if shortcut else z, conv(x, width // 2)), width)

    x, stages = conv(net.input(1, 3, size, size), width, 6, 2, pad=2), []
    for level in range(1, 5):
        x = partial_block(conv(x, width << level, 3, 2), width << level)
        stages.append(x)
    x = conv(x, 8 * width)
    pools = [x]
    for _ in range(3):
        pools.append(net.pool(pools[-1], 5, 1, 2))
    x = conv(conv(net.concat(*pools), 16 * width), 8 * width)
    x = conv(partial_block(net.concat(net.upsample(x), stages[2]), 8 * width, False), 4 * width)
    x = partial_block(net.concat(net.upsample(x), stages[1]), 4 * width, False)
    return net.model(net.conv(x, 255, act="Sigmoid"))


def dilated(size: int) -> onnx.ModelProto:
    """DeepLab's pyramid of dilated convolutions over the features of a ResNet."""
    net = Net("deeplab")
    x = net.pool(net.conv(net.input(1, 3, size, size), 64, 7, 2), 3, 2, 1)
    x = net.conv(net.conv(net.conv(x, 128, 3, 2), 256, 3, dilation=2), 512, 3, dilation=4)
    parts = [net.conv(x, 256), *(net.conv(x, 256, 3, dilation=rate) for rate in (6, 12))]
    return net.model(net.conv(net.conv(net.concat(*parts), 256), 21, act=""))


def super_resolution(size: int, width: int = 64) -> onnx.ModelProto:
    """EDSR: no striding at all, and pixels from channels at the end."""
    net = Net("super_resolution")
    x = skip = net.conv(net.input(1, 3, size, size), width, 3, act="")
    for _ in range(2):
        x = net.add(x, net.conv(net.conv(x, width, 3), width, 3, act=""))
    x = net.conv(net.add(skip, net.conv(x, width, 3, act="")), 4 * width, 3, act="")
    x = net.op("DepthToSpace", x, shape=(1, width, 2 * size, 2 * size), blocksize=2)
    return net.model(net.conv(x, 3, 5, act=""))


def generator(batch: int) -> onnx.ModelProto:
    """Of images from noise, as in DCGAN, with upsampling in place of transposed convolutions."""
    net = Net("generator")
    x = net.reshape(net.dense(net.input(batch, 100), 256 * 16, "Relu"), batch, 256, 4, 4)
    for width in (256, 128, 64):
        x = net.conv(net.upsample(x), width, 3)
    return net.model(net.conv(x, 3, 3, act="Tanh"))


# Speech


def deep_speech(frames: int) -> onnx.ModelProto:
    """Deep Speech 2 without its recurrent layers: large kernels over a spectrogram, then dense layers by frame."""
    net = Net("deep_speech")
    x = net.conv(net.input(1, 1, 161, frames), 32, (41, 11), 2, act="Relu6")
    x = net.conv(net.conv(x, 32, (21, 11), (2, 1), act="Relu6"), 96, (21, 11), (2, 1), act="Relu6")
    _, c, h, w = x.shape
    x = net.dense(net.transpose(net.reshape(x, 1, c * h, w), 0, 2, 1), 800, "Relu6")
    return net.model(net.dense(net.dense(x, 800, "Relu6"), 29))


def wav2letter(frames: int) -> onnx.ModelProto:
    net = Net("wav2letter")
    x = net.conv(net.input(1, 64, frames), 256, 11, 2)
    x = net.conv(net.conv(x, 256, 7), 256, 7)
    return net.model(net.conv(net.conv(net.conv(x, 512, 15), 512), 29, act=""))


def quartznet(frames: int) -> onnx.ModelProto:
    """Separable convolutions along time."""
    net = Net("quartznet")
    x = net.conv(net.depthwise(net.input(1, 64, frames), 33, 2, ""), 256)
    for kernel, width in ((33, 256), (39, 256), (51, 512), (63, 512)):
        y = net.conv(net.depthwise(x, kernel, act=""), width, act="")
        x = net.act(net.add(y, net.conv(x, width, act="")), "Relu")
    return net.model(net.conv(x, 29, act=""))


def keyword_spotting() -> onnx.ModelProto:
    """DS-CNN over 49 frames of 10 coefficients."""
    net = Net("keyword_spotting")
    x = net.conv(net.input(1, 1, 49, 10), 64, (10, 4), 2)
    for _ in range(2):
        x = net.conv(net.depthwise(x), 64)
    return net.model(net.classify(x, 12))


# Transformers


def bert(width: int, length: int, batch: int = 1, layers: int = 1) -> onnx.ModelProto:
    net = Net("bert")
    x = net.layer_norm(net.embed(length, width, batch))
    for _ in range(layers):
        x = net.layer_norm(net.add(net.attention(x, width // 64), x))
        x = net.layer_norm(net.add(net.dense(net.dense(x, 4 * width, "gelu"), width), x))
    first = net.op("Gather", x, net.constant(np.array(0)), shape=(batch, width), axis=1)
    return net.model(x, net.dense(first, width, "Tanh"))


def gpt2(width: int, length: int) -> onnx.ModelProto:
    net = Net("gpt2")
    x = net.embed(length, width)
    x = net.add(x, net.attention(net.layer_norm(x), width // 64, mask=net.causal(length), fused=True))
    x = net.add(x, net.dense(net.dense(net.layer_norm(x), 4 * width, "gelu"), width))
    return net.model(net.dense(net.layer_norm(x), 8 * _WORDS, bias=False))


def llama(width: int, length: int, hidden: int, heads: int, kv_heads: int) -> onnx.ModelProto:
    net = Net("llama")
    x = net.embed(length, width, positions=False)
    x = net.add(x, net.attention(net.rms_norm(x), heads, kv_heads, net.causal(length), bias=False))
    y = net.rms_norm(x)
    y = net.mul(net.dense(y, hidden, "silu", bias=False), net.dense(y, hidden, bias=False))
    x = net.add(x, net.dense(y, width, bias=False))
    return net.model(net.dense(net.rms_norm(x), 8 * _WORDS, bias=False))


def linear_attention(width: int, length: int) -> onnx.ModelProto:
    """Keys meet values before queries do, so both products are of matrices known at run time only."""
    net = Net("linear_attention")
    x, depth = net.embed(length, width), 64
    parts = net.split(net.dense(net.layer_norm(x), 3 * width), 3, 2)
    q, k, v = (net.transpose(net.reshape(y, 1, length, width // depth, depth), 0, 2, 1, 3) for y in parts)
    q, k = net.op("Softmax", q, axis=-1), net.op("Softmax", k, axis=-2)
    y = net.transpose(net.product(q, net.product(net.transpose(k, 0, 1, 3, 2), v)), 0, 2, 1, 3)
    x = net.add(x, net.dense(net.reshape(y, 1, length, width), width))
    return net.model(net.add(x, net.dense(net.dense(net.layer_norm(x), 4 * width, "gelu"), width)))


def _patches(net: Net, size: int, patch: int, width: int) -> Tensor:
    """An image as [1, patches, width]."""
    x = net.conv(net.input(1, 3, size, size), width, patch, patch, act="", pad=0)
    return net.transpose(net.reshape(x, 1, width, x.shape[2] * x.shape[3]), 0, 2, 1)


def vit(size: int, patch: int, width: int) -> onnx.ModelProto:
    net = Net("vit")
    x = net.concat(net.weight(1, 1, width), _patches(net, size, patch, width))
    x = net.add(x, net.weight(*x.shape[1:]))
    x = net.add(x, net.attention(net.layer_norm(x), width // 64, fused=True))
    x = net.add(x, net.dense(net.dense(net.layer_norm(x), 4 * width, "gelu"), width))
    first = net.op("Gather", net.layer_norm(x), net.constant(np.array(0)), shape=(1, width), axis=1)
    return net.model(net.dense(first, 1000))


def swin(size: int, width: int, window: int = 7) -> onnx.ModelProto:
    """Attention in windows, none of them shifted."""
    net = Net("swin")
    x = net.layer_norm(_patches(net, size, 4, width))
    side, area = size // 4, window * window
    for stage in range(4):
        n, deep = side // window, width << stage
        if stage:
            x = net.transpose(net.reshape(x, 1, side, 2, side, 2, deep // 2), 0, 1, 3, 2, 4, 5)
            x = net.dense(net.layer_norm(net.reshape(x, 1, side * side, 2 * deep)), deep, bias=False)
        y = net.reshape(net.layer_norm(x), 1, n, window, n, window, deep)
        y = net.reshape(net.transpose(y, 0, 1, 3, 2, 4, 5), n * n, area, deep)
        y = net.attention(y, deep // 32, mask=net.weight(1, deep // 32, area, area), fused=True)
        y = net.transpose(net.reshape(y, 1, n, n, window, window, deep), 0, 1, 3, 2, 4, 5)
        x = net.add(x, net.reshape(y, 1, side * side, deep))
        x = net.add(x, net.dense(net.dense(net.layer_norm(x), 4 * deep, "gelu"), deep))
        side //= 2
    mean = net.op("ReduceMean", net.layer_norm(x), shape=(1, x.shape[2]), axes=[1], keepdims=0)
    return net.model(net.dense(mean, 1000))


def mixer(size: int, patch: int, width: int) -> onnx.ModelProto:
    net = Net("mixer")
    x = _patches(net, size, patch, width)
    y = net.transpose(net.layer_norm(x), 0, 2, 1)
    x = net.add(x, net.transpose(net.dense(net.dense(y, width // 2, "gelu"), x.shape[1]), 0, 2, 1))
    x = net.add(x, net.dense(net.dense(net.layer_norm(x), 4 * width, "gelu"), width))
    mean = net.op("ReduceMean", net.layer_norm(x), shape=(1, width), axes=[1], keepdims=0)
    return net.model(net.dense(mean, 1000))


# Dense networks


def mlp(batch: int, widths: Sequence[int], act: str = "Relu", last: str = "") -> onnx.ModelProto:
    net = Net("mlp")
    x = net.input(batch, widths[0])
    for width in widths[1:-1]:
        x = net.dense(x, width, act)
    return net.model(net.dense(x, widths[-1], last))


def recommender(batch: int) -> onnx.ModelProto:
    """DLRM: dense features and embeddings, their products with each other, and two perceptrons."""
    net = Net("recommender")
    x = net.dense(net.dense(net.dense(net.input(batch, 13), 512, "Relu"), 256, "Relu"), 64, "Relu")
    rows = net.input(batch, 26, kind=TensorProto.INT64)
    embedded = net.op("Gather", net.weight(_WORDS, 64, scale=0.1), rows, shape=(batch, 26, 64))
    both = net.concat(net.reshape(x, batch, 1, 64), embedded)
    pairs = net.reshape(net.product(both, net.transpose(both, 0, 2, 1)), batch, 27 * 27)
    x = net.dense(net.dense(net.concat(x, pairs), 512, "Relu"), 256, "Relu")
    return net.model(net.dense(x, 1, "Sigmoid"))


def point_net(points: int) -> onnx.ModelProto:
    """The same layers for each of many points, then the maximum of each channel."""
    net = Net("point_net")
    x = net.input(1, points, 3)
    for width in (64, 128, 1024):
        x = net.dense(x, width, "Relu")
    x = net.op("ReduceMax", x, shape=(1, 1024), axes=[1], keepdims=0)
    return net.model(net.dense(net.dense(net.dense(x, 512, "Relu"), 256, "Relu"), 40))


_AUTOENCODER = (784, 512, 256, 64, 256, 512, 784)

#: Each by family, size and input: pixels on a side, tokens, frames, points or `b` and the batch.
NETWORKS: dict[str, Network] = {
    "resnet18_224": partial(resnet, 224, expand=1),
    "resnet34_192": partial(resnet, 192, expand=1),
    "resnet18_112_b4": partial(resnet, 112, expand=1, batch=4),
    "resnet101_256": partial(resnet, 256),
    "wide_resnet50_160": partial(resnet, 160, inner=2),
    "resnext50_224": partial(resnet, 224, inner=2, groups=32),
    "resnet_cifar_b8": partial(resnet_cifar, 8),
    "vgg11_192": partial(vgg, 192, ((64,), (128,), (256, 256), (512, 512), (512, 512))),
    "mobilenet_v1_224": partial(mobilenet_v1, 224),
    "mobilenet_v1_half_128_b4": partial(mobilenet_v1, 128, scale=0.5, batch=4),
    "mobilenet_v2_160": partial(mobilenet_v2, 160),
    "mobilenet_v3_224": partial(mobilenet_v3, 224),
    "efficientnet_b0_224": partial(efficientnet, 224, 1.0),
    "efficientnet_b3_300": partial(efficientnet, 300, 1.2),
    "densenet161_256": partial(densenet, 256, 48, 96, (3, 3, 3, 3)),
    "inception_v3_299": partial(inception_v3, 299),
    "squeezenet_256": partial(squeezenet, 256),
    "shufflenet_v1_192": partial(shufflenet_v1, 192, 4, (272, 544, 1088)),
    "shufflenet_v2_224": partial(shufflenet_v2, 224),
    "regnet_x_1600_224": partial(regnet, 224, (72, 168, 408, 912), 24),
    "regnet_y_400_192": partial(regnet, 192, (48, 104, 208, 440), 8, squeeze=True),
    "convnext_tiny_224": partial(convnext, 224, (96, 192, 384, 768)),
    "unet_256": partial(unet, 256, 32),
    "yolo_v3_416": partial(yolo_v3, 416),
    "yolo_v5s_320": partial(yolo_v5, 320),
    "deeplab_257": partial(dilated, 257),
    "super_resolution_96": partial(super_resolution, 96),
    "generator_b4": partial(generator, 4),
    "deep_speech_200": partial(deep_speech, 200),
    "wav2letter_300": partial(wav2letter, 300),
    "quartznet_256": partial(quartznet, 256),
    "keyword_spotting": keyword_spotting,
    "bert_tiny_32_b8": partial(bert, 128, 32, batch=8),
    "bert_mini_128": partial(bert, 256, 128),
    "bert_small_256": partial(bert, 512, 256),
    "bert_base_32": partial(bert, 768, 32),
    "bert_base_384": partial(bert, 768, 384),
    "bert_large_128": partial(bert, 1024, 128),
    "gpt2_medium_64": partial(gpt2, 1024, 64),
    "gpt2_medium_1": partial(gpt2, 1024, 1),
    "llama_160m_256": partial(llama, 768, 256, 2048, 12, 4),
    "llama_1b_16": partial(llama, 2048, 16, 5632, 32, 4),
    "linear_attention_512": partial(linear_attention, 384, 512),
    "vit_s16_224": partial(vit, 224, 16, 384),
    "vit_b32_224": partial(vit, 224, 32, 768),
    "swin_tiny_224": partial(swin, 224, 96),
    "mixer_s16_224": partial(mixer, 224, 16, 512),
    "autoencoder_b1": partial(mlp, 1, _AUTOENCODER, last="Sigmoid"),
    "autoencoder_b64": partial(mlp, 64, _AUTOENCODER, last="Sigmoid"),
    "mlp_b16": partial(mlp, 16, (256, 1024, 1024, 10), act="gelu"),
    "recommender_b128": partial(recommender, 128),
    "point_net_1024": partial(point_net, 1024),
}


def main(names: Sequence[str]) -> None:
    """Compile up to the groups, and count those that leave a schedule to choose."""
    from targets.cpu import CpuTarget
    from tensorc.frontend.importer import import_model
    from tensorc.options import CompileOptions
    from tensorc.pipeline import run_passes
    from tensorc.search.tasks import tasks_of

    options = CompileOptions()
    target = CpuTarget()
    seen: set[object] = set()
    for name in names or NETWORKS:
        start = time.perf_counter()
        model = NETWORKS[name]()
        if names:
            onnx.save(model, f"{name}.onnx")
        graph = import_model(model).graph
        run_passes(graph, target.passes(options))
        tasks = tasks_of(graph, target.tuning(options))
        new = {task.key for task in tasks} - seen
        seen |= new
        seconds = time.perf_counter() - start
        print(f"{name:26s} {len(tasks):3d} tasks, {len(new):3d} of them new, {seconds:5.1f} s", flush=True)
    print(f"{len(names or NETWORKS)} networks, {len(seen)} distinct tasks")


if __name__ == "__main__":
    main(sys.argv[1:])
