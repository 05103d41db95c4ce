"""What all tests of CUDA kernels ask of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from targets.cuda.codegen import print_kernel


@pytest.fixture
def well_made() -> Callable[..., bool]:
    """Whether the kernels of a batch are no tasks, a thread each, and have room for all they keep in registers."""

    def ask(batch) -> bool:
        own = all("int end = " not in print_kernel(case.kernel.function, "k") for case in batch.cases)
        return own and all(found.spill_stores == found.spill_loads == 0 for found in batch.resources)

    return ask
