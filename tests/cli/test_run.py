"""`tensorc run`: inputs from files or from a seed, outputs to files."""

import json

import numpy as np
import pytest


def save(path, array, **kwargs):
    np.save(path, array, **kwargs)
    return path


def test_inputs_from_files_and_outputs_to_files(tensorc_, artifact, tmp_path):
    x = save(tmp_path / "x=1.npy", np.zeros((2, 8), np.float32))
    done = tensorc_("run", artifact, "--input", f"in/x={x}", "--output", tmp_path / "results", "--json")
    report = json.loads(done.out)
    (row,) = report["outputs"]
    assert (row["name"], row["dtype"], row["shape"]) == ("../out/y", "float32", [2, 4])
    # The name holds a path out of the folder; the file stays in it.
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["_out_y.npy"]
    assert np.load(row["file"]).max() == pytest.approx(row["max"])


def test_a_seed_gives_the_same_inputs_each_time(tensorc_, artifact):
    def means(seed):
        return [row["mean"] for row in json.loads(tensorc_("run", artifact, "--random", seed, "--json").out)["outputs"]]

    assert means(1) == means(1) != means(2)


def test_the_table_shows_each_output(tensorc_, artifact):
    done = tensorc_("run", artifact, "--random", 0)
    assert "../out/y" in done.out
    assert "float32[2,4]" in done.out


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((2, 9), np.float32), "holds float32[2, 9]; the input is float32[2, 8]"),
        (np.zeros((2, 8)), "holds float64[2, 8]; the input is float32[2, 8]"),
        (np.array([[{}] * 8] * 2), "is not an array that numpy.save wrote"),
    ],
)
def test_a_wrong_array_is_refused(tensorc_, artifact, tmp_path, array, expected):
    x = save(tmp_path / "x.npy", array, allow_pickle=True)
    assert expected in tensorc_("run", artifact, "--input", f"in/x={x}").complaint()


def test_what_is_no_array_is_refused(tensorc_, artifact, tmp_path):
    text, empty, archive = tmp_path / "text.npy", tmp_path / "empty.npy", tmp_path / "a.npz"
    text.write_text("hello")
    empty.write_bytes(b"")
    np.savez(archive, x=np.zeros(3))
    for path in (text, empty, archive):
        assert str(path) in tensorc_("run", artifact, "--input", f"in/x={path}").complaint()


def test_names_of_inputs_are_checked(tensorc_, artifact, tmp_path):
    x = save(tmp_path / "x.npy", np.zeros((2, 8), np.float32))
    assert (
        "no input is named 'x'; inputs: in/x float32[2, 8]"
        in tensorc_("run", artifact, "--input", f"x={x}").complaint()
    )
    assert "input 'in/x' is missing" in tensorc_("run", artifact).complaint()
