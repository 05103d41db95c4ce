"""Whole models for NVIDIA GPUs, their kernels' own CUDA C emulated, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

import tensorc
from tensorc.environment import EMULATE

pytestmark = pytest.mark.compiler


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    monkeypatch.setenv(EMULATE, "1")


def test_convolutions(net, agrees):
    x = net.input(1, 3, 12, 12)
    y = net.Relu(net.conv(x, 3, 16, kernel=3, strides=[2, 2]))
    z = net.Relu(net.conv(y, 16, 16, kernel=3, groups=16))
    y = net.Add(y, net.conv(z, 16, 16))
    y = net.MaxPool(y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.Flatten(net.GlobalAveragePool(y))
    agrees(net, net.Softmax(net.Gemm(y, net.weight(16, 10), net.weight(10)), axis=-1), target="cuda:sm_90")


def test_a_transformer_block(net, agrees):
    ids = net.input(1, 7, kind="i")
    x = net.Gather(net.weight(11, 16), ids)
    x = net.LayerNormalization(x, net.weight(16, shift=1.0), net.weight(16), axis=-1)
    heads = [
        net.Transpose(net.Reshape(net.MatMul(x, net.weight(16, 16)), net.constant([1, 7, 2, 8], np.int64)), perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    ]
    scores = net.Softmax(net.Mul(net.MatMul(heads[0], heads[1]), net.constant(np.float32(8**-0.5))), axis=-1)
    mixed = net.Transpose(net.MatMul(scores, heads[2]), perm=[0, 2, 1, 3])
    x = net.Add(x, net.MatMul(net.Reshape(mixed, net.constant([1, 7, 16], np.int64)), net.weight(16, 16)))
    agrees(net, net.Add(x, net.Tanh(net.MatMul(x, net.weight(16, 16)))), high=11, target="cuda:sm_90")


def test_outputs_that_nothing_computes(net, agrees):
    """Inputs, constants and views of them."""
    x = net.input(2, 3)
    agrees(net, net.Identity(x), net.Reshape(x, net.constant([3, 2], np.int64)), net.Identity(net.weight(4)),
           target="cuda:sm_90")  # fmt: skip


def test_parts_that_begin_anywhere(net, agrees):
    """Rows of 20 bytes: kernels that move 16 at once cannot read the second and the third where they lie."""
    first, second, third = net.split(net.Exp(net.input(3, 5)), 3, axis=0)
    agrees(net, net.Softmax(second, axis=-1), net.Add(first, third), target="cuda:sm_90")


def test_weights_in_few_bits(net):
    """Decoded in registers for one row and for tiles of many: what the CPU gives for the same codes; with float16, what
    lies between is rounded."""
    x = net.input(1, 20, 64)
    y = net.Tanh(net.Add(net.MatMul(x, net.weight(64, 48)), net.weight(48)))
    last = net.MatMul(net.ReduceMean(y, axes=[1], keepdims=0), net.weight(48, 24))
    data, feed = net.model(last).SerializeToString(), net.feed()
    with tensorc.compile(data, quantize="int4-g32") as model:
        (want,) = model.run(None, feed)
    for precision, tolerance in (("float32", 1e-6), ("float16", 2e-3)):
        with tensorc.compile(data, target="cuda:sm_90", quantize="int4-g32", precision=precision) as model:
            (got,) = model.run(None, feed)
        np.testing.assert_allclose(got, want, 0, tolerance * np.abs(want).max())
