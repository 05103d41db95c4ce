"""Products of two computed matrices that a task takes strips of columns of: see conftest."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize("transpose", [0, 1])
def test_strips_of_columns(host, transpose):
    """Large and small, with strips and tiles that come out even and that do not, under few rows and many."""
    with host.batch() as check:
        for batch, rows, depth, columns in (
            ("", 40, 65, 517),
            ("", 3, 200, 600),
            ("2,", 33, 300, 256),
            ("3,", 5, 7, 9),
        ):
            b = f"{batch}{columns},{depth}" if transpose else f"{batch}{depth},{columns}"
            product = f"matmul(x, y, transpose_b={transpose})"
            check(product, tolerance=2e-5, x=f"f32[{batch}{rows},{depth}]", y=f"f32[{b}]")
        b = "700,90" if transpose else "90,700"
        kernel = check(f"relu(matmul(x, y, transpose_b={transpose}))", tolerance=2e-5, x="f32[2,40,90]", y=f"f32[{b}]")
        assert kernel.tasks > 2
