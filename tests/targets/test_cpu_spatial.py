"""Spatial and signal operators through every pass and kernel, against the numpy meaning of the graph as imported.

That the graph means what ONNX says is tests/frontend's. One model holds many operators: a kernel is quickly built, but
not so a model.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

import tensorc
from tensorc.frontend import import_model
from tensorc.ir import evaluate

pytestmark = pytest.mark.compiler


def check(text: str, tolerance: float = 1e-4, **shapes: str) -> None:
    """Every value of the node list `text` named y or y and digits is a result; `shapes` are the inputs' types."""
    nodes = onnx.parser.parse_graph(f"g ({', '.join(f'{t} {n}' for n, t in shapes.items())}) => () {{ {text} }}")
    results = [name for node in nodes.node for name in node.output if name.startswith("y")]
    nodes.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in results)
    model = onnx.helper.make_model(nodes, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    imported = import_model(model)
    rng = np.random.default_rng(0)
    feed = {}
    for name, value in zip(imported.input_names, imported.graph.inputs, strict=True):
        data = rng.standard_normal(value.shape) * (3 if value.dtype.startswith("int") else 1)
        feed[name] = data.astype(value.dtype) % 2 if value.dtype == "int64" else data.astype(value.dtype)
    exact = dict(zip((v.name for v in imported.graph.inputs), feed.values(), strict=True))
    wanted = evaluate(imported.graph, exact)
    for name, got, want in zip(results, tensorc.compile(model).run(results, feed), wanted, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
        allowed = 4e-3 if got.dtype == np.float16 else tolerance
        np.testing.assert_allclose(got, want, allowed, allowed, err_msg=name)


def test_resize():
    check(
        """
        none = Constant <value_floats = [0.0]> ()
        up = Constant <value_floats = [1.0, 1.0, 1.7, 2.5]> ()
        down = Constant <value_floats = [0.4, 0.6]> ()
        same = Constant <value_floats = [1.0, 1.0, 1.0, 1.0]> ()
        y0 = Resize <mode = "nearest"> (x, none, up)
        y1 = Resize <mode = "linear"> (x, none, up)
        y2 = Resize <mode = "cubic"> (x, none, up)
        y3 = Resize <mode = "cubic", antialias = 1, axes = [2, 3]> (x, none, down)
        y4 = Resize <mode = "linear"> (h, none, up)
        y5 = Resize <mode = "cubic", cubic_coeff_a = -0.6> (i, none, up)
        y6 = Resize <mode = "linear"> (d, none, up)
        y7 = Resize <mode = "linear"> (x, none, same)
        sizes = Constant <value_ints = [3, 2, 9, 4]> ()
        y8 = CenterCropPad (i, sizes)
        """,
        x="float[2,3,7,9]", h="float16[1,2,5,6]", i="int8[1,2,5,6]", d="double[1,2,5,6]",
    )  # fmt: skip


def test_sampling():
    check(
        """
        y0 = GridSample <mode = "cubic", padding_mode = "reflection"> (x, grid)
        y1 = GridSample <mode = "linear", padding_mode = "border", align_corners = 1> (x, grid)
        y2 = GridSample <mode = "nearest"> (i, grid)
        y3 = GridSample <mode = "linear"> (v, deep)
        y4 = GridSample <mode = "linear"> (h, grid)
        size = Constant <value_ints = [2, 3, 4, 5]> ()
        y5 = AffineGrid (theta, size)
        y6 = DeformConv <pads = [1, 1, 1, 1], group = 2, offset_group = 2> (x, w, offset, b, mask)
        y7 = RoiAlign <output_height = 2, output_width = 3, sampling_ratio = 2> (x, rois, which)
        y8 = RoiAlign <output_height = 2, output_width = 3, sampling_ratio = 2, mode = "max"> (x, rois, which)
        y9 = MaxRoiPool <pooled_shape = [2, 3]> (x, regions)
        """,
        x="float[2,4,5,6]", grid="float[2,3,5,2]", i="int32[2,4,5,6]", v="float[1,2,3,4,5]", h="float16[2,4,5,6]",
        deep="float[1,2,3,2,3]", theta="float[2,2,3]", w="float[6,2,3,3]", offset="float[2,36,5,6]", b="float[6]",
        mask="float[2,18,5,6]", rois="float[3,4]", which="int64[3]", regions="float[3,5]",
    )  # fmt: skip


def test_places_beyond_any_image():
    """Infinite or no numbers at all: an index is inside whatever it was made of."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 22]>
        g (float[1,3,4,5] x, float[1,1,8,2] grid) => (float[1,3,1,8] a, float[1,3,1,8] b, float[1,3,1,8] c) {
            a = GridSample <padding_mode = "zeros", mode = "nearest"> (x, grid)
            b = GridSample <padding_mode = "border"> (x, grid)
            c = GridSample <padding_mode = "reflection"> (x, grid)
        }""")
    grid = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9, -3e9, 0], np.float32).repeat(2).reshape(1, 1, 8, 2)
    x = np.ones((1, 3, 4, 5), np.float32)
    a, b, c = tensorc.compile(model).run(None, {"x": x, "grid": grid})
    np.testing.assert_array_equal(a[0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(b[0, 0, 0, 1:], np.ones(7))
    np.testing.assert_array_equal(c[0, 0, 0, 5:], np.ones(3))


def test_windows():
    check(
        """
        y0 = Conv <pads = [1, 1, 0, 1], strides = [2, 1], group = 2> (x, w)
        y1 = Conv <pads = [1, 0, 1, 0, 1, 1]> (v, w3)
        y2 = Conv (h, wh)
        y3 = ConvTranspose <strides = [2, 3], pads = [1, 0, 1, 1], group = 2, output_padding = [1, 0]> (x, w, b)
        y4 = ConvTranspose <strides = [2, 1, 2], dilations = [2, 1, 1]> (v, w3)
        y5, y6 = MaxPool <kernel_shape = [2, 3], strides = [2, 2], pads = [1, 1, 1, 1], storage_order = 1> (x)
        y7, y8 = MaxPool <kernel_shape = [2, 2, 2], ceil_mode = 1, strides = [2, 2, 2]> (v)
        y9 = MaxPool <kernel_shape = [3, 2]> (i)
        y10 = AveragePool <kernel_shape = [2, 2, 3], dilations = [1, 2, 1], pads = [1, 0, 1, 0, 1, 1]> (v)
        y11 = LpPool <kernel_shape = [2, 3], p = 3, pads = [1, 1, 1, 1]> (x)
        y12 = GlobalLpPool (x)
        image = Constant <value_ints = [4, 6]> ()
        block = Constant <value_ints = [2, 3]> ()
        y13 = Col2Im <pads = [1, 0, 0, 1]> (c, image, block)
        """,
        x="float[2,4,7,6]", w="float[4,2,3,3]", v="float[1,2,4,5,6]", w3="float[2,2,2,3,2]", h="float16[1,2,5,5]",
        wh="float16[3,2,3,3]", b="float[4]", i="uint8[1,2,5,6]", c="float[1,12,20]",
    )  # fmt: skip


def test_signals_and_equations():
    check(
        """
        axis = Constant <value_int = 1> ()
        y0 = DFT (s, , axis)
        y1 = DFT <onesided = 1> (r, , axis)
        y2 = DFT <onesided = 1, inverse = 1> (s, , axis)
        step = Constant <value_int = 5> ()
        y3 = STFT (r, step, window)
        y4 = Einsum <equation = "bij,bjk->bik"> (a, b)
        y5 = Einsum <equation = "...ii->...i"> (q)
        y6 = Einsum <equation = "bij,bkl,l->bk"> (a, b, c)
        y7 = Einsum <equation = "ij,kj->ik"> (i, i)
        y8 = Det (q)
        """,
        s="float[2,300,2]", r="float[2,130,1]", window="float[16]", a="float[2,3,4]", b="float[2,4,5]", c="float[5]",
        q="float[3,4,4]", i="int32[3,4]",
    )  # fmt: skip
