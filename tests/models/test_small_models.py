"""Small networks, each with a construction that large ones are made of, compiled and compared with ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.compiler


def batch_norm(net, x, channels):
    scale, variance = net.weight(channels, scale=0.1, shift=1), net.constant(net.rng.uniform(0.5, 2, channels))
    return net.BatchNormalization(x, scale, net.weight(channels, scale=0.1), net.weight(channels, scale=0.1), variance)


# Image networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [16, 24])
def test_inverted_bottleneck_with_a_gate(channels, net, agrees):
    """MobileNetV3: expand, depthwise, squeeze and excite, project, add. 24 channels leave fillers."""
    x = net.input(1, channels, 9, 7)
    h = net.HardSwish(batch_norm(net, net.conv(x, channels, 40), 40))
    h = net.HardSwish(batch_norm(net, net.conv(h, 40, 40, 5, 40), 40))
    gate = net.Relu(net.conv(net.GlobalAveragePool(h), 40, 12))
    gate = net.HardSigmoid(net.conv(gate, 12, 40), alpha=1 / 6)
    agrees(net, net.Add(net.conv(net.Mul(h, gate), 40, channels), x))


def test_gate_of_an_unblocked_mean(net, agrees):
    """As PyTorch exports EfficientNet: the mean over pixels, silu spelled out."""
    x = net.input(2, 32, 6, 6)
    h = net.conv(x, 32, 32, 3, 32, strides=[2, 2])
    h = net.Mul(h, net.Sigmoid(h))
    gate = net.conv(net.ReduceMean(h, axes=[2, 3], keepdims=1), 32, 8)
    gate = net.Sigmoid(net.conv(net.Mul(gate, net.Sigmoid(gate)), 8, 32))
    agrees(net, net.conv(net.Mul(gate, h), 32, 16))


@pytest.mark.parametrize("widths", [(16, 32, 16), (12, 20, 8)])
def test_inception(widths, net, agrees):
    x = net.input(1, 16, 8, 8)
    pooled = net.MaxPool(x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    parts = [
        net.Relu(net.conv(x, 16, widths[0])),
        net.Relu(net.conv(net.Relu(net.conv(x, 16, 8)), 8, widths[1], 3)),
        net.Relu(net.conv(pooled, 16, widths[2])),
    ]
    joined = net.Concat(*parts, axis=1)
    agrees(net, net.conv(joined, sum(widths), 10), joined)


def test_dense_block(net, agrees):
    x = net.input(1, 16, 5, 5)
    parts = [x]
    for number in range(4):
        joined = net.Concat(*parts, axis=1) if number else x
        parts.append(net.conv(net.Relu(batch_norm(net, joined, 16 * (number + 1))), 16 * (number + 1), 16, 3))
    joined = net.Concat(*parts, axis=1)
    agrees(net, net.AveragePool(joined, kernel_shape=[2, 2], strides=[2, 2]), joined)


def test_channel_shuffle(net, agrees):
    x = net.input(1, 24, 6, 5)
    h = net.Relu(net.conv(x, 24, 48, groups=3))
    h = net.Reshape(h, net.constant([1, 3, 16, 6, 5], "int64"))
    h = net.Reshape(net.Transpose(h, perm=[0, 2, 1, 3, 4]), net.constant([1, 48, 6, 5], "int64"))
    agrees(net, net.Add(net.conv(net.conv(h, 48, 48, 3, 48), 48, 24, groups=3), x))


@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (32, 2), (20, 2), (12, 4)])
def test_grouped_residual_block(channels, groups, net, agrees):
    x = net.input(1, channels, 6, 6)
    h = net.Relu(net.conv(x, channels, channels))
    h = net.Relu(net.conv(h, channels, channels, 3, groups))
    agrees(net, net.Relu(net.Add(net.conv(h, channels, channels), x)))


def test_several_results_of_each_channel(net, agrees):
    agrees(net, net.conv(net.input(1, 6, 5, 5), 6, 12, 3, 6))


def test_local_response_normalisation(net, agrees):
    h = net.Relu(net.conv(net.input(1, 3, 12, 12), 3, 20, 5))
    h = net.LRN(h, size=5, alpha=0.1, beta=0.75, bias=1.0)
    agrees(net, net.MaxPool(h, kernel_shape=[3, 3], strides=[2, 2]))


def test_dilated_convolutions_in_parallel(net, agrees):
    """DeepLab: branches of growing dilation, and the image's mean resized to it, added up."""
    x = net.input(1, 16, 10, 9)
    branches = [net.conv(x, 16, 16, 3, dilations=[d, d], pads=[d] * 4) for d in (1, 2, 4)]
    mean = net.conv(net.GlobalAveragePool(x), 16, 16)
    agrees(net, net.Add(net.Sum(*branches), mean))


def test_convolutions_along_one_axis(net, agrees):
    x = net.input(2, 8, 20)
    h = net.Relu(net.Conv(x, net.weight(24, 8, 3), net.weight(24, scale=0.1), pads=[2, 0], strides=[2]))
    h = net.Conv(h, net.weight(24, 1, 3), group=24, pads=[1, 1])
    agrees(net, net.ReduceMean(net.Conv(h, net.weight(10, 24, 1)), axes=[2], keepdims=0))


def test_strides_pads_and_kernels_that_differ_by_axis(net, agrees):
    x = net.input(1, 5, 11, 8)
    h = net.Conv(x, net.weight(16, 5, 1, 7), pads=[0, 3, 0, 3])
    h = net.Conv(h, net.weight(18, 16, 3, 2), pads=[2, 0, 0, 1], strides=[2, 1])
    agrees(net, net.AveragePool(h, kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1))


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3", "cpu:x86-64-v2"])
def test_batch_of_three(target, net, agrees):
    x = net.input(3, 3, 12, 10)
    h = net.Relu(batch_norm(net, net.conv(x, 3, 16, 3, strides=[2, 2]), 16))
    h = net.MaxPool(net.Add(net.conv(h, 16, 16, 3), h), kernel_shape=[2, 2], strides=[2, 2])
    h = net.Flatten(net.GlobalAveragePool(net.Relu(net.conv(h, 16, 20, 3))))
    agrees(net, net.Softmax(net.Gemm(h, net.weight(11, 20), net.weight(11), transB=1)), target=target)


def test_fillers_that_are_not_zero(net, agrees):
    """1 / (x + bias) would be infinite for the 6 channels that fill the blocks of 16 up."""
    x = net.input(1, 8, 4, 4)
    h = net.Add(net.Abs(net.conv(x, 8, 10)), net.constant(net.rng.uniform(0.5, 1, (1, 10, 1, 1))))
    h = net.Log(net.Reciprocal(h))
    want = agrees(net, net.conv(net.Div(h, net.constant(net.rng.uniform(1, 2, (10, 1, 1)))), 10, 8))
    assert np.isfinite(want[0]).all()


def test_attention_over_pixels_and_channels(net, agrees):
    """CBAM: two reductions of one value meet, and one map is for all channels, of which 20 leave fillers."""
    x = net.conv(net.input(1, 8, 6, 6), 8, 20, 3)
    reduce, expand = net.weight(5, 20, 1, 1), net.weight(20, 5, 1, 1)
    paths = [
        net.Conv(net.Relu(net.Conv(pool, reduce)), expand) for pool in (net.GlobalAveragePool(x), net.GlobalMaxPool(x))
    ]
    h = net.Mul(x, net.Sigmoid(net.Add(*paths)))
    maps = [net.ReduceMean(h, axes=[1], keepdims=1), net.ReduceMax(h, axes=[1], keepdims=1)]
    h = net.Mul(h, net.Sigmoid(net.conv(net.Concat(*maps, axis=1), 2, 1, 7)))
    agrees(net, net.conv(h, 20, 8), net.Add(*maps))


def test_half_of_the_channels(net, agrees):
    """ShuffleNetV2: one half goes through, the other through a branch; the halves are woven."""
    left, right = net.split(net.Relu(net.conv(net.input(1, 8, 6, 6), 8, 40)), 2, 1)
    right = net.Relu(net.conv(net.conv(net.Relu(net.conv(right, 20, 20)), 20, 20, 3, 20), 20, 20))
    h = net.Reshape(net.Concat(left, right, axis=1), net.constant([1, 2, 20, 6, 6], "int64"))
    h = net.Reshape(net.Transpose(h, perm=[0, 2, 1, 3, 4]), net.constant([1, 40, 6, 6], "int64"))
    agrees(net, net.conv(h, 40, 16), h)


# What aliases --------------------------------------------------------------------------------------------------


def test_identity(net, agrees):
    agrees(net, net.Identity(net.input(2, 3)))


def test_outputs_that_are_inputs_constants_and_each_other(net, agrees):
    x = net.input(2, 6)
    y = net.Exp(x)
    view = net.Reshape(y, net.constant([3, 4], "int64"))
    again = net.Identity(y)
    known = net.Identity(net.constant(np.arange(5.0)))
    turned = net.Reshape(x, net.constant([6, 2], "int64"))
    agrees(net, net.Identity(x), y, view, again, known, turned, net.Concat(y, x, axis=0))


def test_joins_of_everything(net, agrees):
    x = net.input(2, 6)
    y, known = net.Exp(x), net.constant(np.ones((1, 6)))
    joined = net.Concat(y, x, known, y, axis=0)
    nested = net.Concat(joined, net.Neg(joined), axis=0)
    wide = net.Concat(nested, nested, axis=1)
    agrees(net, joined, net.Relu(nested), wide, y)


def test_a_value_that_is_read_after_its_join(net, agrees):
    x = net.input(4, 8)
    w = net.weight(8, 8)
    y = net.MatMul(x, w)
    joined = net.Concat(y, net.Tanh(x), axis=0)
    far = net.MatMul(net.MatMul(net.MatMul(net.Relu(joined), w), w), w)
    agrees(net, net.Add(net.ReduceSum(far, net.constant([0], "int64")), y))


# Whole numbers and truth ---------------------------------------------------------------------------------------


def test_lookups_and_masks(net, agrees):
    ids, x = net.input(2, 7, kind="i"), net.input(2, 7, 16)
    rows = net.Gather(net.weight(50, 16), ids)
    padding = net.Equal(ids, net.constant(0, "int64"))
    mask = net.Unsqueeze(padding, net.constant([2], "int64"))
    h = net.Where(mask, net.constant(-1.0), net.Add(rows, x))
    position = net.Add(net.Mul(ids, net.constant(3, "int64")), net.constant([0, 1, 2, 3, 4, 5, 6], "int64"))
    agrees(net, h, net.Not(padding), position, net.Cast(padding, to=1), high=50)


def test_truth_as_input_and_output(net, agrees):
    a, b, x = net.input(3, 5, kind="b"), net.input(3, 5, kind="b"), net.input(3, 5)
    both = net.And(a, net.Or(b, net.Greater(x, net.constant(0.0))))
    agrees(net, both, net.Where(net.Xor(a, b), x, net.Neg(x)), net.Concat(a, both, axis=1))


def test_lookups_along_rows(net, agrees):
    x, at = net.input(4, 9), net.input(4, 3, kind="i")
    agrees(
        net, net.GatherElements(x, at, axis=1), net.Gather(x, net.constant([[0, -1], [2, 2]], "int64"), axis=1), high=9
    )


# Shapes at the edge --------------------------------------------------------------------------------------------


def test_products_of_one_column_and_one_row(net, agrees):
    x = net.input(1, 5)
    row = net.MatMul(x, net.weight(5, 1))
    agrees(net, row, net.MatMul(row, net.weight(1, 40)), net.MatMul(row, net.constant(np.full((1, 1, 1), 2.0))))


def test_odd_extents(net, agrees):
    x = net.input(3, 13, 17)
    h = net.Gelu(net.MatMul(x, net.weight(17, 33))) if net.opset >= 20 else net.Tanh(net.MatMul(x, net.weight(17, 33)))
    scores = net.MatMul(h, net.Transpose(h, perm=[0, 2, 1]))
    agrees(net, net.Softmax(scores, axis=1), net.LogSoftmax(scores, axis=-1), net.ReduceMax(h, axes=[0, 2]))


def test_scalars(net, agrees):
    x = net.input()
    agrees(net, net.Add(net.Mul(x, x), net.constant(1.0)), net.ReduceSum(net.Reshape(x, net.constant([1], "int64"))))


def test_a_long_chain_and_a_wide_sum(net, agrees):
    x = h = net.input(3, 33)
    for number in range(120):
        h = net.Tanh(net.Mul(h, net.constant(1.01))) if number % 2 else net.Add(h, net.constant(0.01 * number))
    agrees(net, h, net.Sum(*(net.Relu(net.Add(x, net.constant(float(n) / 10))) for n in range(70))))


def test_a_reduction_between_what_it_reads_and_what_reads_both(net, agrees):
    """The kernel of a reduction must not swallow what broadcasts its result."""
    x = net.Relu(net.input(5, 12))
    largest = net.ReduceMax(x, axes=[1], keepdims=1)
    smallest = net.ReduceMin(x, axes=[1], keepdims=1)
    agrees(net, net.Div(net.Sub(x, largest), net.Add(net.Sub(largest, smallest), net.constant(1.0))))


def test_a_residual_that_is_turned_behind_a_product(net, agrees):
    x, y = net.input(6, 8), net.input(6, 8)
    sum_ = net.Add(net.MatMul(x, net.weight(8, 8)), net.Relu(y))
    agrees(net, net.Transpose(sum_, perm=[1, 0]), net.Add(net.Softmax(net.Relu(x)), net.Relu(x)))
