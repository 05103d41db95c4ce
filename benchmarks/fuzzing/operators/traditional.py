"""Operators of ONNX's machine-learning domain, and counts of words."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from benchmarks.fuzzing.graphs import Graph, UnfitError
from benchmarks.fuzzing.operators.registry import place

_DOMAIN = "ai.onnx.ml"


@place("ArrayFeatureExtractor", domain=_DOMAIN)
def _extract(g: Graph, name: str) -> None:
    x = g.any(("float32", "float64", "int64", "int32"), 1, 3, fits=lambda v: 0 not in v.shape)
    count = g.number(1, 5)
    index = g.given(g.data("int64", (count,), 0, x.shape[-1] - 1), g.chance(0.4))
    shape = (*x.shape[:-1], count) if x.rank > 1 else (1, count)
    g.declare(name, [x, index], [(x.dtype, shape, x.loose)], domain=_DOMAIN)


@place("Binarizer", domain=_DOMAIN)
def _binarize(g: Graph, name: str) -> None:
    x = g.any(("float32", "float64", "int64", "int32"), exact=True)
    g.declare(name, [x], [(x.dtype, x.shape, 0.0)], domain=_DOMAIN, threshold=g.pick((None, 0.0, 1.0, -2.0)))


@place("LabelEncoder", domain=_DOMAIN)
def _encode(g: Graph, name: str) -> None:
    pairs = (("int64", "float32"), ("float32", "int64"), ("int64", "int64"), ("float32", "float32"))
    source, to = g.pick(pairs)
    keys = [int(k) for k in g.rng.permutation(np.arange(-9, 10))[: g.number(1, 9)]]
    x = g.given(g.data("int64", g.dims(0, 3), -10, 10).astype(source), g.chance(0.3))
    long = {"int64": "int64s", "float32": "floats"}
    values = g.data(to, (len(keys),))
    given: dict[str, object] = {
        f"keys_{long[source]}": [int(k) if source == "int64" else float(k) for k in keys],
        f"values_{long[to]}": values.tolist(),
    }
    if g.chance(0.5):
        given["default_int64" if to == "int64" else "default_float"] = 7 if to == "int64" else 7.5
    g.declare(name, [x], [(to, x.shape, 0.0)], domain=_DOMAIN, **given)


@place("TreeEnsemble", domain=_DOMAIN)
def _trees(g: Graph, name: str) -> None:
    dtype = g.pick(("float32", "float32", "float64"))
    features, targets, rows = g.number(1, 6), g.number(1, 3), g.number(1, 12)
    if g.special:
        raise UnfitError  # engines do not agree where a feature that is no number goes
    splits: list[list[float]] = []
    leaves: list[tuple[int, float]] = []

    def grow(depth: int, root: bool = False) -> tuple[int, bool]:
        """The number of a node or a leaf, and whether it is a leaf."""
        if not depth or (not root and g.chance(0.3)):
            leaves.append((g.number(0, targets - 1), float(g.data("float32", (), -2, 2))))
            return len(leaves) - 1, True
        at = len(splits)
        splits.append([])
        mode = g.pick((0, 0, 1, 2, 3, 4, 5))
        left, right = grow(depth - 1), grow(depth - 1)
        splits[at] = [mode, g.number(0, features - 1), g.number(-3, 3), left[0], left[1], right[0], right[1]]
        return at, False

    roots = [grow(g.number(1, 4), True)[0] for _ in range(g.number(1, 3))]
    columns = list(zip(*splits, strict=True))
    x = g.given(np.rint(g.data(dtype, (rows, features), -4, 4)) + g.pick((0, 0.5)), g.chance(0.2))
    x_array = np.asarray((g.constants | g.inputs)[x.name], dtype)
    (g.constants if x.name in g.constants else g.inputs)[x.name] = x_array
    tensor = lambda array, key: numpy_helper.from_array(np.asarray(array), key)  # noqa: E731
    g.declare(
        name, [x], [(dtype, (rows, targets), 5e-5)], domain=_DOMAIN,
        n_targets=targets, aggregate_function=g.pick((None, 0, 1, 2, 3)), post_transform=0,
        tree_roots=roots,
        nodes_modes=tensor(np.array(columns[0], np.uint8), "modes"),
        nodes_featureids=list(columns[1]),
        nodes_splits=tensor(np.array(columns[2], dtype), "splits"),
        nodes_truenodeids=list(columns[3]), nodes_trueleafs=[int(v) for v in columns[4]],
        nodes_falsenodeids=list(columns[5]), nodes_falseleafs=[int(v) for v in columns[6]],
        leaf_targetids=[t for t, _ in leaves],
        leaf_weights=tensor(np.array([w for _, w in leaves], dtype), "weights"),
    )  # fmt: skip


@place("TfIdfVectorizer")
def _tf_idf(g: Graph, name: str) -> None:
    words = g.number(2, 5)
    most = g.number(1, 3)
    grams: list[list[tuple[int, ...]]] = []
    for size in range(1, most + 1):
        every = {tuple(int(w) for w in g.rng.integers(0, words, size)) for _ in range(g.number(1, 4))}
        grams.append(sorted(every))
    flat = [gram for group in grams for gram in group]
    starts = [0]
    for group in grams[:-1]:
        starts.append(starts[-1] + sum(map(len, group)))
    shape = g.pick(((g.number(1, 12),), (g.number(1, 3), g.number(1, 12))))
    x = g.given(g.data(g.pick(("int64", "int32")), shape, 0, words), g.chance(0.3))
    mode = g.pick(("TF", "IDF", "TFIDF"))
    # A weight is an n-gram's by the standard and a column's to the engines: where there are any, those are the same.
    order = [int(i) for i in g.rng.permutation(len(flat))] if mode == "TF" else list(range(len(flat)))
    g.declare(
        name, [x], [("float32", (*shape[:-1], len(flat)), 5e-5)], mode=mode,
        min_gram_length=g.number(1, most), max_gram_length=most, max_skip_count=g.number(0, 3), ngram_counts=starts,
        ngram_indexes=order, pool_int64s=[w for gram in flat for w in gram],
        weights=[float(w) for w in g.data("float32", (len(flat),), 0.5, 2)] if mode != "TF" else None,
    )  # fmt: skip
