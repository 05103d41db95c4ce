"""Properties of the CPU's kernels over random shapes and attributes: they agree with float64, see conftest.

Building a kernel takes about a tenth of a second, so examples are few here; a campaign is
`pytest tests/targets/test_cpu_kernels_random.py --hypothesis-profile=campaign`.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from targets.cpu.schedules import BlockedMatmulSchedule, ConvSchedule, DepthwiseSchedule, MatmulSchedule

pytestmark = pytest.mark.compiler


def few(count: int):
    """So many examples, always the same, unless the profile asks for more."""
    if settings.get_current_profile_name() == "campaign":
        return settings.get_profile("campaign")
    return settings(
        max_examples=count, derandomize=True, phases=[Phase.generate], deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def shaped(extents) -> str:
    return f"f32[{','.join(map(str, extents))}]"


@given(data=st.data())
@few(12)
def test_broadcasting(kernels, data):
    shape = data.draw(st.lists(st.integers(1, 9), max_size=4))
    if shape:
        shape[-1] = data.draw(st.sampled_from([1, 3, 17, 40]))

    def operand() -> str:
        kept = shape[data.draw(st.integers(0, len(shape))) :]
        return shaped(1 if data.draw(st.booleans()) else extent for extent in kept)

    expression = data.draw(st.sampled_from(["add(mul(x, y), z)", "where(less(x, y), z, x)", "max(sub(x, y), exp(z))"]))
    kernels.check(expression, x=operand(), y=operand(), z=operand())


@given(data=st.data())
@few(12)
def test_reduction(kernels, data):
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 5, 16, 19]), min_size=1, max_size=4))
    axes = tuple(axis for axis in range(len(shape)) if data.draw(st.booleans()))
    how = data.draw(st.sampled_from(["sum", "mean", "max", "min"]))
    keepdims = data.draw(st.integers(0, 1))
    kernels.check(f"abs(reduce_{how}(mul(x, 0.5), axes={axes}, keepdims={keepdims}))", tolerance=1e-5, x=shaped(shape))


@given(data=st.data())
@few(10)
def test_moves(kernels, data):
    source = shape = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    axes = range(len(shape))
    expression = "x"
    for number in range(data.draw(st.integers(1, 3))):
        op = data.draw(st.sampled_from(["transpose", "slice", "pad", "concat"]))
        if op == "transpose":
            perm = tuple(data.draw(st.permutations(axes)))
            expression, shape = f"transpose({expression}, perm={perm})", [shape[axis] for axis in perm]
        elif op == "slice":
            steps = tuple(data.draw(st.sampled_from([-2, -1, 1, 2])) for _ in axes)
            sizes = tuple(data.draw(st.integers(1, -(-n // abs(s)))) for n, s in zip(shape, steps, strict=True))
            starts = tuple(n - 1 if s < 0 else 0 for n, s in zip(shape, steps, strict=True))
            expression, shape = f"slice({expression}, starts={starts}, sizes={sizes}, steps={steps})", list(sizes)
        elif op == "pad":
            before, after = (tuple(data.draw(st.integers(-1 if n > 2 else 0, 3)) for n in shape) for _ in range(2))
            mode = data.draw(st.sampled_from(["constant", "edge", "reflect", "wrap"]))
            expression = f"pad({expression}, before={before}, after={after}, mode={mode!r}, value=2.5)"
            shape = [n + b + a for n, b, a in zip(shape, before, after, strict=True)]
        else:
            axis = data.draw(st.sampled_from(axes))
            expression = f"concat((p{number} := {expression}), relu(p{number}), axis={axis})"
            shape = [2 * n if a == axis else n for a, n in enumerate(shape)]
    assume(math.prod(shape) < 100_000)
    kernels.check(f"add({expression}, 1.0)", x=shaped(source))


@given(data=st.data())
@few(24)
def test_matmul_packed(kernels, data):
    c = kernels.block
    rows, depth = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    columns, vectors = data.draw(st.integers(1, 6 * c)), data.draw(st.integers(1, 4))
    epilogue = data.draw(st.sampled_from(["{}", "relu(add({}, b))", "add(gelu(add({}, b)), 1.0)"]))
    width = vectors * c
    types = {"x": shaped((rows, depth)), "w": shaped((-(-columns // width), depth, width))}
    if "b" in epilogue:
        types["b"] = shaped((columns,))
    schedule = None
    if data.draw(st.booleans()):
        tile = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
        if data.draw(st.booleans()):
            schedule = MatmulSchedule(*tile, data.draw(st.sampled_from(["weights", "rows"]))).to_json()
        else:
            unroll = data.draw(st.integers(1, 4))
            block = unroll * data.draw(st.integers(1, 20))
            schedule = BlockedMatmulSchedule(*tile[:2], unroll, block, data.draw(st.integers(1, 4))).to_json()
    kernels.check(
        epilogue.format(f"matmul_packed(x, w, columns={columns})"), tolerance=1e-5, schedule=schedule, **types
    )


@given(data=st.data())
@few(8)
def test_matmul(kernels, data):
    m, k, n = (data.draw(st.integers(1, 50)) for _ in range(3))
    batch = [data.draw(st.integers(1, 3)) for _ in range(data.draw(st.integers(0, 2)))]
    other = [extent if data.draw(st.booleans()) else 1 for extent in batch]
    turned = data.draw(st.integers(0, 1))
    y = (*other, n, k) if turned else (*other, k, n)
    kernels.check(f"matmul(x, y, transpose_b={turned})", tolerance=1e-5, x=shaped((*batch, m, k)), y=shaped(y))


@given(data=st.data())
@few(30)
def test_conv(kernels, data):
    c = kernels.block
    kind = data.draw(st.sampled_from(["general", "grouped", "depthwise", "plain"]))
    groups = data.draw(st.integers(2, 3)) if kind == "grouped" else 1
    blocks_in, blocks = (groups * data.draw(st.integers(1, 2)) for _ in range(2))
    if kind == "depthwise":
        blocks = blocks_in
    plain = kind == "plain" or (kind == "grouped" and data.draw(st.booleans()))
    channels = groups * data.draw(st.integers(1, 4)) if plain else blocks_in
    n, h, w = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 20)), data.draw(st.integers(1, 40))
    kernel, strides, dilations = (tuple(data.draw(st.integers(1, most)) for _ in range(2)) for most in (4, 3, 3))
    pads = tuple(data.draw(st.integers(0, 4)) for _ in range(4))
    assume(all(
        extent + pads[i] + pads[2 + i] > dilations[i] * (kernel[i] - 1) for i, extent in enumerate((h, w))
    ))  # fmt: skip
    per_group = 1 if kind == "depthwise" else channels // groups if plain else blocks_in * c // groups
    x = (n, channels, h, w) if plain else (n, blocks_in, h, w, c)
    epilogue = data.draw(st.sampled_from(["{}", "relu(add({}, b))", "silu(add({}, b))"]))
    types = {"x": shaped(x), "w": shaped((blocks, per_group, *kernel, c))}
    if "b" in epilogue:
        types["b"] = shaped((1, blocks, 1, 1, c))
    conv = (
        f"conv_blocked(x, w, strides={strides}, pads={pads}, dilations={dilations}, "
        f"groups={blocks * c if kind == 'depthwise' else groups}, depthwise={int(kind == 'depthwise')})"
    )
    schedule = None
    if kind == "depthwise":
        schedule = data.draw(st.none() | st.builds(DepthwiseSchedule, st.integers(1, 16)))
    elif data.draw(st.booleans()):
        vectors, rows = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
        schedule = ConvSchedule(
            rows if (order := data.draw(st.sampled_from(["taps", "channels"]))) == "channels" else 1,
            data.draw(st.integers(1, max(1, 28 // (vectors * rows)))), vectors, order,
            data.draw(st.sampled_from([1, 2, 4, 16])), data.draw(st.sampled_from(["weights", "pixels"])),
        )  # fmt: skip
    kernels.check(epilogue.format(conv), tolerance=1e-5, schedule=schedule and schedule.to_json(), **types)


@given(data=st.data())
@few(6)
def test_conv_of_moved_channels(kernels, data):
    """A channel shuffle in front of a grouped 1x1 convolution, read where the channels lie."""
    c = kernels.block
    groups, each = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 10))
    channels, h, w = groups * each, data.draw(st.integers(1, 6)), data.draw(st.integers(1, 20))
    blocks = groups * -(-each // c)
    x = (1, blocks, h, w, c)
    plain = f"unblock(x, channels={channels}, groups={groups})"
    split = f"reshape({plain}, shape=(1, {groups}, {each}, {h}, {w}))"
    turned = f"reshape(transpose({split}, perm=(0, 2, 1, 3, 4)), shape=(1, {channels}, {h}, {w}))"
    types = {"x": shaped(x), "w": shaped((2 * groups, each, 1, 1, c))}
    stride = data.draw(st.integers(1, 2))
    attrs = f"strides=({stride}, {stride}), pads=(0, 0, 0, 0), dilations=(1, 1), groups={groups}, depthwise=0"
    kernels.check(f"relu(conv_blocked({turned}, w, {attrs}))", tolerance=1e-5, **types)


@given(data=st.data())
@few(10)
def test_pool(kernels, data):
    kernel, strides, dilations = (tuple(data.draw(st.integers(1, most)) for _ in range(2)) for most in (4, 3, 2))
    pads = tuple(data.draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4))
    h, w = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 14))
    # Windows reach the image: an average over nothing has no meaning.
    assume(all(extent > dilations[i] * (kernel[i] - 1) for i, extent in enumerate((h, w))))
    averages = [("avg_pool", f", count_include_pad={i}") for i in (0, 1)]
    op, last = data.draw(st.sampled_from([("max_pool", ""), *averages]))
    x = (2, 2, h, w, kernels.block) if data.draw(st.booleans()) else (2, 3, h, w)
    expression = (
        f"{op}(x, kernel={kernel}, strides={strides}, pads={pads}, dilations={dilations}, "
        f"ceil={data.draw(st.integers(0, 1))}{last})"
    )
    kernels.check(expression, tolerance=4e-6, x=shaped(x))


@given(data=st.data())
@few(6)
def test_attention(kernels, data):
    batch, queries, keys, shared, key_heads = (data.draw(st.integers(1, most)) for most in (2, 40, 40, 2, 2))
    depth, values = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    heads = shared * key_heads
    types = {
        "q": shaped((batch, queries, heads, depth)),
        "k": shaped((batch, keys, key_heads, depth)),
        "v": shaped((batch, keys, key_heads, values)),
    }
    if data.draw(st.booleans()):
        types["m"] = shaped(extent if data.draw(st.booleans()) else 1 for extent in (batch, heads, queries, keys))
    kernels.check(f"attention({', '.join(types)}, scale=0.25)", tolerance=1e-5, **types)
