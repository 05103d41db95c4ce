"""The artifact file: what is written is read back, whatever is damaged is noticed, and nothing half-written stays."""

from __future__ import annotations

import struct
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tensorc.errors import UserError
from tensorc.runtime import artifact as module
from tensorc.runtime.artifact import ALIGNMENT, FORMAT_VERSION, Artifact, write_artifact

CODE = bytes(range(256)) * 3
WEIGHTS = np.arange(3000, dtype=np.float32)
MANIFEST = {"name": "model", "target": "cpu", "text": "naïve"}

#: A file that is written anew for each example may live in a folder that all examples share.
on_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.tcm"
    write_artifact(path, MANIFEST, {"code": [CODE], "weights": [WEIGHTS[:1000], WEIGHTS[1000:]], "empty": []})
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "model.tcm"
    write_artifact(path, MANIFEST, {"code": [CODE], "weights": [WEIGHTS]})
    return path.read_bytes()


def test_round_trip(path: Path) -> None:
    artifact = Artifact.open(path)
    assert artifact.names == ["code", "weights", "empty"]
    assert {key: artifact.manifest[key] for key in MANIFEST} == MANIFEST
    assert artifact.section("code") == CODE
    assert np.array_equal(np.frombuffer(artifact.section("weights"), np.float32), WEIGHTS)
    assert len(artifact.section("empty")) == 0
    artifact.check()


def test_sections_are_aligned_and_read_only(path: Path) -> None:
    artifact = Artifact.open(path)
    for row in artifact.manifest["sections"].values():
        assert row["offset"] % ALIGNMENT == 0
    assert artifact.section("weights").readonly


def test_a_view_outlives_the_artifact_and_the_file(path: Path) -> None:
    view = Artifact.open(path).section("weights")
    path.unlink()
    assert np.array_equal(np.frombuffer(view, np.float32), WEIGHTS)


@pytest.mark.parametrize(
    "chunk",
    [
        np.arange(12, dtype=np.int64).reshape(3, 4).T,
        np.arange(5).astype(ml_dtypes.bfloat16),
        np.float32(3.5).reshape(()),
        np.empty((0, 3), np.float32),
        np.array([True, False]),
        memoryview(b"abc"),
        bytearray(b""),
    ],
    ids=["transposed", "bfloat16", "scalar", "empty", "bool", "memoryview", "no bytes"],
)
def test_chunks(tmp_path: Path, chunk: module.Chunk) -> None:
    write_artifact(tmp_path / "a", {}, {"data": [b"x", chunk]})
    expected = chunk.tobytes() if isinstance(chunk, np.ndarray | memoryview) else bytes(chunk)
    assert Artifact.open(tmp_path / "a").section("data") == b"x" + expected


def test_chunks_are_not_kept(tmp_path: Path) -> None:
    seen: list[weakref.ref[np.ndarray]] = []

    def chunks() -> Iterator[np.ndarray]:
        for value in range(10):
            chunk = np.full(100, value)
            seen.append(weakref.ref(chunk))
            yield chunk
            assert all(earlier() is None for earlier in seen[:-1])

    write_artifact(tmp_path / "a", {}, {"weights": chunks()})
    assert len(seen) == 10


def read_all(path: Path) -> dict[str, bytes]:
    artifact = Artifact.open(path)
    artifact.check()
    return {name: bytes(artifact.section(name)) for name in artifact.names}


@on_files
@given(data=st.data())
def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path, sound: bytes, data: st.DataObject) -> None:
    # The regions by name, so that the small ones are tried as often as the large.
    code_end = ALIGNMENT + len(CODE)
    weights_end = 2 * ALIGNMENT + WEIGHTS.nbytes
    regions = [(0, 64), (64, ALIGNMENT), (ALIGNMENT, code_end), (2 * ALIGNMENT, weights_end), (weights_end, len(sound))]
    begin, end = data.draw(st.sampled_from(regions))
    offset = data.draw(st.integers(begin, end - 1))
    damaged = bytearray(sound)
    damaged[offset] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "damaged.tcm"
    path.write_bytes(damaged)
    if 64 <= offset < ALIGNMENT:
        assert read_all(path) == {"code": CODE, "weights": WEIGHTS.tobytes()}
    else:
        with pytest.raises(UserError, match=r"damaged\.tcm .*(corrupt|artifact|truncated)"):
            read_all(path)


@on_files
@given(data=st.data())
def test_truncation_and_surplus_are_noticed(tmp_path: Path, sound: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(sound) - 1) | st.integers(0, 80))
    path = tmp_path / "short.tcm"
    path.write_bytes(sound[:length])
    with pytest.raises(UserError, match=r"short\.tcm is (truncated|not a tensorc artifact)"):
        Artifact.open(path)
    path.write_bytes(sound + bytes(1 + length))
    with pytest.raises(UserError, match="overlong"):
        Artifact.open(path)


@on_files
@given(content=st.binary(max_size=300))
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(UserError, match="foreign is not a tensorc artifact") as caught:
        Artifact.open(path)
    assert "\n" not in str(caught.value)


def test_corrupt_code_is_noticed_when_taken(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[ALIGNMENT] ^= 1
    path.write_bytes(data)
    artifact = Artifact.open(path)
    with pytest.raises(UserError, match=r"model\.tcm is corrupt: .* section 'code'"):
        artifact.section("code")


def test_large_sections_are_checked_on_request_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL_SECTION", 1000)
    data = bytearray(path.read_bytes())
    data[2 * ALIGNMENT] ^= 1
    path.write_bytes(data)
    artifact = Artifact.open(path)
    artifact.section("weights")
    with pytest.raises(UserError, match="section 'weights'"):
        artifact.check()


@pytest.mark.parametrize(("version", "age"), [(0, "older"), (FORMAT_VERSION + 1, "newer")])
def test_other_versions(path: Path, version: int, age: str) -> None:
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", version)
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"format {version}, {age} than format {FORMAT_VERSION}.*compile"):
        Artifact.open(path)


def test_a_section_outside_the_file(path: Path) -> None:
    """The checksums hold, so only somebody who wants to can make such a file; it is refused all the same."""
    data = bytearray(path.read_bytes())
    offset, size = struct.unpack_from("<QQ", data, 16)
    text = bytes(data[offset : offset + size]).replace(b'"offset":4096', b'"offset":9' + b"9" * 17, 1)
    header = struct.pack("<8sIIQQ28x", bytes(data[:8]), FORMAT_VERSION, zlib.crc32(text), offset, len(text))
    path.write_bytes(header + struct.pack("<I", zlib.crc32(header)) + data[64:offset] + text)
    with pytest.raises(UserError, match="'code' lies outside the file"):
        Artifact.open(path)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, fault: type[BaseException]) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise fault

    with pytest.raises(fault):
        write_artifact(tmp_path / "new.tcm", {}, {"code": chunks()})
    assert list(tmp_path.iterdir()) == []
    old = tmp_path / "old.tcm"
    old.write_bytes(b"before")
    with pytest.raises(fault):
        write_artifact(old, {}, {"code": chunks()})
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == b"before"


def test_a_source_that_cannot_be_read_is_not_called_an_output(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield (tmp_path / "weights.bin").read_bytes()

    with pytest.raises(FileNotFoundError, match=r"weights\.bin"):
        write_artifact(tmp_path / "out.tcm", {}, {"weights": chunks()})


def test_a_full_disk_is_a_user_error(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        raise OSError(28, "No space left on device")
        yield b""

    with pytest.raises(UserError, match=r"cannot write .*out\.tcm: No space left on device"):
        write_artifact(tmp_path / "out.tcm", {}, {"weights": chunks()})
    assert list(tmp_path.iterdir()) == []


def test_unwritable_outputs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*nowhere.*No such file"):
        write_artifact(tmp_path / "nowhere" / "out.tcm", {}, {})
    with pytest.raises(UserError, match="it is a directory"):
        write_artifact(tmp_path, {}, {})


def test_unreadable_inputs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*absent: No such file"):
        Artifact.open(tmp_path / "absent")
    with pytest.raises(UserError, match=r"cannot read .*directory"):
        Artifact.open(tmp_path)
