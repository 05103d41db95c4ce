"""`tensorc compile`: what it prints, what it writes, and that it writes whole files or none."""

import json

import numpy as np
import pytest

import tensorc
from tensorc.options import parse_bytes
from tensorc.runtime.artifact import Artifact


def test_the_default_output_is_the_models_name_in_the_current_folder(tensorc_, mlp, tmp_path):
    done = tensorc_("compile", mlp, "--target", "interpreter")
    assert done.code == 0
    assert [path.name for path in (tmp_path / "cwd").iterdir()] == ["mlp.tcm"]


def test_the_summary_tells_kernels_time_and_size(tensorc_, mlp):
    done = tensorc_("compile", mlp, "--target", "interpreter")
    for word in ("kernels", "time", "import", "passes", "build", "write", "mlp.tcm", "input in/x", "float32[2,8]"):
        assert word in done.out
    assert done.err == ""


def test_json_is_one_object(tensorc_, mlp):
    done = tensorc_("compile", mlp, "--target", "interpreter", "--json")
    report = json.loads(done.out)
    assert report["output"] == "mlp.tcm"
    assert report["inputs"] == [{"name": "in/x", "dtype": "float32", "shape": [2, 8]}]
    assert list(report["seconds"]) == ["start", "import", "passes", "schedules", "build", "write", "total"]
    assert [record["name"] for record in report["passes"]] == ["tidy"]
    assert done.out.count("\n") == 1


def test_the_manifest_is_the_contract(artifact):
    manifest = Artifact.open(artifact).manifest
    assert manifest.keys() == {"tensorc", "target", "name", "inputs", "outputs", "precision", "memory_budget",
                               "program", "constants", "summary", "sections"}  # fmt: skip
    assert manifest["target"] == "interpreter"
    assert manifest["outputs"] == [{"name": "../out/y", "dtype": "float32", "shape": [2, 4]}]


def test_a_target_that_holds_no_budgets_says_so(tensorc_, mlp):
    line = tensorc_("compile", mlp, "--target", "interpreter", "--memory-budget", "1GiB").complaint()
    assert "mlp cannot be held to a memory budget: the target interpreter does not know how" in line


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("1", 1), ("64MB", 64_000_000), ("1.5GiB", 3 << 29), ("400 MiB", 400 << 20), ("2kib", 2048)],
)
def test_sizes_in_memory(text, nbytes):
    assert parse_bytes(text) == nbytes


def test_ir_is_printed_to_standard_error(tensorc_, mlp):
    done = tensorc_("compile", mlp, "--target", "interpreter", "--print-ir-after", "tidy", "--json")
    json.loads(done.out)
    assert done.err.startswith("# after tidy\ngraph @")
    assert "# after import" not in done.err
    everything = tensorc_("compile", mlp, "--target", "interpreter", "--print-ir-after", "all").err
    assert everything.index("# after import") < everything.index("# after tidy")


def test_an_unknown_pass_is_named_with_the_known_ones(tensorc_, mlp):
    line = tensorc_("compile", mlp, "--target", "interpreter", "--print-ir-after", "tidier").complaint()
    assert "no pass 'tidier'" in line
    assert "import, tidy, all" in line


def test_an_output_without_a_place_is_refused(tensorc_, mlp, tmp_path):
    for place, why in ((tmp_path / "absent" / "x.tcm", "is not a folder"), (tmp_path, "it is a folder"),
                       (mlp, "it is the model itself")):  # fmt: skip
        assert why in tensorc_("compile", mlp, "--target", "interpreter", "-o", place).complaint()


def test_an_interrupted_compilation_leaves_nothing_and_keeps_what_was_there(tensorc_, mlp, tmp_path):
    old = tmp_path / "cwd" / "mlp.tcm"
    old.write_bytes(b"old")
    assert tensorc_("compile", mlp, "--target", "interpreter:interrupt").code == 130
    assert [path.name for path in old.parent.iterdir()] == ["mlp.tcm"]
    assert old.read_bytes() == b"old"


def test_shapes_reach_the_frontend(tensorc_, mlp):
    line = tensorc_("compile", mlp, "--target", "interpreter", "--shape", "in/x=3x8").complaint()
    assert "in/x" in line


def test_the_result_runs(artifact):
    x = np.ones((2, 8), np.float32)
    with tensorc.load(artifact) as model:
        (y,) = model.run(None, {"in/x": x})
    assert y.shape == (2, 4)
    assert (y >= 0).all()
