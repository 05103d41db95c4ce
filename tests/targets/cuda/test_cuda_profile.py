"""Profiles and descriptions of CUDA artifacts. The emulator's times mean nothing; that all of them arrive does."""

from __future__ import annotations

import json
import re

import pytest

from targets.cuda.roofline import Facts, ceilings
from tensorc.cli import main

pytestmark = pytest.mark.compiler


def printed(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_every_launch_has_its_time_and_its_kernel_what_it_takes(two_layer_artifact, two, capsys):
    report = json.loads(printed(capsys, "profile", two_layer_artifact, "--seconds", 0.05, "--json"))
    assert [step["label"] for step in report["steps"]] == [launch.label for launch in two.executable.program.launches]
    assert all(step["seconds"] > 0 for step in report["steps"])
    assert report["kernel_seconds"] == pytest.approx(sum(row["seconds"] for row in report["kernels"]))
    for row in report["kernels"]:
        assert row["resources"]["registers"] > 0
        assert 0 < row["resources"]["occupancy"]["share"] <= 1
        assert row["attainable_seconds"] > 0
    (roof,) = report["ceilings"]["levels"]
    assert (roof["name"], roof["bytes_per_second"]) == ("memory", 1e9)
    text = printed(capsys, "profile", two_layer_artifact, "--seconds", 0.05)
    assert "occupancy" in text
    assert "GFLOP/s in float32" in text


def test_an_artifact_shows_what_its_kernels_take(two_layer_artifact, capsys):
    text = printed(capsys, "inspect", two_layer_artifact)
    for word in ("registers", "shared memory", "spilled", "occupancy"):
        assert word in text
    assert re.search(r"\((threads|blocks|registers|shared memory)\)", text), "what limits it"


def test_ceilings_come_from_the_gpus_own_numbers():
    """Those of an H100 as NVIDIA gives them: 67 and 989 teraflops, 3.35 TB/s."""
    facts = Facts("H100", 90, 132, 1.98e9, 3.35e12)
    assert ceilings(facts, ["float32"]).flops == pytest.approx(67e12, rel=0.01)
    half = ceilings(Facts("H100", 90, 132, 1.83e9, 3.35e12), ["float32", "bfloat16"])
    assert half.flops == pytest.approx(989e12, rel=0.01)
    assert half.level(1e12).bandwidth == 3.35e12
    assert half.products == "16-bit floats"
    assert ceilings(Facts("later", 103, 1, 1.0, 1.0), ["float16"]).flops == 8192
