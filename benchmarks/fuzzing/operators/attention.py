"""Attention, and what models put around it."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzzing.graphs import Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import as_float32, place, types


def _heads(g: Graph) -> tuple[int, int]:
    """Of queries, and of keys and values."""
    few = g.number(1, 3)
    return few * g.pick((1, 1, 2, 3)), few


@place("Attention")
def _attention(g: Graph, name: str) -> None:
    dtype = g.dtype(types(g, name))
    batch, size, depth = g.number(1, 3), g.pick((1, 2, 4, 8, 16, 17)), g.pick((1, 2, 3, 8, 16))
    queries, keys = g.pick((1, 1, 2, 3, 5, 8, 33)), g.pick((1, 2, 3, 5, 8, 33))
    ours, theirs = _heads(g)
    flat = g.chance(0.4)
    past = g.number(1, 5) if g.chance(0.3) else 0
    padded = g.opset >= 24 and not past and g.chance(0.2)

    def given(heads: int, length: int, width: int) -> Value:
        return g.like(dtype, (batch, length, heads * width) if flat else (batch, heads, length, width))

    inputs: list[Value | None] = [given(ours, queries, size), given(theirs, keys, size), given(theirs, keys, depth)]
    total = past + keys
    if g.chance(0.4):
        full = [batch if g.chance(0.5) else 1, ours if g.chance(0.5) else 1, queries, total]
        shape = full[g.pick((0, 1, 2)) :]
        if g.chance(0.5):
            # Each query has one key at least: what becomes of none is not said by all engines alike.
            mask = np.asarray(g.data("bool", shape))
            mask[..., 0] = True
            inputs.append(g.given(mask, g.chance(0.3)))
        else:
            inputs.append(g.new(dtype, shape, -3, 3))
    else:
        inputs.append(None)
    outputs = [True]
    if past:
        inputs += [g.like(dtype, (batch, theirs, past, size)), g.like(dtype, (batch, theirs, past, depth))]
        outputs += [True, True]
    elif g.chance(0.2):
        outputs += [True, True]
    attributes: dict[str, object] = {}
    if padded:
        low = queries if queries <= keys else keys
        inputs += [None, None, g.given(g.data("int64", (batch,), low, keys), g.chance(0.3))]
        outputs = [True]
    if g.chance(0.4):
        attributes["is_causal"] = 1
        if queries > total:
            raise UnfitError  # some queries see nothing
    if flat:
        attributes |= {"q_num_heads": ours, "kv_num_heads": theirs}
    if g.chance(0.3):
        attributes["scale"] = float(g.pick((0.1, 0.5, 1.0)))
    if g.chance(0.2):
        attributes["softcap"] = float(g.pick((1.0, 5.0)))
    if len(outputs) == 3 and not padded and g.chance(0.4):
        outputs.append(True)
        attributes["qk_matmul_output_mode"] = g.number(0, 3)
    if g.special:
        raise UnfitError  # 0 times infinity at a masked place, or not: it depends on how masks are applied
    g.node(name, inputs, outputs, **attributes)
    as_float32(g, len(outputs))  # ONNX's body computes the scale so


@place("FlexAttention", domain="ai.onnx.preview")
def _flex_attention(g: Graph, name: str) -> None:
    dtype = g.dtype(types(g, name))
    batch, size, depth = g.number(1, 3), g.pick((1, 2, 4, 8, 17)), g.pick((1, 2, 3, 8))
    queries, keys = g.number(1, 9), g.number(1, 9)
    ours, theirs = _heads(g)
    inputs = [g.like(dtype, (batch, ours, queries, size)), g.like(dtype, (batch, theirs, keys, size)),
              g.like(dtype, (batch, theirs, keys, depth))]  # fmt: skip
    inside = "float64" if dtype == "float64" else "float32"
    bodies = {}
    for key in ("score_mod", "prob_mod"):
        if g.chance(0.4):
            body = g.body([(inside, (batch, ours, queries, keys), 1e-5)])
            body.node(g.pick(("Mul", "Add", "Sub")), [body.parameters[0], body.new(inside, (), 0, 2, constant=True)])
            if g.chance(0.5):
                body.node("Tanh", [body.values[-1]])
            bodies[key] = g.close(body, [body.values[-1]])
    g.node(name, inputs, scale=g.pick((None, 0.5)), domain="ai.onnx.preview", **bodies)
    as_float32(g)  # its body computes the scale so


@place("LinearAttention")
def _linear_attention(g: Graph, name: str) -> None:
    dtype = g.dtype(types(g, name))
    batch, time, size, depth = g.number(1, 3), g.pick((1, 2, 5, 9)), g.pick((1, 2, 4, 8)), g.pick((1, 3, 8))
    ours, theirs = _heads(g)
    rule = g.pick(("linear", "gated", "delta", "gated_delta"))
    inputs: list[Value | None] = [
        g.new(dtype, (batch, time, ours * size), -1, 1),
        g.new(dtype, (batch, time, theirs * size), -1, 1),
        g.like(dtype, (batch, time, theirs * depth)),
        g.like(dtype, (batch, theirs, size, depth)) if g.chance(0.5) else None,
        g.new(dtype, (batch, time, theirs * (size if g.chance(0.5) else 1)), -1, 0) if "gated" in rule else None,
        g.new(dtype, (batch, time, g.pick((1, theirs))), 0, 1) if "delta" in rule else None,
    ]
    g.node(name, inputs, 2, q_num_heads=ours, kv_num_heads=theirs, update_rule=rule, scale=g.pick((None, 0.5)))


@place("CausalConvWithState")
def _causal_conv(g: Graph, name: str) -> None:
    dtype = g.dtype(types(g, name))
    batch, channels, length, k = g.number(1, 3), g.number(1, 9), g.number(1, 12), g.number(1, 4)
    inputs = [g.like(dtype, (batch, channels, length)), g.like(dtype, (channels, 1, k)),
              g.like(dtype, (channels,)) if g.chance(0.5) else None,
              g.like(dtype, (batch, channels, k - 1)) if g.chance(0.5) else None]  # fmt: skip
    g.node(name, inputs, 2, activation=g.pick((None, "none", "silu", "swish")))


@place("RotaryEmbedding")
def _rotary(g: Graph, name: str) -> None:
    dtype = g.dtype(types(g, name))
    batch, heads, length, half = g.number(1, 3), g.number(1, 4), g.number(1, 7), g.pick((1, 2, 3, 4, 8))
    part = g.chance(0.3)
    size = 2 * half + (2 * g.number(1, 3) if part else 0)
    flat = g.chance(0.4)
    x = g.like(dtype, (batch, length, heads * size) if flat else (batch, heads, length, size))
    rows = g.number(length, length + 4)
    by_position = g.chance(0.6)
    caches = [g.new(dtype, (rows, half) if by_position else (batch, length, half), -1, 1) for _ in range(2)]
    ids = g.given(g.data("int64", (batch, length), 0, rows - 1), g.chance(0.4)) if by_position else None
    g.node(name, [x, *caches, ids], num_heads=heads if flat else None, rotary_embedding_dim=2 * half if part else None,
           interleaved=g.pick((None, 0, 1)))  # fmt: skip


@place("TensorScatter")
def _tensor_scatter(g: Graph, name: str) -> None:
    x = g.any(types(g, name), 2, 4, fits=lambda v: 0 not in v.shape)
    axis = g.number(1, x.rank - 1)
    size = x.shape[axis]
    count = g.number(1, size)
    mode = g.pick((None, "linear", "circular"))
    update = g.like(x.dtype, (*x.shape[:axis], count, *x.shape[axis + 1 :]))
    most = size - 1 if mode == "circular" else size - count
    where = g.given(g.data("int64", x.shape[:1], 0, most), g.chance(0.4)) if g.chance(0.7) else None
    g.node(name, [x, update, where], exact=True, axis=g.pick((axis, axis - x.rank)), mode=mode)


@place("SwiGLU")
def _swiglu(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    g.node(name, [x, g.like(x.dtype, x.shape)], alpha=g.pick((None, 0.5, 2.0)))
