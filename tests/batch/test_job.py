"""jobs.toml: what it means, and what is said of a wrong one."""

import pytest

from tensorc.batch.job import Job, read_jobs
from tensorc.errors import UserError
from tensorc.search.budget import Budget


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").touch()
    return tmp_path


def read(folder, text):
    (folder / "jobs.toml").write_text(text)
    return read_jobs(folder / "jobs.toml")


def test_lists_multiply_and_defaults_hold_where_a_job_says_nothing(folder):
    jobs = read(folder, """
        [defaults]
        budget = "5min"
        threads = [1, 2]
        [[job]]
        model = ["a.onnx", "b.onnx"]
        [[job]]
        model = "a.onnx"
        target = ["cpu", "cpu:x86-64-v3"]
        shape = [{ x = "1x3x8x8" }, { x = "4x3x8x8", mask = "4" }]
        threads = 3
        numerics = "fast"
        budget = 200
        seed = 7
        precision = ["float32", "bfloat16"]
    """)  # fmt: skip
    a, b = folder / "a.onnx", folder / "b.onnx"
    minutes, trials = Budget(seconds=300), Budget(trials=200)
    one, four = {"x": (1, 3, 8, 8)}, {"x": (4, 3, 8, 8), "mask": (4,)}
    assert jobs == [
        *(Job(model, threads=threads, budget=minutes) for threads in (1, 2) for model in (a, b)),
        *(
            Job(a, target, shape, 3, "fast", trials, 7, precision)
            for target in ("cpu", "cpu:x86-64-v3")
            for shape in (one, four)
            for precision in ("float32", "bfloat16")
        ),
    ]
    assert [job.label for job in (jobs[0], jobs[-1])] == [
        "a, 1 thread", "a, cpu:x86-64-v3, 3 threads, x=4x3x8x8, mask=4, fast, bfloat16",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "jobs.toml: it has no [[job]]"),
        ("x", "jobs.toml is not TOML: "),
        ("[job]\nmodel='a.onnx'", "write [defaults] and [[job]] as tables"),
        ("[[jobs]]\nmodel='a.onnx'", "no field 'jobs' (did you mean job?); legal: defaults, job"),
        ("[defaults]\nbudgets='60s'\n[[job]]\nmodel='a.onnx'", "[defaults]: no field 'budgets' (did you mean budget?)"),
        ("[[job]]\nbudget='60s'", "[[job]] 1: it has no model"),
        ("[[job]]\nmodel='a.onnx'\n[[job]]\nmodel='c.onnx'", "[[job]] 2: there is no model "),
        ("[[job]]\nmodel=3", "[[job]] 1: model: 3 is not a text"),
        ("[[job]]\nmodel=[]", "[[job]] 1: model is an empty list"),
        ("[[job]]\nmodel='a.onnx'\nbudget='soon'", "budget: 'soon' is not a budget: a time such as"),
        ("[[job]]\nmodel='a.onnx'\nbudget=1.5", "budget: 1.5 is not a text"),
        ("[[job]]\nmodel='a.onnx'\nbudget=true", "budget: True is not a text"),
        ("[[job]]\nmodel='a.onnx'\nthreads=-1", "threads: -1 is not a whole number"),
        ("[[job]]\nmodel='a.onnx'\ntarget='abacus'", "target: unknown target 'abacus'; installed: c, cpu, cuda, hls"),
        ("[[job]]\nmodel='a.onnx'\nprecision='half'", "precision: no precision 'half'; legal: float32, tf32, bfloat16"),
        ("[[job]]\nmodel='a.onnx'\nnumerics='sloppy'", "numerics: no numerics 'sloppy'; legal: strict, fast"),
        ("[[job]]\nmodel='a.onnx'\nshape='1x3'", "shape: '1x3' is not a table such as"),
        ("[[job]]\nmodel='a.onnx'\nshape={x='1x0'}", "shape: '1x0' is not a shape of positive whole numbers"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(folder, text, message):
    with pytest.raises(UserError) as caught:
        read(folder, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*jobs\.toml: No such file"):
        read_jobs(tmp_path / "jobs.toml")
