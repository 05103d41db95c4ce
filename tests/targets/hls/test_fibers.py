"""Simulation with channels that have an end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from targets.hls import fibers
from tensorc.errors import UserError

pytestmark = pytest.mark.compiler


def test_x(residual):
    program = residual.program("residual")
    with fibers.compiled(program) as simulation:
        inputs, wanted = residual.vectors(program, 3)
        print(simulation.run(inputs).deadlock)
        out = simulation.run(inputs, {c.name: 0 for c in program.channels})
        print(out.fills)
        np.testing.assert_array_equal(out.outputs[0], wanted[0])
    print(fibers.least_depths(program))
