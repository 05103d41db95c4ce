"""Composite operators are recognised in the spellings of the exporters, and near misses are not."""

from __future__ import annotations

from collections import Counter

import pytest

from passes.canonical import canonical_passes
from passes.recognize import Recognize

T = "f32[2,3,4]"
R = "f32[2,3,1]"
X = f"graph @main(%x: {T}, %w: f32[4], %b: f32[4]) {{"
MEAN = f"%mean = reduce_mean(%x) {{axes=(2,), keepdims=1}} : {R} %d = sub(%x, %mean) : {T}"
VARIANCE = (
    f"%two = constant 2.0 : f32[] %eps = constant 0.5 : f32[] %sq = pow(%d, %two) : {T} "
    f"%var = reduce_mean(%sq) {{axes=(2,), keepdims=1}} : {R} %ve = add(%var, %eps) : {R}"
)
LAYER_NORM = f"%r = layer_norm(%x, %w, %b) {{axis=2, epsilon=0.5}} : {T} return %r }}"
PLAIN_LAYER_NORM = (
    f"%o = constant splat 1.0 : f32[4] %r = layer_norm(%x, %o) {{axis=2, epsilon=0.5}} : {T} return %r }}"
)

LAYER_NORMS = {
    "torchscript": (
        f"{MEAN} {VARIANCE} %std = sqrt(%ve) : {R} %n = div(%d, %std) : {T} %s = mul(%n, %w) : {T} "
        f"%r = add(%s, %b) : {T} return %r }}",
        LAYER_NORM,
    ),
    "centred twice": (
        f"{MEAN} {VARIANCE} %d2 = sub(%x, %mean) : {T} %std = sqrt(%ve) : {R} %one = constant 1.0 : f32[] "
        f"%i = div(%one, %std) : {R} %n = mul(%i, %d2) : {T} %s = mul(%w, %n) : {T} %r = add(%b, %s) : {T} "
        "return %r }",
        LAYER_NORM,
    ),
    "tf2onnx": (
        f"{MEAN} {VARIANCE} %i0 = sqrt(%ve) : {R} %i1 = reciprocal(%i0) : {R} %i = mul(%i1, %w) : {T} "
        f"%s = mul(%x, %i) : {T} %m = mul(%mean, %i) : {T} %o = sub(%b, %m) : {T} %r = add(%s, %o) : {T} return %r }}",
        LAYER_NORM,
    ),
    "without parameters": (
        f"{MEAN} {VARIANCE} %std = sqrt(%ve) : {R} %r = div(%d, %std) : {T} return %r }}",
        PLAIN_LAYER_NORM,
    ),
}


@pytest.mark.parametrize("name", LAYER_NORMS)
def test_layer_norm(name, becomes):
    before, after = LAYER_NORMS[name]
    becomes(canonical_passes(), f"{X} {before}", f"{X} {after}")


def test_layer_norm_over_two_axes(becomes):
    becomes(
        canonical_passes(),
        """graph @main(%x: f32[2,3,4], %w: f32[3,4]) {
          %m = reduce_mean(%x) {axes=(1, 2)} : f32[2,1,1]
          %d = sub(%x, %m) : f32[2,3,4]
          %q = mul(%d, %d) : f32[2,3,4]
          %v = reduce_mean(%q) {axes=(1, 2)} : f32[2,1,1]
          %e = constant 0.5 : f32[]
          %a = add(%v, %e) : f32[2,1,1]
          %s = sqrt(%a) : f32[2,1,1]
          %n = div(%d, %s) : f32[2,3,4]
          %r = mul(%n, %w) : f32[2,3,4]
          return %r
        }""",
        """graph @main(%x: f32[2,3,4], %w: f32[3,4]) {
          %r = layer_norm(%x, %w) {axis=1, epsilon=0.5} : f32[2,3,4]
          return %r
        }""",
    )


RMS_NORMS = {
    "reciprocal": f"%i = reciprocal(%std) : {R} %n = mul(%x, %i) : {T}",
    "division": f"%n = div(%x, %std) : {T}",
}


@pytest.mark.parametrize("name", RMS_NORMS)
def test_rms_norm(name, becomes):
    variance = VARIANCE.replace("%d,", "%x,")
    becomes(
        canonical_passes(),
        f"{X} {variance} %std = sqrt(%ve) : {R} {RMS_NORMS[name]} %r = mul(%w, %n) : {T} return %r }}",
        f"{X} %r = rms_norm(%x, %w) {{axis=2, epsilon=0.5}} : {T} return %r }}",
    )


ERF = f"%h = constant 1.4142135 : f32[] %q = div(%x, %h) : {T} %e = erf(%q) : {T}"
ONE = "%one = constant 1.0 : f32[] %half = constant 0.5 : f32[]"
CUBE = "%three = constant 3.0 : f32[] %k = constant 0.044715 : f32[] %p = constant 0.7978846 : f32[]"
GATE = f"%g = add(%e, %one) : {T}"
GELUS = {
    "half first": f"{ONE} {ERF} {GATE} %a = mul(%x, %half) : {T} %r = mul(%a, %g) : {T}",
    "half last": f"{ONE} {ERF} {GATE} %a = mul(%x, %g) : {T} %r = mul(%a, %half) : {T}",
    "half on the gate": f"{ONE} {ERF} {GATE} %a = mul(%half, %g) : {T} %r = mul(%a, %x) : {T}",
    "half in the gate": f"{ONE} {ERF} %a = mul(%e, %half) : {T} %g = add(%a, %half) : {T} %r = mul(%x, %g) : {T}",
}
TANHS = {
    "power": (f"%c = pow(%x, %three) : {T} %c1 = mul(%c, %k) : {T} %c2 = add(%x, %c1) : {T} %c3 = mul(%c2, %p) : {T}"),
    "products": (
        f"%c = mul(%x, %x) : {T} %c0 = mul(%k, %c) : {T} %c1 = mul(%x, %c0) : {T} %c2 = add(%c1, %x) : {T} "
        f"%c3 = mul(%p, %c2) : {T}"
    ),
    "factored": (
        f"%c = mul(%x, %x) : {T} %c0 = mul(%c, %k) : {T} %c1 = add(%c0, %one) : {T} %c2 = mul(%x, %p) : {T} "
        f"%c3 = mul(%c2, %c1) : {T}"
    ),
}


@pytest.mark.parametrize("name", GELUS)
def test_gelu(name, becomes):
    after = f"{X} %r = gelu(%x) {{approximate='none'}} : {T} return %r }}"
    becomes(canonical_passes(), f"{X} {GELUS[name]} return %r }}", after)


@pytest.mark.parametrize("name", TANHS)
def test_gelu_by_tanh(name, becomes):
    gate = f"%e = tanh(%c3) : {T} {GATE} %a = mul(%x, %half) : {T} %r = mul(%a, %g) : {T} return %r }}"
    after = f"{X} %r = gelu(%x) {{approximate='tanh'}} : {T} return %r }}"
    becomes(canonical_passes(), f"{X} {ONE} {CUBE} {TANHS[name]} {gate}", after)


def test_gated_gelu(becomes):
    becomes(
        canonical_passes(),
        f"{X} {GELUS['half first']} %y = mul(%r, %w) : {T} return %y }}",
        f"{X} %r = gelu(%x) {{approximate='none'}} : {T} %y = mul(%r, %w) : {T} return %y }}",
    )


def test_silu(becomes):
    after = f"{X} %r = silu(%x) : {T} return %r }}"
    becomes(canonical_passes(), f"{X} %s = sigmoid(%x) : {T} %r = mul(%s, %x) : {T} return %r }}", after)


@pytest.mark.parametrize("shift", [f"%m = reduce_max(%x) {{axes=(1,)}} : f32[2,1,4] %s = sub(%x, %m) : {T}", ""])
def test_softmax(shift, becomes):
    start = "%s" if shift else "%x"
    becomes(
        canonical_passes(),
        f"{X} {shift} %e = exp({start}) : {T} %t = reduce_sum(%e) {{axes=(1,)}} : f32[2,1,4] "
        f"%r = div(%e, %t) : {T} return %r }}",
        f"{X} %r = softmax(%x) {{axis=1}} : {T} return %r }}",
    )


NEAR_MISSES = {
    "the variance is an output": f"{MEAN} {VARIANCE} %std = rsqrt(%ve) : {R} %r = mul(%d, %std) : {T} return %r, %var",
    "another mean": (
        f"%mean = reduce_mean(%x) {{axes=(1,)}} : f32[2,1,4] %d = sub(%x, %mean) : {T} {VARIANCE} "
        f"%i = reciprocal(%ve) : {R} %r = mul(%d, %i) : {T} return %r"
    ),
    "the norm of another": (
        f"%d = tanh(%x) : {T} {VARIANCE} %std = sqrt(%ve) : {R} %r = div(%x, %std) : {T} return %r"
    ),
    "an axis in the middle": (
        f"%q = mul(%x, %x) : {T} %m = reduce_mean(%q) {{axes=(1,)}} : f32[2,1,4] %e = constant 0.5 : f32[] "
        f"%a = add(%m, %e) : f32[2,1,4] %i = rsqrt(%a) : f32[2,1,4] %r = mul(%x, %i) : {T} return %r"
    ),
    "another root": GELUS["half first"].replace("1.4142135", "1.5") + " return %r",
    "another half": GELUS["half first"].replace("0.5 :", "0.25 :") + " return %r",
    "the curve is an output": GELUS["half first"] + " return %r, %e",
    "the argument is read twice": GELUS["half first"] + f" %z = tanh(%q) : {T} return %r, %z",
    "the curve of another": f"%y = abs(%x) : {T} " + GELUS["half first"].replace("div(%x", "div(%y") + " return %r",
    "the sigmoid of another": f"%y = abs(%x) : {T} %s = sigmoid(%y) : {T} %r = mul(%x, %s) : {T} return %r",
    "the sum of another axis": (
        f"%e = exp(%x) : {T} %t = reduce_sum(%e) {{axes=(1, 2)}} : f32[2,1,1] %r = div(%e, %t) : {T} return %r"
    ),
    "the exponentials are an output": (
        f"%e = exp(%x) : {T} %t = reduce_sum(%e) {{axes=(1,)}} : f32[2,1,4] %r = div(%e, %t) : {T} return %r, %e"
    ),
}
COMPOSITE = {"layer_norm", "rms_norm", "gelu", "silu", "softmax", "attention"}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss(name, transforms):
    graph = transforms(canonical_passes(), f"{X} {NEAR_MISSES[name]} }}")
    assert not COMPOSITE & {node.op for node in graph.nodes}


def test_centred_values_that_others_read_make_an_rms_norm(becomes):
    """The norm of x - mean(x) is then still one, of values that are made anyway."""
    becomes(
        canonical_passes(),
        f"{X} {MEAN} {VARIANCE} %std = sqrt(%ve) : {R} %r = div(%d, %std) : {T} return %r, %d }}",
        f"{X} %o = constant splat 1.0 : f32[4] {MEAN} %r = rms_norm(%d, %o) {{axis=2, epsilon=0.5}} : {T} "
        "return %r, %d }",
    )


# Attention: B=2, L=3, S=5, H=4, D=6 ------------------------------------------------------------------------

Q = "%q: f32[2,3,4,6], %k: f32[2,5,4,6], %v: f32[2,5,4,6]"
SCORES = "f32[2,4,3,5]"
HEADS = (
    "%qt = transpose(%q) {perm=(0, 2, 1, 3)} : f32[2,4,3,6] %kt = transpose(%k) {perm=(0, 2, 3, 1)} : f32[2,4,6,5] "
    "%vt = transpose(%v) {perm=(0, 2, 1, 3)} : f32[2,4,5,6] "
)
PRODUCT = f"%s = matmul(%qt, %kt) : {SCORES} "
SCALED = f"%c = constant 0.25 : f32[] %sc = mul(%s, %c) : {SCORES} "
REST = (
    f"%p = softmax(%sc) {{axis=3}} : {SCORES} %o = matmul(%p, %vt) : f32[2,4,3,6] "
    "%r = transpose(%o) {perm=(0, 2, 1, 3)} : f32[2,3,4,6] return %r }"
)
ATTENTION = "%r = attention(%q, %k, %v) {scale=0.25} : f32[2,3,4,6] return %r }"
MASKED = "%r = attention(%q, %k, %v, %m) {scale=0.25} : f32[2,3,4,6] return %r }"
KEYS_TWICE = HEADS.replace(
    "%kt = transpose(%k) {perm=(0, 2, 3, 1)} : f32[2,4,6,5]",
    "%k1 = transpose(%k) {perm=(0, 2, 1, 3)} : f32[2,4,5,6] %kt = transpose(%k1) {perm=(0, 1, 3, 2)} : f32[2,4,6,5]",
)
BOTH = (
    "%c = constant 0.5 : f32[] %qs = mul(%qt, %c) : f32[2,4,3,6] %ks = mul(%kt, %c) : f32[2,4,6,5] "
    f"%sc = matmul(%qs, %ks) : {SCORES} "
)
ATTENTIONS = {
    "scale on the scores": HEADS + PRODUCT + SCALED + REST,
    "division": HEADS + PRODUCT + f"%c = constant 4.0 : f32[] %sc = div(%s, %c) : {SCORES} " + REST,
    "keys transposed twice": KEYS_TWICE + PRODUCT + SCALED + REST,
    "scale on both": HEADS + BOTH + REST,
    "scale on both, before the keys are transposed": KEYS_TWICE.replace("(%k1)", "(%kc)").replace(
        "%kt =", "%h = constant 0.5 : f32[] %kc = mul(%k1, %h) : f32[2,4,5,6] %kt ="
    )
    + BOTH.replace("%ks = mul(%kt, %c) : f32[2,4,6,5]", "").replace("%ks", "%kt")
    + REST,
    "scale on the queries": (
        "%c = constant 0.25 : f32[] %qc = mul(%q, %c) : f32[2,3,4,6] " + HEADS.replace("(%q)", "(%qc)")
        + f"%sc = matmul(%qt, %kt) : {SCORES} " + REST
    ),
    "a mask of zeros, one by one": (
        HEADS + PRODUCT + SCALED.replace("%sc", "%s1") + "%m = constant [0.0, 0.0, 0.0, 0.0, 0.0] : f32[5] "
        f"%sc = add(%m, %s1) : {SCORES} " + REST
    ),
    "a guard against rows that are masked wholly": (
        HEADS + PRODUCT + SCALED + REST.replace(
            "%o = matmul(%p",
            "%none = constant [False, False, False] : bool[3,1] %z = constant 0.0 : f32[] "
            f"%pg = where(%none, %z, %p) : {SCORES} %o = matmul(%pg",
        )
    ),
    "a mask of zeros": (
        HEADS + PRODUCT + SCALED.replace("%sc", "%s1") + "%i = constant [0, 0, 0, 0, 0] : i64[5] "
        "%z = constant 1 : i64[] %lt = less(%i, %z) : bool[5] %yes = constant 0.0 : f32[] %no = constant -1e30 : f32[] "
        f"%m = where(%lt, %yes, %no) : f32[5] %sc = add(%s1, %m) : {SCORES} " + REST
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name, becomes):
    becomes(canonical_passes(), f"graph @main({Q}) {{ {ATTENTIONS[name]}", f"graph @main({Q}) {{ {ATTENTION}")


@pytest.mark.parametrize("mask", ["f32[3,5]", "f32[4,3,5]", "f32[2,1,1,5]", SCORES])
@pytest.mark.parametrize("operands", ["%s1, %m", "%m, %s1"])
def test_masked_attention(mask, operands, becomes):
    scaled = SCALED.replace("%sc", "%s1") + f"%sc = add({operands}) : {SCORES} "
    head = f"graph @main({Q}, %m: {mask}) {{"
    becomes(canonical_passes(), f"{head} {HEADS} {PRODUCT} {scaled} {REST}", f"{head} {MASKED}")


def test_two_masks_are_added(becomes):
    scaled = SCALED.replace("%sc", "%s1") + f"%s2 = add(%s1, %m) : {SCORES} %sc = add(%s2, %n) : {SCORES} "
    head = f"graph @main({Q}, %m: f32[4,3,5], %n: f32[2,1,1,5]) {{"
    after = f"%mn = add(%m, %n) : {SCORES} " + MASKED.replace("%m)", "%mn)")
    becomes(canonical_passes(), f"{head} {HEADS} {PRODUCT} {scaled} {REST}", f"{head} {after}")


@pytest.mark.parametrize("operands", ["%m, %s1, %low", "%m, %low, %s1"])
def test_selected_scores_are_masked_scores(operands, becomes):
    scaled = SCALED.replace("%sc", "%s1") + f"%low = constant -3e38 : f32[] %sc = where({operands}) : {SCORES} "
    head = f"graph @main({Q}, %m: bool[2,1,3,5]) {{"
    choice = operands.replace("%s1", "%zero").replace("%m,", "%m,")
    constants = "%zero = constant 0.0 : f32[] %low = constant -3e38 : f32[]"
    after = f"{constants} %n = where({choice}) : f32[2,1,3,5] " + MASKED.replace("%m)", "%n)")
    becomes(canonical_passes(), f"{head} {HEADS} {PRODUCT} {scaled} {REST}", f"{head} {after}")


@pytest.mark.parametrize(
    ("rows", "turned"),
    [
        ("bool[3,1]", "reshape(%none) {shape=(1, 3, 1, 1)} : bool[1,3,1,1]"),
        ("bool[2,1,3,1]", "reshape(%none) {shape=(2, 3, 1, 1)} : bool[2,3,1,1]"),
        ("bool[2,4,3,1]", "transpose(%none) {perm=(0, 2, 1, 3)} : bool[2,3,4,1]"),
        ("bool[]", "reshape(%none) {shape=(1, 1, 1, 1)} : bool[1,1,1,1]"),
    ],
)
def test_rows_without_weights(rows, turned, becomes):
    """Where all keys of a query are masked ONNX's attention gives zeros, which a softmax does not."""
    guard = f"%pg = where(%none, %z, %p) : {SCORES} %o = matmul(%pg"
    head = f"graph @main({Q}, %none: {rows}) {{ %z = constant 0.0 : f32[]"
    becomes(
        canonical_passes(),
        f"{head} {HEADS} {PRODUCT} {SCALED} {REST.replace('%o = matmul(%p', guard)}",
        f"{head} %a = attention(%q, %k, %v) {{scale=0.25}} : f32[2,3,4,6] %n = {turned} "
        "%r = where(%n, %z, %a) : f32[2,3,4,6] return %r }",
    )


def test_softmax_of_short_floats_in_float32(becomes):
    def short(text):
        return text.replace("f32", "f16")

    rest = short(REST).replace("%p = softmax(%sc) {axis=3} : f16", "%w = cast(%sc) {to='float32'} : f32").replace(
        " %o =", " %pw = softmax(%w) {axis=3} : f32[2,4,3,5] %p = cast(%pw) {to='float16'} : f16[2,4,3,5] %o ="
    )  # fmt: skip
    head = f"graph @main({short(Q)}) {{"
    before = f"{head} {short(HEADS + PRODUCT + SCALED)} {rest}"
    becomes(canonical_passes(), before, f"{head} {short(ATTENTION)}", tolerance=2e-3)


SHARED = "%q: f32[2,3,4,6], %k: f32[2,5,2,6], %v: f32[2,5,2,6]"


def _repeated(name: str) -> str:
    """Keys or values repeated over the heads that share them, once they are [B,H,S,D]."""
    return (
        f"%{name}0 = transpose(%{name}) {{perm=(0, 2, 1, 3)}} : f32[2,2,5,6] "
        f"%{name}1 = reshape(%{name}0) {{shape=(2, 2, 1, 5, 6)}} : f32[2,2,1,5,6] "
        f"%{name}2 = expand(%{name}1) {{shape=(2, 2, 2, 5, 6)}} : f32[2,2,2,5,6] "
        f"%{name}3 = reshape(%{name}2) {{shape=(2, 4, 5, 6)}} : f32[2,4,5,6] "
    )


def _repeated_early(name: str) -> str:
    """The same while they are [B,S,H,D]."""
    return (
        f"%{name}1 = reshape(%{name}) {{shape=(2, 5, 2, 1, 6)}} : f32[2,5,2,1,6] "
        f"%{name}2 = expand(%{name}1) {{shape=(2, 5, 2, 2, 6)}} : f32[2,5,2,2,6] "
        f"%{name}4 = reshape(%{name}2) {{shape=(2, 5, 4, 6)}} : f32[2,5,4,6] "
        f"%{name}3 = transpose(%{name}4) {{perm=(0, 2, 1, 3)}} : f32[2,4,5,6] "
    )


GROUPED = (
    "%qt = transpose(%q) {perm=(0, 2, 1, 3)} : f32[2,4,3,6] %kt = transpose(%k3) {perm=(0, 1, 3, 2)} : f32[2,4,6,5] "
    + PRODUCT + SCALED + REST.replace("%vt", "%v3")
)  # fmt: skip


@pytest.mark.parametrize("repeat", [_repeated, _repeated_early])
def test_grouped_query_attention(repeat, becomes):
    head = f"graph @main({SHARED}) {{"
    becomes(canonical_passes(), f"{head} {repeat('k')} {repeat('v')} {GROUPED}", f"{head} {ATTENTION}")


def test_keys_repeated_but_not_values(transforms):
    values = "%v3 = transpose(%v) {perm=(0, 2, 1, 3)} : f32[2,4,5,6] "
    head = "graph @main(%q: f32[2,3,4,6], %k: f32[2,5,2,6], %v: f32[2,5,4,6]) {"
    graph = transforms(canonical_passes(), f"{head} {_repeated('k')} {values} {GROUPED}")
    (attention,) = [node for node in graph.nodes if node.op == "attention"]
    assert attention.inputs[1].shape == (2, 5, 4, 6)


def test_one_key_head_by_broadcasting(becomes):
    head = "graph @main(%q: f32[2,3,4,6], %k: f32[2,5,1,6], %v: f32[2,5,1,6]) {"
    text = HEADS.replace("%kt = transpose(%k) {perm=(0, 2, 3, 1)} : f32[2,4,6,5]", "%kt = transpose(%k) {perm=(0, 2, 3, 1)} : f32[2,1,6,5]").replace("f32[2,4,5,6]", "f32[2,1,5,6]")  # fmt: skip  # noqa: E501
    becomes(canonical_passes(), f"{head} {text} {PRODUCT} {SCALED} {REST}", f"{head} {ATTENTION}")


def test_rotary_embedding_leaves_no_transposes(transforms):
    """Between the transpose of the queries and the product: x * cos + concat(-x[half:], x[:half]) * sin."""
    rotary = (
        "%cos = constant splat 0.75 : f32[3,6] %sin = constant [1.0, 2.0, 3.0] : f32[3,1] "
        "%a = mul(%qt, %cos) : f32[2,4,3,6] "
        "%hi = slice(%qt) {starts=(0, 0, 0, 3), sizes=(2, 4, 3, 3), steps=(1, 1, 1, 1)} : f32[2,4,3,3] "
        "%lo = slice(%qt) {starts=(0, 0, 0, 0), sizes=(2, 4, 3, 3), steps=(1, 1, 1, 1)} : f32[2,4,3,3] "
        "%n = neg(%hi) : f32[2,4,3,3] %h = concat(%n, %lo) {axis=3} : f32[2,4,3,6] "
        "%g = mul(%h, %sin) : f32[2,4,3,6] %qr = add(%a, %g) : f32[2,4,3,6] "
    )
    product = PRODUCT.replace("%qt", "%qr")
    graph = transforms(canonical_passes(), f"graph @main({Q}) {{ {HEADS} {rotary} {product} {SCALED} {REST}")
    counts = Counter(node.op for node in graph.nodes)
    assert counts["attention"] == 1
    assert counts["transpose"] == counts["reshape"] == 0


def test_operands_that_no_transpose_made(becomes):
    """The operator wants [B,L,H,D]: transposes are put in."""
    head = "graph @main(%qt: f32[2,4,3,6], %kt: f32[2,4,6,5], %vt: f32[2,4,5,6]) {"
    becomes(
        canonical_passes(),
        f"{head} {PRODUCT} {SCALED} {REST}",
        f"{head} %q = transpose(%qt) {{perm=(0, 2, 1, 3)}} : f32[2,3,4,6] "
        "%k = transpose(%kt) {perm=(0, 3, 1, 2)} : f32[2,5,4,6] %v = transpose(%vt) {perm=(0, 2, 1, 3)} : f32[2,5,4,6] "
        + ATTENTION,
    )


def test_products_of_rank_three_are_heads_of_their_own(becomes):
    becomes(
        canonical_passes(),
        """graph @main(%q: f32[8,3,6], %k: f32[8,5,6], %v: f32[8,5,6], %m: f32[8,3,5]) {
          %kt = transpose(%k) {perm=(0, 2, 1)} : f32[8,6,5]
          %s = matmul(%q, %kt) : f32[8,3,5]
          %sm = add(%s, %m) : f32[8,3,5]
          %p = softmax(%sm) {axis=2} : f32[8,3,5]
          %o = matmul(%p, %v) : f32[8,3,6]
          return %o
        }""",
        """graph @main(%q: f32[8,3,6], %k: f32[8,5,6], %v: f32[8,5,6], %m: f32[8,3,5]) {
          %q1 = reshape(%q) {shape=(8, 3, 1, 6)} : f32[8,3,1,6]
          %k1 = reshape(%k) {shape=(8, 5, 1, 6)} : f32[8,5,1,6]
          %v1 = reshape(%v) {shape=(8, 5, 1, 6)} : f32[8,5,1,6]
          %m1 = reshape(%m) {shape=(8, 1, 3, 5)} : f32[8,1,3,5]
          %o = attention(%q1, %k1, %v1, %m1) {scale=1.0} : f32[8,3,1,6]
          %r = reshape(%o) {shape=(8, 3, 6)} : f32[8,3,6]
          return %r
        }""",
    )


NO_ATTENTION = {
    "softmax over the queries": HEADS + PRODUCT + SCALED + REST.replace("axis=3", "axis=2"),
    "the weights are an output": HEADS + PRODUCT + SCALED + REST.replace("return %r", "return %r, %p"),
    "the scores are an output": HEADS + PRODUCT + SCALED + REST.replace("return %r", "return %r, %s"),
    "the scores are read twice": (
        HEADS + PRODUCT + SCALED + REST.replace("return %r", f"%t = tanh(%s) : {SCORES} return %r, %t")
    ),
    "a scale for each head": (
        HEADS + PRODUCT + f"%c = constant [1.0, 2.0, 3.0, 4.0] : f32[4,1,1] %sc = mul(%s, %c) : {SCORES} " + REST
    ),
    "no zeros where rows are left out": (
        HEADS + PRODUCT + SCALED + REST.replace(
            "%o = matmul(%p", "%n = constant [True, False, True] : bool[3,1] %one = constant 1.0 : f32[] "
            f"%pg = where(%n, %one, %p) : {SCORES} %o = matmul(%pg",
        )
    ),
    "single weights left out": (
        HEADS + PRODUCT + SCALED + REST.replace(
            "%o = matmul(%p", "%n = constant [True, False, True, False, False] : bool[5] %z = constant 0.0 : f32[] "
            f"%pg = where(%n, %z, %p) : {SCORES} %o = matmul(%pg",
        )
    ),
    "a curve between": HEADS + PRODUCT + f"%sc = tanh(%s) : {SCORES} " + REST,
    "a choice among ordinary numbers": (
        HEADS + PRODUCT + "%yes = constant [True, False, True, True, False] : bool[5] %low = constant -1.0 : f32[] "
        f"%sc = where(%yes, %s, %low) : {SCORES} " + REST
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_ATTENTION)
def test_no_attention(name, transforms):
    graph = transforms(canonical_passes(), f"graph @main({Q}) {{ {NO_ATTENTION[name]}")
    counts = Counter(node.op for node in graph.nodes)
    assert counts["attention"] == 0
    assert counts["softmax"] == 1


def test_nothing_to_recognise(keeps):
    keeps([Recognize()], f"{X} %r = tanh(%x) : {T} return %r }}")
