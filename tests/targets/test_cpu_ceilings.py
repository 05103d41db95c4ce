"""What a CPU does at best: that something is measured, and that it is kept for the machine it belongs to.

Others may be busy on this machine, which lowers any rate: nothing here asks for speed.
"""

import json
import math
from dataclasses import replace

import pytest

from targets.cpu import ceilings as module
from targets.cpu.ceilings import ceilings, measure, working_sets
from targets.cpu.machine import NAMED, detect
from tensorc.profiling import Ceilings, Level

QUIET = Ceilings(2, 100.0, [Level("L1", 64, 50.0), Level("memory", math.inf, 5.0)], 0.0)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The folder for data, and a measurement that gives what is in the list, one after the other."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    queue = []
    monkeypatch.setattr(module, "measure", lambda threads: replace(queue.pop(0), threads=threads))
    return queue


@pytest.mark.compiler
@pytest.mark.parametrize("threads", [1, 2])
def test_rates_that_a_processor_can_have(threads):
    """A loop that the C compiler dropped would show as a rate beyond any clock's."""
    found = measure(threads)
    machine, fastest_clock = detect(), 7e9
    lanes, loads = machine.vector_bits // 32, 2 if machine.vector_bits == 512 else 3
    assert 1e7 < found.flops < threads * fastest_clock * 2 * 2 * lanes
    if machine.multiplies_bytes:
        assert found.flops < found.byte_ops < 8 * found.flops
    else:
        assert found.byte_ops is None
    assert found.threads == threads
    for level in found.levels:
        assert 1e6 < level.bandwidth < threads * fastest_clock * loads * 4 * lanes
    assert [level.name for level in found.levels][:2] == ["L1", "L2"]
    rates = [level.bandwidth for level in found.levels]
    assert rates == sorted(rates, reverse=True)
    assert Ceilings.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("machine", [detect(), *NAMED.values()], ids=lambda machine: machine.name)
def test_a_working_set_fits_its_level_and_no_smaller_one(machine, threads):
    sets = working_sets(machine, threads)
    capacities = [capacity for _, capacity, _ in sets]
    assert capacities == sorted(capacities)
    assert sets[-1][0] == "memory"
    assert math.isinf(capacities[-1])
    for (_, smaller, _), (name, capacity, nbytes) in zip([("", 0, 0), *sets], sets, strict=False):
        # Where cores' own caches hold nearly as much as the one they share, the two cannot be told apart.
        assert smaller < nbytes <= capacity or (name == "L3" and capacity < 4 / 3 * smaller)
        assert nbytes <= 512 << 20


def test_measured_once_for_each_number_of_threads(measured):
    measured += [QUIET, replace(QUIET, flops=200.0)]
    assert ceilings(2) == ceilings(2) == QUIET
    assert ceilings(1).flops == 200.0
    assert (ceilings(2).flops, ceilings(1).flops) == (100.0, 200.0)


def test_measured_again_when_asked(measured):
    measured += [QUIET, replace(QUIET, flops=50.0)]
    ceilings(2)
    assert ceilings(2, again=True).flops == 50.0
    assert ceilings(2).flops == 50.0, "what was kept before is forgotten"


def test_what_a_busy_machine_gave_is_not_final(measured):
    measured += [replace(QUIET, other_load=1.5), replace(QUIET, flops=90.0, other_load=1.0), replace(QUIET, flops=95.0)]
    assert ceilings(2).flops == 100.0
    assert (ceilings(2).flops, len(measured)) == (100.0, 1)
    assert (ceilings(2).flops, len(measured)) == (100.0, 0)
    assert ceilings(2).flops == 100.0


@pytest.mark.parametrize("change", [{"features": frozenset()}, {"l2": 1}, {"name": "another"}])
def test_another_machine_has_others(measured, monkeypatch, change):
    measured += [QUIET, replace(QUIET, flops=1.0)]
    ceilings(2)
    other = replace(detect(), **change)
    monkeypatch.setattr(module, "detect", lambda: other)
    assert ceilings(2).flops == 1.0


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"threads": 2}'])
def test_a_file_that_is_not_ours_is_measured_over(measured, tmp_path, text):
    measured += [QUIET, replace(QUIET, flops=7.0)]
    ceilings(2)
    (file,) = (tmp_path / "tensorc" / "ceilings").iterdir()
    file.write_text(text)
    assert ceilings(2).flops == 7.0
    assert ceilings(2).flops == 7.0


def test_a_home_that_cannot_be_written_is_no_error(measured, tmp_path):
    (tmp_path / "tensorc").write_text("in the way")
    measured += [QUIET, QUIET]
    assert ceilings(2) == ceilings(2) == QUIET
    assert measured == []
