"""`tensorc verify` says yes to what is right and no to what is wrong."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from tensorc.verification import rounds_itself


def test_a_right_model_agrees(tensorc_, mlp):
    done = tensorc_("verify", mlp, "--target", "interpreter", "--json")
    report = json.loads(done.out)
    assert done.code == 0
    assert report["ok"] is True
    assert report["max_abs_error"] < 1e-5
    assert report["cosine"] > 0.999999
    assert list(report["outputs"]) == ["../out/y"]


def test_a_wrong_model_does_not(tensorc_, mlp):
    done = tensorc_("verify", mlp, "--target", "interpreter:wrong", "--json")
    report = json.loads(done.out)
    assert done.code == 1
    assert report["ok"] is False
    assert 0.49 < report["max_abs_error"] < 0.51
    table = tensorc_("verify", mlp, "--target", "interpreter:wrong")
    assert (table.code, "DOES NOT AGREE" in table.out) == (1, True)


def test_tolerances_decide(tensorc_, mlp):
    assert tensorc_("verify", mlp, "--target", "interpreter:wrong", "--atol", 10).code == 0


def test_an_artifact_is_checked_against_the_model_that_is_named(tensorc_, mlp, artifact):
    assert "--model MODEL.onnx" in tensorc_("verify", artifact).complaint()
    assert tensorc_("verify", artifact, "--model", mlp).code == 0
    assert "compiled already" in tensorc_("verify", artifact, "--model", mlp, "--shape", "in/x=2x8").complaint()


def test_token_ids_are_legal(tensorc_, embedding):
    assert tensorc_("verify", embedding, "--target", "interpreter", "--seed", 3).code == 0


def test_a_reference_that_ignores_its_inputs_is_told(tensorc_, tmp_path, mlp):
    model = onnx.load(mlp)
    model.graph.node[0].input[1] = "zero"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((8, 4), np.float32), "zero"))
    onnx.save(model, tmp_path / "constant.onnx")
    report = json.loads(tensorc_("verify", tmp_path / "constant.onnx", "--target", "interpreter", "--json").out)
    assert report["ok"] is True
    assert "does not depend on the inputs" in report["outputs"]["../out/y"]["note"]
    whole = json.loads(tensorc_("verify", mlp, "--target", "interpreter", "--json").out)
    assert whole["outputs"]["../out/y"]["note"] == ""


@pytest.mark.compiler
@pytest.mark.parametrize("inside", [False, True])
def test_models_that_round_to_bytes_are_judged_by_noise(tensorc_, tmp_path, inside):
    """A last place of a sum decides between two bytes; also where the rounding is in a branch."""
    rounding = "q = QuantizeLinear(x, s)  y = DequantizeLinear(q, s)"
    body = rounding
    if inside:
        body = """c = Constant<value = bool {1}>()
            y = If (c) <then_branch = yes () => (float[2,8] a) { q = QuantizeLinear(x, s)  a = DequantizeLinear(q, s) },
                        else_branch = no () => (float[2,8] b) { b = Identity(x) }>"""
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,8] x) => (float[2,8] y) <float s = {{0.01}}> {{ {body} }}""")
    onnx.save(model, tmp_path / "net.onnx")
    assert rounds_itself(tmp_path / "net.onnx")
    done = tensorc_("verify", tmp_path / "net.onnx")
    assert done.code == 0
    assert "where 20.0 dB are enough" in done.out


def test_other_models_do_not_round(mlp):
    assert not rounds_itself(mlp)
