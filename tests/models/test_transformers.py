"""Small transformers as exporters write them, compiled and compared with ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.compiler


def ints(net, *values):
    return net.constant(list(values), "int64")


def layer_norm(net, x, width):
    """As torch.onnx wrote it before opset 17."""
    centred = net.Sub(x, net.ReduceMean(x, axes=[-1], keepdims=1))
    variance = net.ReduceMean(net.Pow(centred, net.constant(2.0)), axes=[-1], keepdims=1)
    normal = net.Div(centred, net.Sqrt(net.Add(variance, net.constant(1e-5))))
    return net.Add(net.Mul(normal, net.weight(width, scale=0.1, shift=1)), net.weight(width, scale=0.1))


def rms_norm(net, x, width):
    mean = net.ReduceMean(net.Pow(x, net.constant(2.0)), axes=[-1], keepdims=1)
    factor = net.Reciprocal(net.Sqrt(net.Add(mean, net.constant(1e-6))))
    return net.Mul(net.weight(width, scale=0.1, shift=1), net.Mul(x, factor))


def gelu(net, x):
    erf = net.Erf(net.Div(x, net.constant(np.sqrt(2.0))))
    return net.Mul(net.Mul(x, net.Add(erf, net.constant(1.0))), net.constant(0.5))


def tanh_gelu(net, x):
    cubic = net.Mul(net.Pow(x, net.constant(3.0)), net.constant(0.044715))
    inner = net.Mul(net.Add(x, cubic), net.constant(np.sqrt(2 / np.pi)))
    return net.Mul(net.Mul(x, net.constant(0.5)), net.Add(net.Tanh(inner), net.constant(1.0)))


def linear(net, x, inputs, outputs, bias=True):
    product = net.MatMul(x, net.constant(net.rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)))
    return net.Add(net.weight(outputs, scale=0.1), product) if bias else product


def heads_of(net, x, batch, length, heads, depth):
    return net.Transpose(net.Reshape(x, ints(net, batch, length, heads, depth)), perm=[0, 2, 1, 3])


def attend(net, q, k, v, mask, depth):
    scores = net.Div(net.MatMul(q, net.Transpose(k, perm=[0, 1, 3, 2])), net.constant(np.sqrt(depth)))
    return net.MatMul(net.Softmax(net.Add(scores, mask) if mask else scores, axis=-1), v)


def merged(net, x, batch, length, width):
    return net.Reshape(net.Transpose(x, perm=[0, 2, 1, 3]), ints(net, batch, length, width))


@pytest.mark.parametrize(("batch", "length", "heads", "depth"), [(2, 12, 4, 16), (1, 7, 3, 8)])
def test_bert(batch, length, heads, depth, net, agrees):
    width = heads * depth
    ids, kept = net.input(batch, length, kind="i"), net.input(batch, length, kind="i")
    mask = net.Cast(net.Unsqueeze(net.Unsqueeze(kept, ints(net, 1)), ints(net, 2)), to=1)
    mask = net.Mul(net.Sub(net.constant(1.0), mask), net.constant(-10000.0))
    position = net.constant(net.rng.standard_normal((1, length, width)))
    x = layer_norm(net, net.Add(net.Gather(net.weight(30, width, scale=1.0), ids), position), width)
    for _ in range(2):
        q, k, v = (heads_of(net, linear(net, x, width, width), batch, length, heads, depth) for _ in range(3))
        h = merged(net, attend(net, q, k, v, mask, depth), batch, length, width)
        x = layer_norm(net, net.Add(linear(net, h, width, width), x), width)
        h = linear(net, gelu(net, linear(net, x, width, 4 * width)), 4 * width, width)
        x = layer_norm(net, net.Add(h, x), width)
    pooled = net.Tanh(net.Gemm(net.Gather(x, net.constant(0, "int64"), axis=1), net.weight(width, width), transB=1))
    agrees(net, x, pooled)


def test_gpt(net, agrees):
    """Causal, one product for q, k and v, which are split off it; the embedding is the last product too."""
    batch, length, heads, depth, words = 1, 10, 4, 8, 50
    width = heads * depth
    ids = net.input(batch, length, kind="i")
    table = net.weight(words, width, scale=1.0)
    x = net.Add(net.Gather(table, ids), net.constant(net.rng.standard_normal((length, width))))
    causal = net.constant(np.tril(np.ones((1, 1, length, length), bool)))
    for _ in range(2):
        h = net.LayerNormalization(x, net.weight(width, shift=1, scale=0.1), net.weight(width, scale=0.1), axis=-1)
        q, k, v = (
            heads_of(net, part, batch, length, heads, depth)
            for part in net.split(linear(net, h, width, 3 * width), 3, 2)
        )
        scores = net.Mul(net.MatMul(q, net.Transpose(k, perm=[0, 1, 3, 2])), net.constant(1 / np.sqrt(depth)))
        scores = net.Where(causal, scores, net.constant(-3.4e38))
        h = merged(net, net.MatMul(net.Softmax(scores, axis=-1), v), batch, length, width)
        x = net.Add(x, linear(net, h, width, width))
        h = layer_norm(net, x, width)
        x = net.Add(x, linear(net, tanh_gelu(net, linear(net, h, width, 4 * width)), 4 * width, width))
    agrees(net, net.MatMul(layer_norm(net, x, width), net.Transpose(table, perm=[1, 0])), high=words)


def rotated(net, x, cosines, sines, depth):
    """x cos + rotate_half(x) sin, on the last axis."""
    first = net.Slice(x, ints(net, 0), ints(net, depth // 2), ints(net, 3))
    second = net.Slice(x, ints(net, depth // 2), ints(net, depth), ints(net, 3))
    turned = net.Concat(net.Neg(second), first, axis=-1)
    return net.Add(net.Mul(x, cosines), net.Mul(turned, sines))


@pytest.mark.parametrize("batch", [1, 2])
def test_llama(batch, net, agrees):
    """RMS norms, rotary positions, two query heads for each key head, a gated feed-forward network."""
    length, heads, groups, depth = 9, 4, 2, 16
    width = heads * depth
    x = net.input(batch, length, width)
    angles = np.outer(np.arange(length), 1 / 10000 ** (np.arange(0, depth, 2) / depth))
    angles = np.concatenate([angles, angles], axis=-1)[None, None]
    cosines, sines = net.constant(np.cos(angles)), net.constant(np.sin(angles))
    mask = net.constant(np.triu(np.full((1, 1, length, length), -1e9), 1))

    def repeated(kv):
        wide = net.Unsqueeze(kv, ints(net, 2))
        wide = net.Expand(wide, ints(net, batch, groups, heads // groups, length, depth))
        return net.Reshape(wide, ints(net, batch, heads, length, depth))

    for _ in range(2):
        h = rms_norm(net, x, width)
        q = heads_of(net, linear(net, h, width, width, bias=False), batch, length, heads, depth)
        k = heads_of(net, linear(net, h, width, groups * depth, bias=False), batch, length, groups, depth)
        v = heads_of(net, linear(net, h, width, groups * depth, bias=False), batch, length, groups, depth)
        q, k = rotated(net, q, cosines, sines, depth), rotated(net, k, cosines, sines, depth)
        h = merged(net, attend(net, q, repeated(k), repeated(v), mask, depth), batch, length, width)
        x = net.Add(x, linear(net, h, width, width, bias=False))
        h = rms_norm(net, x, width)
        gate = linear(net, h, width, 96, bias=False)
        gate = net.Mul(gate, net.Sigmoid(gate))
        h = net.Mul(gate, linear(net, h, width, 96, bias=False))
        x = net.Add(x, linear(net, h, 96, width, bias=False))
    agrees(net, rms_norm(net, x, width))


def test_vision_transformer(net, agrees):
    """Patches by a convolution, a class token in front, one head of classes on it."""
    width, heads, depth, patches = 32, 4, 8, 9
    x = net.Conv(net.input(1, 3, 12, 12), net.weight(width, 3, 4, 4), net.weight(width), strides=[4, 4])
    x = net.Transpose(net.Reshape(x, ints(net, 1, width, patches)), perm=[0, 2, 1])
    x = net.Concat(net.weight(1, 1, width), x, axis=1)
    x = net.Add(x, net.weight(1, patches + 1, width, scale=0.1))
    h = layer_norm(net, x, width)
    qkv = net.Reshape(linear(net, h, width, 3 * width), ints(net, 1, patches + 1, 3, heads, depth))
    qkv = net.Transpose(qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.Gather(qkv, net.constant(number, "int64"), axis=0) for number in range(3))
    h = merged(net, attend(net, q, k, v, None, depth), 1, patches + 1, width)
    x = net.Add(x, linear(net, h, width, width))
    x = net.Add(x, linear(net, gelu(net, linear(net, layer_norm(net, x, width), width, 64)), 64, width))
    first = net.Gather(layer_norm(net, x, width), net.constant(0, "int64"), axis=1)
    agrees(net, net.Gemm(first, net.weight(10, width), net.weight(10), transB=1))


@pytest.mark.parametrize("target", ["cpu:x86-64-v3", "cpu:x86-64-v2"])
def test_narrower_vectors(target, net, agrees):
    x = net.input(2, 11, 24)
    q, k, v = (heads_of(net, linear(net, x, 24, 24), 2, 11, 3, 8) for _ in range(3))
    h = merged(net, attend(net, q, k, v, None, 8), 2, 11, 24)
    agrees(net, layer_norm(net, net.Add(x, gelu(net, linear(net, h, 24, 24))), 24), target=target)
