"""What is wrong is said in one line, with what is legal, and with the right exit code."""

import pytest

from tensorc.cli import cli

COMMANDS = "bench, compile, inspect, ops, profile, records, run, targets, tune, verify"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], f"no command given; commands: {COMMANDS}"),
        (["comple"], f"no command 'comple' (did you mean compile?); commands: {COMMANDS}"),
        (["compile"], "compile: Missing argument 'MODEL.onnx'."),
        (["compile", "absent.onnx"], "File 'absent.onnx' does not exist."),
        (["compile", "{model}", "--shap", "x=1"], "no option --shap (did you mean --shape"),
        (["compile", "{model}", "--shape", "x=1xax3"], "'x=1xax3' is not NAME=SHAPE"),
        (["compile", "{model}", "--shape", "x=0x3"], "'x=0x3' is not NAME=SHAPE"),
        (["compile", "{model}", "--shape", "x=1", "--shape", "x=2"], "'x' is given twice"),
        (["compile", "{model}", "--threads", "-1"], "-1 is not in the range x>=0"),
        (["compile", "{model}", "--target", "abacus"], "unknown target 'abacus'; installed: "),
        (["compile", "{model}", "--tune", "fast"], "'fast' is not a budget: a time such as 60s"),
        (["tune", "{model}", "--budget", "0"], "'0' is not a budget"),
        (["tune", "{model}", "--target", "interpreter"], "the target interpreter leaves nothing to tune"),
        (
            ["compile", "{model}", "--precision", "half"],
            "'half' is not one of 'float32', 'tf32', 'bfloat16', 'float16'",
        ),
        (
            ["compile", "{model}", "--target", "interpreter", "--precision", "float16"],
            "the target interpreter has no precision float16; legal: float32",
        ),
        (["compile", "{model}", "--objective", "beauty"], "'beauty' is not one of 'latency', 'throughput'"),
        (
            ["compile", "{model}", "--target", "interpreter", "--objective", "energy"],
            "the target interpreter makes no hardware: it has no objective energy",
        ),
        (["compile", "{model}", "--clock", "fast"], "'fast' is no clock: a frequency such as 200MHz, or a period such"),
        (["compile", "{model}", "--clock", "0MHz"], "'0MHz' is no clock"),
        (["compile", "{model}", "--clock", "5"], "'5' is no clock"),
        (
            ["compile", "{model}", "--target", "hls", "--clock", "1GHz"],
            "--clock 1ns: pipelines are made for 2.75ns (364MHz)",
        ),
        (["compile", "{model}", "--clock", "5ns"], "the target cpu makes no hardware: it has no clock"),
        (["compile", "{model}", "--target", "c", "--clock", "5ns"], "the target c makes no hardware: it has no clock"),
        (["run", "{model}"], "is not a tensorc artifact"),
        (["compile", "{model}", "--memory-budget", "0MiB"], "'0MiB' is not a size in memory, such as 400MiB"),
        (["compile", "{model}", "--memory-budget", "4 pages"], "'4 pages' is not a size in memory"),
        (["run", "{model}", "--input", "x"], "'x' is not NAME=FILE.npy"),
        (["run", "{model}", "--input", "x=absent.npy"], "File 'absent.npy' does not exist."),
        (["bench", "{model}", "--against", "abacus"], "no engine 'abacus'; engines: onnxruntime, openvino"),
        (["verify", "{model}", "--rtol", "-1"], "-1.0 is not in the range x>=0"),
    ],
)
def test_usage_error(tensorc_, mlp, words, expected):
    assert expected in tensorc_(*(word.format(model=mlp) for word in words)).complaint()


@pytest.mark.parametrize(
    "option",
    ["--calibrate", "--report"],
)
def test_an_option_that_does_not_exist_is_refused_with_the_legal_ones(tensorc_, mlp, option):
    line = tensorc_("compile", mlp, option, "1").complaint()
    assert f"no option {option}" in line
    legal = (
        "--target, --output, --shape, --threads, --tune, --database, --numerics, --memory-budget, --fallback, "
        "--precision, --quantize, --calibration, --calibration-method, --save-ranges, --per-tensor, --equalise, "
        "--smooth, --correct-bias, --evaluate, --max-accuracy-drop, --objective, --clock, --max-latency, "
        "--accuracy-report, "
        "--print-ir-after, --json"
    )
    assert f"options: {legal}" in line


def test_what_is_no_model_is_named(tensorc_, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a protobuf")
    assert str(broken) in tensorc_("compile", broken, "--target", "interpreter").complaint()


@pytest.fixture
def failing(monkeypatch):
    def fail_with(error):
        def callback(**_):
            raise error

        monkeypatch.setattr(cli.commands["targets"], "callback", callback)

    return fail_with


def test_a_fault_of_ours_is_one_line_that_tells_how_to_see_more(tensorc_, failing, monkeypatch):
    monkeypatch.delenv("TENSORC_TRACEBACK", raising=False)
    failing(KeyError("gone\nfor good"))
    done = tensorc_("targets")
    assert done.code == 3
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("tensorc: internal error: KeyError: ")
    assert "TENSORC_TRACEBACK=1" in done.err


def test_the_traceback_is_one_variable_away(tensorc_, failing, monkeypatch):
    monkeypatch.setenv("TENSORC_TRACEBACK", "1")
    failing(KeyError("gone"))
    assert "Traceback (most recent call last)" in tensorc_("targets").err


def test_an_interrupt_has_the_shells_code(tensorc_, failing):
    failing(KeyboardInterrupt())
    done = tensorc_("targets")
    assert done.code == 130
    assert "interrupted" in done.err


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["compile", "--help"], ["bench", "-h"]])
def test_help_is_no_error(tensorc_, words):
    done = tensorc_(*words)
    assert (done.code, done.err) == (0, "")
    assert "tensorc" in done.out
