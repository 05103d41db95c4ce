"""Networks of well-known families, generated, so that the cost model sees many different workloads.

Each entry of `NETWORKS` builds an ONNX model with seeded weights. Batch norms are folded already, and a stage has only
as many blocks as show its distinct shapes: repeated layers are one workload. What a network computes means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_POOL = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)


class Net:
    """Adds nodes in order; values are known by name and shape."""

    def __init__(self, *shape: int):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {"x": shape}
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        self.count = 0

    def add(self, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: object) -> str:
        self.count += 1
        name = f"v{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        self.shapes[name] = tuple(shape)
        return name

    def weight(self, *shape: int, fan_in: int = 1) -> str:
        self.count += 1
        name = f"w{self.count}"
        data = np.resize(np.roll(_POOL, self.count * 977), shape) * np.float32(fan_in**-0.5)
        self.weights.append(numpy_helper.from_array(data.astype(np.float32), name))
        return name

    def integers(self, values: Sequence[int]) -> str:
        self.count += 1
        name = f"w{self.count}"
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    # Layers ---------------------------------------------------------------------------------------------

    def act(self, x: str, kind: str) -> str:
        shape = self.shapes[x]
        match kind:
            case "none":
                return x
            case "relu":
                return self.add("Relu", [x], shape)
            case "silu":
                return self.add("Mul", [x, self.add("Sigmoid", [x], shape)], shape)
            case "hswish":
                return self.add("Mul", [x, self.add("HardSigmoid", [x], shape, alpha=1 / 6, beta=0.5)], shape)
            case "gelu":
                root = self.add("Div", [x, self.constant(2**0.5)], shape)
                one = self.add("Add", [self.add("Erf", [root], shape), self.constant(1.0)], shape)
                return self.add("Mul", [self.add("Mul", [x, one], shape), self.constant(0.5)], shape)
        raise ValueError(kind)

    def constant(self, value: float) -> str:
        self.count += 1
        name = f"w{self.count}"
        self.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def conv(self, x: str, out: int, k: int | tuple[int, int] = 1, stride: int = 1, groups: int = 1,
             act: str = "relu") -> str:  # fmt: skip
        n, c, h, w = self.shapes[x]
        kh, kw = (k, k) if isinstance(k, int) else k
        pads = [kh // 2, kw // 2, kh // 2, kw // 2]
        oh, ow = ((e + 2 * p - kk) // stride + 1 for e, p, kk in ((h, pads[0], kh), (w, pads[1], kw)))
        weights = [self.weight(out, c // groups, kh, kw, fan_in=c // groups * kh * kw), self.weight(out)]
        y = self.add("Conv", [x, *weights], (n, out, oh, ow), pads=pads, strides=[stride] * 2, group=groups,
                     kernel_shape=[kh, kw])  # fmt: skip
        return self.act(y, act)

    def pool(self, x: str, k: int = 3, stride: int = 2, op: str = "MaxPool") -> str:
        n, c, h, w = self.shapes[x]
        pad = k // 2
        shape = (n, c, (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1)
        return self.add(op, [x], shape, kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4)

    def sum(self, a: str, b: str, act: str = "none") -> str:
        return self.act(self.add("Add", [a, b], self.shapes[a]), act)

    def concat(self, *parts: str) -> str:
        n, _, h, w = self.shapes[parts[0]]
        return self.add("Concat", parts, (n, sum(self.shapes[p][1] for p in parts), h, w), axis=1)

    def head(self, x: str, classes: int = 1000) -> str:
        n, c, _, _ = self.shapes[x]
        flat = self.add("Flatten", [self.add("GlobalAveragePool", [x], (n, c, 1, 1))], (n, c))
        return self.linear(flat, classes)

    def linear(self, x: str, out: int, act: str = "none") -> str:
        *lead, depth = self.shapes[x]
        y = self.add("MatMul", [x, self.weight(depth, out, fan_in=depth)], (*lead, out))
        return self.act(self.add("Add", [y, self.weight(out)], (*lead, out)), act)

    def excite(self, x: str, squeezed: int, gate: str = "Sigmoid") -> str:
        n, c, h, w = self.shapes[x]
        pooled = self.add("GlobalAveragePool", [x], (n, c, 1, 1))
        wide = self.conv(self.conv(pooled, squeezed), c, act="none")
        return self.add("Mul", [x, self.add(gate, [wide], (n, c, 1, 1))], (n, c, h, w))

    def norm(self, x: str) -> str:
        depth = self.shapes[x][-1]
        return self.add("LayerNormalization", [x, self.weight(depth), self.weight(depth)], self.shapes[x], axis=-1)

    def shape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", [x, self.integers(shape)], shape)

    def turn(self, x: str, *perm: int) -> str:
        return self.add("Transpose", [x], [self.shapes[x][axis] for axis in perm], perm=list(perm))

    def model(self, y: str) -> onnx.ModelProto:
        outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, self.shapes[y])]
        graph = helper.make_graph(self.nodes, "network", self.inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# Families ------------------------------------------------------------------------------------------------


def resnet(size: int, width: int = 64, bottleneck: bool = False, groups: int = 1, wide: int = 1) -> onnx.ModelProto:
    net = Net(1, 3, size, size)
    x = net.pool(net.conv("x", 64, 7, 2))
    for stage in range(4):
        inner, stride = width * 2**stage, 1 if stage == 0 else 2
        out = 64 * 2**stage * (4 if bottleneck else 1)
        for block in range(2):
            s = stride if block == 0 else 1
            if bottleneck:
                y = net.conv(net.conv(x, inner * wide), inner * wide, 3, s, groups)
                y = net.conv(y, out, act="none")
            else:
                y = net.conv(net.conv(x, inner, 3, s), inner, 3, act="none")
            skip = x if net.shapes[x] == net.shapes[y] else net.conv(x, net.shapes[y][1], 1, s, act="none")
            x = net.sum(y, skip, "relu")
    return net.model(net.head(x))


def vgg(size: int, batch: int = 1) -> onnx.ModelProto:
    net, x = Net(batch, 3, size, size), "x"
    for out, count in ((64, 1), (128, 1), (256, 2), (512, 2), (512, 1)):
        for _ in range(count):
            x = net.conv(x, out, 3)
        x = net.pool(x, 2)
    return net.model(net.head(x))


def mobile(size: int, rows: Sequence[tuple[int, int, int, int]], act: str, excite: bool, first: int) -> onnx.ModelProto:
    """Rows are (expansion, output channels, filter, stride) of inverted residual blocks."""
    net = Net(1, 3, size, size)
    x = net.conv("x", first, 3, 2, act=act)
    for expansion, out, k, stride in rows:
        channels = net.shapes[x][1]
        inner = channels * expansion
        y = net.conv(x, inner, act=act) if expansion > 1 else x
        y = net.conv(y, inner, k, stride, inner, act)
        if excite:
            y = net.excite(y, max(channels // 4, 8))
        y = net.conv(y, out, act="none")
        x = net.sum(y, x) if net.shapes[x] == net.shapes[y] else y
    return net.model(net.head(net.conv(x, net.shapes[x][1] * 4, act=act)))


def mobilenet_v1(size: int, width: float = 1.0) -> onnx.ModelProto:
    net = Net(1, 3, size, size)
    x = net.conv("x", int(32 * width), 3, 2)
    for out, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (1024, 2), (1024, 1)):
        channels = net.shapes[x][1]
        x = net.conv(net.conv(x, channels, 3, stride, channels), int(out * width))
    return net.model(net.head(x))


def densenet(size: int, growth: int, stem: int) -> onnx.ModelProto:
    net = Net(1, 3, size, size)
    x = net.pool(net.conv("x", stem, 7, 2))
    for _ in range(4):
        for _ in range(4):
            x = net.concat(x, net.conv(net.conv(net.act(x, "relu"), 4 * growth), growth, 3, act="none"))
        x = net.pool(net.conv(x, net.shapes[x][1] // 2), 2, 2, "AveragePool")
    return net.model(net.head(x))


def inception(size: int) -> onnx.ModelProto:
    net = Net(1, 3, size, size)
    x = net.pool(net.conv(net.conv(net.conv("x", 32, 3, 2), 32, 3), 64, 3))
    x = net.pool(net.conv(net.conv(x, 80), 192, 3))
    for out in (32, 64):
        double = net.conv(net.conv(net.conv(x, 64), 96, 3), 96, 3)
        x = net.concat(net.conv(x, 64), net.conv(net.conv(x, 48), 64, 5), double, net.conv(net.pool(x, 3, 1), out))
    x = net.concat(net.conv(x, 384, 3, 2), net.conv(net.conv(net.conv(x, 64), 96, 3), 96, 3, 2), net.pool(x))
    for inner in (128, 160, 192):
        seven = net.conv(net.conv(net.conv(x, inner), inner, (1, 7)), 192, (7, 1))
        long = net.conv(net.conv(net.conv(net.conv(x, inner), inner, (7, 1)), inner, (1, 7)), inner, (7, 1))
        x = net.concat(net.conv(x, 192), seven, net.conv(long, 192, (1, 7)), net.conv(net.pool(x, 3, 1), 192))
    return net.model(net.head(x))


def squeezenet(size: int) -> onnx.ModelProto:
    net = Net(1, 3, size, size)
    x = net.pool(net.conv("x", 96, 7, 2))
    for squeeze, expand in ((16, 64), (32, 128), (48, 192), (64, 256)):
        y = net.conv(x, squeeze)
        x = net.concat(net.conv(y, expand), net.conv(y, expand, 3))
        if squeeze in (16, 32):
            x = net.pool(x)
    return net.model(net.head(x))


def shufflenet(size: int, groups: int, width: int) -> onnx.ModelProto:
    net = Net(1, 3, size, size)
    x = net.pool(net.conv("x", 24, 3, 2))
    x = net.conv(x, width)
    for _ in range(3):
        for _ in range(2):
            n, c, h, w = net.shapes[x]
            y = net.conv(x, c // 4, groups=groups)
            split = net.turn(net.shape(y, n, groups, c // 4 // groups, h, w), 0, 2, 1, 3, 4)
            y = net.conv(net.shape(split, n, c // 4, h, w), c // 4, 3, groups=c // 4, act="none")
            x = net.sum(net.conv(y, c, groups=groups, act="none"), x, "relu")
        x = net.concat(net.pool(x, op="AveragePool"), net.pool(x))
    return net.model(net.head(x))


def convnext(size: int, width: int) -> onnx.ModelProto:
    net = Net(1, 3, size, size)
    x = net.conv("x", width, 3, 4, act="none")
    for stage in range(4):
        n, c, h, w = net.shapes[x]
        y = net.turn(net.conv(x, c, 7, groups=c, act="none"), 0, 2, 3, 1)
        y = net.linear(net.linear(net.norm(y), 4 * c, "gelu"), c)
        x = net.sum(net.turn(y, 0, 3, 1, 2), x)
        if stage < 3:
            x = net.conv(x, 2 * c, 3, 2, act="none")
    return net.model(net.head(x))


def unet(size: int, width: int) -> onnx.ModelProto:
    """The way down and, at one resolution each, what the way up computes."""
    net, x = Net(1, 3, size, size), "x"
    for level in range(4):
        x = net.conv(net.conv(x, width * 2**level, 3), width * 2**level, 3)
        both = net.concat(x, net.conv(x, width * 2**level, 3))
        x = net.pool(net.conv(both, width * 2**level, 3), 2)
    return net.model(net.conv(x, 2, act="none"))


def darknet(size: int) -> onnx.ModelProto:
    net = Net(1, 3, size, size)
    x = net.conv("x", 32, 3, act="silu")
    for out in (64, 128, 256, 512, 1024):
        x = net.conv(x, out, 3, 2, act="silu")
        x = net.sum(net.conv(net.conv(x, out // 2, act="silu"), out, 3, act="silu"), x)
    return net.model(net.conv(x, 255, act="none"))


def speech(length: int) -> onnx.ModelProto:
    net = Net(1, 80, 1, length)
    x = net.conv("x", 256, (1, 11), act="relu")
    for out in (256, 384, 512):
        x = net.conv(net.conv(x, out, (1, 3)), out, (1, 13))
    return net.model(net.conv(x, 29, act="none"))


def transformer(tokens: int, depth: int, heads: int, act: str = "gelu", gated: bool = False,
                batch: int = 1) -> onnx.ModelProto:  # fmt: skip
    """One layer: attention and a feed-forward part."""
    net = Net(batch, tokens, depth)
    each = depth // heads
    x = net.norm("x")

    def project() -> str:
        return net.turn(net.shape(net.linear(x, depth), batch, tokens, heads, each), 0, 2, 1, 3)

    q, k, v = project(), project(), project()
    scores = net.add("MatMul", [q, net.turn(k, 0, 1, 3, 2)], (batch, heads, tokens, tokens))
    scaled = net.add("Mul", [scores, net.constant(each**-0.5)], net.shapes[scores])
    weights = net.add("Softmax", [scaled], net.shapes[scores], axis=-1)
    mixed = net.turn(net.add("MatMul", [weights, v], (batch, heads, tokens, each)), 0, 2, 1, 3)
    x = net.sum(net.linear(net.shape(mixed, batch, tokens, depth), depth), "x")
    y = net.norm(x)
    wide = net.linear(y, 4 * depth, act)
    if gated:
        wide = net.add("Mul", [wide, net.linear(y, 4 * depth)], net.shapes[wide])
    return net.model(net.sum(net.linear(wide, depth), x))


def perceptron(batch: int, widths: Sequence[int]) -> onnx.ModelProto:
    net, x = Net(batch, widths[0]), "x"
    for width in widths[1:]:
        x = net.linear(x, width, "relu")
    return net.model(x)


_V2 = ((1, 16, 3, 1), (6, 24, 3, 2), (6, 24, 3, 1), (6, 32, 3, 2), (6, 32, 3, 1), (6, 64, 3, 2), (6, 96, 3, 1),
       (6, 96, 3, 1), (6, 160, 3, 2), (6, 160, 3, 1), (6, 320, 3, 1))  # fmt: skip
_B0 = ((1, 16, 3, 1), (6, 24, 3, 2), (6, 24, 3, 1), (6, 40, 5, 2), (6, 40, 5, 1), (6, 80, 3, 2), (6, 80, 3, 1),
       (6, 112, 5, 1), (6, 192, 5, 2), (6, 192, 5, 1), (6, 320, 3, 1))  # fmt: skip
_V3 = ((1, 16, 3, 1), (4, 24, 3, 2), (3, 24, 3, 1), (3, 40, 5, 2), (3, 40, 5, 1), (6, 80, 3, 2), (3, 80, 3, 1),
       (6, 112, 3, 1), (6, 160, 5, 2), (6, 160, 5, 1))  # fmt: skip

NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet18_224": partial(resnet, 224),
    "resnet34_192": partial(resnet, 192),
    "resnet18_288": partial(resnet, 288),
    "resnet50_160": partial(resnet, 160, bottleneck=True),
    "resnet101_256": partial(resnet, 256, bottleneck=True),
    "wide_resnet50_192": partial(resnet, 192, bottleneck=True, wide=2),
    "resnext50_224": partial(resnet, 224, 128, bottleneck=True, groups=32),
    "vgg_128": partial(vgg, 128),
    "vgg_96_batch4": partial(vgg, 96, 4),
    "mobilenet_v1_224": partial(mobilenet_v1, 224),
    "mobilenet_v1_160": partial(mobilenet_v1, 160, 0.75),
    "mobilenet_v2_160": partial(mobile, 160, _V2, "relu", False, 32),
    "mobilenet_v3_224": partial(mobile, 224, _V3, "hswish", True, 16),
    "efficientnet_b0_224": partial(mobile, 224, _B0, "silu", True, 32),
    "efficientnet_b3_300": partial(mobile, 300, _B0, "silu", True, 40),
    "densenet_192": partial(densenet, 192, 48, 96),
    "densenet_256": partial(densenet, 256, 32, 64),
    "inception_v3_299": partial(inception, 299),
    "squeezenet_256": partial(squeezenet, 256),
    "shufflenet_192": partial(shufflenet, 192, 3, 240),
    "shufflenet_224": partial(shufflenet, 224, 4, 272),
    "convnext_224": partial(convnext, 224, 96),
    "unet_128": partial(unet, 128, 64),
    "unet_256": partial(unet, 256, 32),
    "darknet_416": partial(darknet, 416),
    "darknet_320": partial(darknet, 320),
    "speech_400": partial(speech, 400),
    "bert_tiny_128": partial(transformer, 128, 128, 2),
    "bert_small_64": partial(transformer, 64, 512, 8),
    "bert_base_256": partial(transformer, 256, 768, 12),
    "bert_large_128": partial(transformer, 128, 1024, 16),
    "bert_large_384": partial(transformer, 384, 1024, 16),
    "vit_s16": partial(transformer, 197, 384, 6),
    "vit_b32": partial(transformer, 50, 768, 12),
    "gpt2_medium_32": partial(transformer, 32, 1024, 16),
    "llama_small_256": partial(transformer, 256, 512, 8, "silu", True),
    "mixer_196": partial(transformer, 196, 512, 8, "gelu", False, 2),
    "perceptron_1": partial(perceptron, 1, (784, 1024, 1024, 10)),
    "perceptron_64": partial(perceptron, 64, (784, 512, 256, 100)),
    "autoencoder_16": partial(perceptron, 16, (2048, 512, 64, 512, 2048)),
}
