"""CPUs: what is detected, what is known by name, and what LLVM is allowed to use."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from targets.cpu import machine as module
from targets.cpu.machine import NAMED, available_cores, detect, find, missing_features
from tensorc.errors import UserError

#: Flags of this project's own virtual machine, an Emerald Rapids whose AMX and bfloat16 are masked, in part.
EMERALD_RAPIDS = (
    "fpu sse sse2 pni ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt xsave avx f16c lahf_lm abm bmi1 avx2 bmi2 avx512f "
    "avx512dq avx512ifma avx512cd avx512bw avx512vl avx512vbmi avx512_vbmi2 gfni avx512_vnni avx512_bitalg "
    "avx512_vpopcntdq arch_capabilities"
)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this machine one with the given flags, with one core and none of the other files."""

    def pretend(flags: str) -> None:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(
            f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t: x\n"
        )

    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(module, "_CPUS", tmp_path / "cpus")
    monkeypatch.setattr(module, "_cpuinfo", module._cpuinfo.__wrapped__)
    monkeypatch.setattr(module, "detect", module.detect.__wrapped__)
    return pretend


def test_masked_extensions_are_not_used(host: Callable[[str], None]) -> None:
    host(EMERALD_RAPIDS)
    machine = find("")
    assert machine.name == "Some CPU"
    assert (machine.mcpu, machine.vector_bits, machine.vector_registers) == ("x86-64-v4", 512, 32)
    target = machine.llvm_target()
    assert "+avx512vnni" in target["mattr"]
    assert "-prefer-256-bit" in target["mattr"]
    assert not {"+avx512bf16", "+amx-int8", "+avxvnni"} & set(target["mattr"])
    assert missing_features(machine.features) == []
    assert missing_features(NAMED["znver5"].features) == ["avx512_bf16", "avx_vnni"]


def test_a_level_needs_all_its_flags(host: Callable[[str], None]) -> None:
    host(EMERALD_RAPIDS.replace("avx512vl ", ""))
    machine = find("")
    assert (machine.mcpu, machine.vector_bits, machine.vector_registers) == ("x86-64-v3", 256, 16)
    assert machine.llvm_target()["mattr"] == ["+gfni"]
    host(EMERALD_RAPIDS.replace("bmi2 ", ""))
    assert find("").mcpu == "x86-64-v2"
    host("fpu sse sse2")
    with pytest.raises(UserError, match=r"not an x86-64-v2 CPU; .*haswell"):
        find("")


def test_caches_that_are_not_listed_are_typical_ones(host: Callable[[str], None]) -> None:
    host(EMERALD_RAPIDS)
    assert (find("").l1, find("").l2) == (NAMED["x86-64-v4"].l1, NAMED["x86-64-v4"].l2)


def test_caches_and_hardware_threads(
    host: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(EMERALD_RAPIDS)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {2, 3, 5})
    monkeypatch.setattr(module, "_quota", lambda: float("inf"))
    rows = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K"), ("3", "Unified", "61440K")]
    for index, row in enumerate(rows):
        folder = tmp_path / f"cpus/cpu2/cache/index{index}"
        folder.mkdir(parents=True)
        for name, value in zip(("level", "type", "size"), row, strict=True):
            (folder / name).write_text(value + "\n")
    for cpu, siblings in ((2, "2-3"), (3, "2-3"), (5, "4-5")):
        topology = tmp_path / f"cpus/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    machine = find("")
    assert (machine.l1, machine.l2, machine.l3, machine.cores) == (48 << 10, 2 << 20, 60 << 20, 2)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/a/b", {"a/cpu.max": "250000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 1),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/unseen/here", {"cpu.max": "300000 100000"}, 3),
        (
            "4:memory:/m\n1:cpu,cpuacct:/job",
            {"cpu/job/cpu.cfs_quota_us": "200000", "cpu/job/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("0::/", {}, 8),
        ("", {}, 8),
    ],
)
def test_quotas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(module, "_CPUS", tmp_path / "cpus")
    monkeypatch.setattr(module, "_CGROUPS", tmp_path)
    monkeypatch.setattr(module, "_OWN_CGROUP", tmp_path / "own")
    (tmp_path / "own").write_text(groups + "\n" if groups else "")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert available_cores() == cores


def test_this_machine() -> None:
    machine = detect()
    assert missing_features(machine.features) == []
    assert machine.cores >= 1
    assert 0 < machine.l1 < machine.l2


def test_names() -> None:
    assert find("haswell").vector_bits == 256
    assert find("x86-64-v2").llvm_target()["mattr"] == []
    with pytest.raises(UserError, match=r"unknown cpu 'pentium'; known: x86-64-v2, .*znver5"):
        find("pentium")


@pytest.mark.compiler
@pytest.mark.parametrize("name", ["", *NAMED])
def test_llvm_uses_no_vector_extension_beyond_the_features(name: str) -> None:
    import tvm

    machine = find(name)
    target = tvm.target.Target(machine.llvm_target())
    enabled = {str(feature) for feature in tvm.get_global_func("target.llvm_get_cpu_features")(target)}
    vector = {feature for feature in enabled if re.match(r"avx|amx|fma|f16c|gfni|bmi|lzcnt|vaes|vpclmul", feature)}
    spelling = {"bmi": "bmi1", "lzcnt": "abm"} | {llvm: flag for flag, llvm in module._extensions("x86-64-v4").items()}
    assert {spelling.get(feature, feature) for feature in vector} <= machine.features
    assert ("prefer-256-bit" in enabled) is False
