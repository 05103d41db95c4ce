"""Layers in plain numpy: each gives its result and the function that takes the gradient of it back to the input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import erf

from examples.training import Array, Parameters

Backward = Callable[[Array], Array]
Result = tuple[Array, Backward]

EPSILON = 1e-5


def he(rng: np.random.Generator, *shape: int) -> Array:
    """Initial weights [out, in, ...] of a layer that a ReLU follows."""
    return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)


class Chain:
    """Layers that follow each other: each is called with its result, and gives the value for the next one."""

    def __init__(self) -> None:
        self.steps: list[Backward] = []

    def __call__(self, result: Result) -> Array:
        self.steps.append(result[1])
        return result[0]

    def backward(self, dy: Array) -> Array:
        for step in reversed(self.steps):
            dy = step(dy)
        return dy


def relu(x: Array) -> Result:
    positive = x > 0
    return x * positive, lambda dy: dy * positive


def gelu(x: Array) -> Result:
    below = (0.5 * (1 + erf(x / np.sqrt(2)))).astype(np.float32)

    def backward(dy: Array) -> Array:
        density = (np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)).astype(np.float32)
        return dy * (below + x * density)

    return x * below, backward


def residual(x: Array, change: Result) -> Result:
    """Something made of x, added to it."""
    return x + change[0], lambda dy: dy + change[1](dy)


def reshape(x: Array, *shape: int) -> Result:
    return x.reshape(shape), lambda dy: dy.reshape(x.shape)


def tokens(x: Array) -> Result:
    """Images [n, channels, h, w] as tokens [n, h * w, channels]."""
    return x.reshape(*x.shape[:2], -1).swapaxes(1, 2), lambda dy: dy.swapaxes(1, 2).reshape(x.shape)


def mean_of_tokens(x: Array) -> Result:
    """[n, tokens, width] to [n, width]."""
    return x.mean(1), lambda dy: np.repeat(dy[:, None] / x.shape[1], x.shape[1], 1)


def maxpool2x2(x: Array) -> Result:
    n, c, h, w = x.shape
    tiles = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    winner = tiles.argmax(-1)[..., None]

    def backward(dy: Array) -> Array:
        dtiles = np.zeros_like(tiles)
        np.put_along_axis(dtiles, winner, dy[..., None], -1)
        return dtiles.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(x.shape)

    return np.take_along_axis(tiles, winner, -1)[..., 0], backward


def upsample(x: Array) -> Result:
    """Every element of the last axis twice."""
    return np.repeat(x, 2, -1), lambda dy: dy.reshape(*x.shape, 2).sum(-1)


class Pass:
    """One forward pass: its layers keep what they need to take a gradient back, and leave those of their parameters
    in `gradients`."""

    def __init__(self, parameters: Parameters):
        self.parameters = parameters
        self.gradients: Parameters = {}

    def back_through(self, chain: Chain) -> Callable[[Array], Parameters]:
        """From the gradient of the chain's last value to that of every parameter."""

        def backward(dy: Array) -> Parameters:
            chain.backward(dy)
            return self.gradients

        return backward

    def linear(self, name: str, x: Array) -> Result:
        """By weights [in, out], as MatMul has them."""
        weight = self.parameters[f"{name}.weight"]

        def backward(dy: Array) -> Array:
            rows = dy.reshape(-1, dy.shape[-1])
            self.gradients[f"{name}.weight"] = x.reshape(-1, x.shape[-1]).T @ rows
            self.gradients[f"{name}.bias"] = rows.sum(0)
            return dy @ weight.T

        return x @ weight + self.parameters[f"{name}.bias"], backward

    def offset(self, name: str, x: Array) -> Result:
        """A parameter added to each sample."""

        def backward(dy: Array) -> Array:
            self.gradients[name] = dy.sum(0)
            return dy

        return x + self.parameters[name], backward

    def dense(self, name: str, x: Array) -> Result:
        """Of rows, by weights [out, in], as exporters give them to Gemm."""
        weight = self.parameters[f"{name}.weight"]

        def backward(dy: Array) -> Array:
            self.gradients[f"{name}.weight"] = dy.T @ x
            self.gradients[f"{name}.bias"] = dy.sum(0)
            return dy @ weight

        return x @ weight.T + self.parameters[f"{name}.bias"], backward

    def conv(self, name: str, x: Array, stride: int = 1) -> Result:
        """Over any number of axes, by weights [out, in, ...] of odd sizes; zeros around keep the size, but for the
        stride."""
        weight = self.parameters[f"{name}.weight"]
        kernel, last = weight.shape[2:], x.ndim - 1
        padded = np.pad(x, ((0, 0), (0, 0), *((size // 2, size // 2) for size in kernel)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=tuple(range(2, x.ndim)))
        windows = windows[(slice(None), slice(None), *(slice(None, None, stride) for _ in kernel))]
        n, c, *spatial = windows.shape[: x.ndim]
        flat = weight.reshape(len(weight), -1)
        columns = np.moveaxis(windows, 1, last).reshape(-1, flat.shape[1])
        y = (columns @ flat.T + self.parameters[f"{name}.bias"]).reshape(n, *spatial, -1)

        def backward(dy: Array) -> Array:
            rows = np.moveaxis(dy, 1, -1).reshape(-1, len(weight))
            self.gradients[f"{name}.weight"] = (rows.T @ columns).reshape(weight.shape)
            self.gradients[f"{name}.bias"] = rows.sum(0)
            spread = np.moveaxis((rows @ flat).reshape(n, *spatial, c, *kernel), last, 1)
            dx = np.zeros_like(padded)
            for tap in np.ndindex(*kernel):
                reached = (slice(k, k + stride * size, stride) for k, size in zip(tap, spatial, strict=True))
                dx[(..., *reached)] += spread[(..., *tap)]
            return dx[(..., *(slice(k // 2, k // 2 + size) for k, size in zip(kernel, x.shape[2:], strict=True)))]

        return np.moveaxis(y, -1, 1), backward

    def norm(self, name: str, x: Array) -> Result:
        """LayerNormalization of tokens [n, tokens, width]."""
        gain = self.parameters[f"{name}.weight"]
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
        normal = centred / deviation

        def backward(dy: Array) -> Array:
            self.gradients[f"{name}.weight"] = (dy * normal).sum((0, 1))
            self.gradients[f"{name}.bias"] = dy.sum((0, 1))
            d = dy * gain
            return (d - d.mean(-1, keepdims=True) - normal * (d * normal).mean(-1, keepdims=True)) / deviation

        return normal * gain + self.parameters[f"{name}.bias"], backward

    def attention(self, block: str, x: Array, heads: int) -> Result:
        """Of tokens [n, tokens, width] to each other, with projections before and after."""
        (q, q_back), (k, k_back), (v, v_back) = (self.linear(f"{block}.{n}", x) for n in ("query", "key", "value"))
        q, k, v = (_split(projected, heads) for projected in (q, k, v))
        scale = np.float32(q.shape[-1] ** -0.5)
        scores = q @ k.swapaxes(-1, -2) * scale
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        weights = scores / scores.sum(-1, keepdims=True)
        y, out_back = self.linear(f"{block}.out", _merged(weights @ v))

        def backward(dy: Array) -> Array:
            d = _split(out_back(dy), heads)
            dweights = d @ v.swapaxes(-1, -2)
            dscores = weights * (dweights - (dweights * weights).sum(-1, keepdims=True)) * scale
            dq, dk, dv = dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ d
            return q_back(_merged(dq)) + k_back(_merged(dk)) + v_back(_merged(dv))

        return y, backward


def _split(x: Array, heads: int) -> Array:
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def _merged(x: Array) -> Array:
    return x.transpose(0, 2, 1, 3).reshape(len(x), x.shape[2], -1)
