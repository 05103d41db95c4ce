"""C simulation of generated projects against the graph's interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from targets.hls import csim
from targets.hls.layers.layer import Unroll
from tensorc.errors import UserError

pytestmark = pytest.mark.compiler

UNROLLS = {
    "little": {},
    "more": {
        "relu0": Unroll(4, 1), "relu1": Unroll(8, 4), "relu2": Unroll(4, 8), "logits_1": Unroll(2, 4),
        "pool1_2": Unroll(2, 2),
    },
}  # fmt: skip


@pytest.mark.parametrize("unrolls", UNROLLS.values(), ids=UNROLLS)
def test_digits_are_exact(digits, project, unrolls):
    program = digits.program("digits", unrolls)
    inputs, wanted = digits.vectors(program, 20)
    (found,) = csim.run(project(program), inputs)
    np.testing.assert_array_equal(found, wanted[0])
