"""Cases that NVIDIA's occupancy calculator is known for."""

import pytest

from targets.cuda.gpu import NAMED
from targets.cuda.occupancy import occupancy

KIB = 1 << 10


@pytest.mark.parametrize(
    ("gpu", "threads", "registers", "shared", "blocks", "warps", "limit"),
    [
        ("sm_80", 256, 32, 0, 8, 64, "threads"),
        ("sm_80", 256, 64, 0, 4, 32, "registers"),
        ("sm_80", 256, 33, 0, 6, 48, "registers"),  # a warp's 1056 registers take 1280
        ("sm_80", 128, 168, 0, 3, 12, "registers"),
        ("sm_80", 128, 255, 0, 2, 8, "registers"),
        ("sm_80", 1024, 65, 0, 0, 0, "registers"),  # more than a multiprocessor has
        ("sm_80", 32, 16, 0, 32, 32, "blocks"),
        ("sm_86", 32, 16, 0, 16, 16, "blocks"),
        ("sm_86", 1024, 32, 0, 1, 32, "threads"),
        ("sm_75", 1024, 64, 0, 1, 32, "threads"),
        ("sm_80", 128, 32, 48 * KIB, 3, 12, "shared memory"),  # and 1 KiB of the driver's for each
        ("sm_80", 128, 32, 163 * KIB, 1, 4, "shared memory"),
        ("sm_80", 128, 32, 164 * KIB, 0, 0, "shared memory"),  # more than one block can have
        ("sm_90", 128, 32, 113 * KIB, 2, 8, "shared memory"),
        ("sm_90", 128, 32, 113 * KIB + 1, 1, 4, "shared memory"),
        ("sm_75", 64, 32, 16 * KIB, 4, 8, "shared memory"),
        ("sm_90", 100, 32, 0, 16, 64, "threads"),  # as 128
    ],
)
def test_occupancy(gpu, threads, registers, shared, blocks, warps, limit):
    found = occupancy(NAMED[gpu], threads, registers, shared)
    assert (found.blocks, found.warps, found.limit) == (blocks, warps, limit)
    assert found.share == warps / (NAMED[gpu].threads // 32)
