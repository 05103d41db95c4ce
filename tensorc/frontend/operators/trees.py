"""Ensembles of decision trees: all trees go one step down at a time, by gathers, until the deepest is at its leaf."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tensorc.errors import UnsupportedError
from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.operators.traditional import DOMAIN
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value

#: By the numbers of `nodes_modes`.
_COMPARISONS = ("less_equal", "less", "greater_equal", "greater", "equal")
_NOT_EQUAL, _MEMBER = 5, 6
_AVERAGE, _SUM, _MIN, _MAX = range(4)


class _Trees:
    """The attributes of a node as arrays. Nodes come first, then the leaves, which lead to themselves."""

    def __init__(self, call: Call):
        def ints(name: str) -> np.ndarray:
            return np.array(call.required(name), np.int64)

        def leads(ids: str, leafs: str) -> np.ndarray:
            return np.concatenate([ints(ids) + count * ints(leafs), count + np.arange(leaves)])

        def padded(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values, np.zeros(leaves, values.dtype)])

        self.features, self.targets = ints("nodes_featureids"), ints("leaf_targetids")
        count, leaves = len(self.features), len(self.targets)
        self.count = count
        self.roots = ints("tree_roots")
        self.true = leads("nodes_truenodeids", "nodes_trueleafs")
        self.false = leads("nodes_falsenodeids", "nodes_falseleafs")
        modes = call.tensor("nodes_modes").numpy().astype(np.int64)
        splits = call.tensor("nodes_splits").numpy()
        self.weights = call.tensor("leaf_weights").numpy()
        missing = np.array(call.attr("nodes_missing_value_tracks_true", (0,) * count), bool)
        if {len(self.true) - leaves, len(self.false) - leaves, len(modes), len(splits), len(missing)} != {count}:
            raise ValueError("the attributes nodes_... differ in length")
        if len(self.weights) != leaves:
            raise ValueError(f"there are {len(self.weights)} leaf_weights and {leaves} leaf_targetids")
        ends = np.concatenate([self.true, self.false])
        if not ((ends >= 0) & (ends < count + leaves)).all() or not ((self.roots >= 0) & (self.roots < count)).all():
            raise ValueError("a tree leads to a node that there is not")
        if modes.size and not 0 <= modes.min() <= modes.max() <= _MEMBER:
            raise ValueError(f"nodes_modes are 0 to {_MEMBER}")
        self.features, self.modes = padded(self.features), padded(modes)
        self.splits, self.missing = padded(splits), padded(missing)
        self.sets = self._sets(call)
        self.depth = self._depth()

    def _sets(self, call: Call) -> np.ndarray | None:
        """[nodes and leaves, largest set]: what each node's value may be a member of, filled up with nan, which none
        equals. They follow each other in the order of the nodes that ask, a nan behind each."""
        if not (self.modes == _MEMBER).any():
            return None
        values = call.tensor("membership_values").numpy()
        groups = np.split(values, np.flatnonzero(np.isnan(values)))
        rows = [group[~np.isnan(group)] for group in groups]
        sets = np.full((len(self.modes), max(map(len, rows))), np.nan, values.dtype)
        for number, row in zip(np.flatnonzero(self.modes == _MEMBER), rows, strict=False):
            sets[number, : len(row)] = row
        return sets

    def _depth(self) -> int:
        """Steps from the roots until all are at leaves."""
        at = np.unique(self.roots)
        for depth in range(self.count + 1):
            inner = at[at < self.count]
            if not inner.size:
                return depth
            at = np.unique(np.concatenate([self.true[inner], self.false[inner]]))
        raise ValueError("a tree leads back to itself")


@operator("TreeEnsemble", domain=DOMAIN)
def _tree_ensemble(call: Call) -> Value:
    x, trees = call.input(0), _Trees(call)
    (rows, _), targets = shape_of(x), call.attr("n_targets", 1)
    at = call("expand", call.constant(trees.roots), shape=(rows, len(trees.roots)))

    def of(table: np.ndarray) -> Value:
        """What a table of nodes says of where each tree is."""
        return call("gather", call.constant(table), at, axis=0)

    for _ in range(trees.depth):
        value = call("gather_elements", x, of(trees.features), axis=1)
        at = call("where", _goes_true(call, trees, value, of), of(trees.true), of(trees.false))
    at = call("sub", at, call.like(trees.count, at))
    weights, target = of(trees.weights), of(trees.targets)
    return _post_transform(call, _aggregate(call, weights, target, targets))


def _goes_true(call: Call, trees: _Trees, value: Value, of: Callable[[np.ndarray], Value]) -> Value:
    split, mode = of(trees.splits), of(trees.modes)
    result: Value | None = None
    for number in sorted(set(trees.modes.tolist())):
        if number == _MEMBER:
            assert trees.sets is not None
            same = call("equal", call.reshape(value, (*shape_of(value), 1)), of(trees.sets))
            holds = call("reduce_max", same, axes=(2,), keepdims=0)
        elif number == _NOT_EQUAL:
            holds = call("not", call("equal", value, split))
        else:
            holds = call(_COMPARISONS[number], value, split)
        result = holds if result is None else call("where", call("equal", mode, call.like(number, mode)), holds, result)
    assert result is not None
    if not trees.missing.any():
        return result
    missing = call("not", call("equal", value, value))
    return call("or", result, call("and", missing, of(trees.missing)))


def _aggregate(call: Call, weights: Value, target: Value, targets: int) -> Value:
    """[rows, trees] to [rows, targets]."""
    how = call.attr("aggregate_function", _SUM)
    if how not in (_AVERAGE, _SUM, _MIN, _MAX):
        raise ValueError(f"aggregate_function is 0 to 3, not {how}")
    rows, count = shape_of(weights)
    wanted = call.constant(np.arange(targets, dtype=np.int64))
    own = call("equal", call.reshape(target, (rows, count, 1)), wanted)
    empty = {_MIN: math.inf, _MAX: -math.inf}.get(how, 0)
    parts = call("where", own, call.reshape(weights, (rows, count, 1)), call.like(empty, weights))
    op = {_MIN: "reduce_min", _MAX: "reduce_max"}.get(how, "reduce_sum")
    result = call(op, parts, axes=(1,), keepdims=0)
    if how in (_MIN, _MAX):  # of a target that no tree voted for there is nothing
        result = call("where", call("reduce_max", own, axes=(1,), keepdims=0), result, call.like(0, result))
    return call("div", result, call.like(count, result)) if how == _AVERAGE else result


def _post_transform(call: Call, x: Value) -> Value:
    match call.attr("post_transform", 0):
        case 0:
            return x
        case 1:
            return call("softmax", x, axis=1)
        case 2:
            return call("sigmoid", x)
        case other:
            raise UnsupportedError(f"its post_transform is {other}")
