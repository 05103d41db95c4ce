"""The artifact: one `.tcm` file that holds a compiled model whole, and is run from where it lies.

    header     64 bytes: magic, format version, where the manifest is, checksums
    sections   each at a multiple of 4096 bytes: native code, weights
    manifest   JSON: what the model is, and offset, size and crc32 of every section

The manifest comes last so that writing is one pass: sections are streamed through a checksum and never held in
memory. Reading maps the file; a section is a view of the mapping, so weights are paged in as kernels touch them and
shared between processes. This module knows the container only; what the manifest says is the model's business.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tensorc.errors import UserError

FORMAT_VERSION = 1
#: As PNG's: a high byte, a name, and line ends that a text-mode transfer would break.
MAGIC = b"\x89TCM\r\n\x1a\n"
ALIGNMENT = 4096
#: Sections up to this size are checked whenever they are taken: code, that is. Checking weights means reading them.
SMALL_SECTION = 8 << 20

#: magic, version, manifest crc32, manifest offset, manifest size, zeros, crc32 of all before it.
_HEADER = struct.Struct("<8sIIQQ28xI")
_PIECE = 4 << 20

#: What a section is made of: bytes-like objects or numpy arrays, which are written in C order.
Chunk = bytes | bytearray | memoryview | np.ndarray


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its name when the block ends, and is removed when the block raises.

    Whole or not at all holds for whatever happens to this process; nothing is forced to disk against a power cut.
    An OSError that names no other file is a failure to write this one, and becomes a UserError.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a directory")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        raise


class _Writer:
    """Counts and checks what goes into a file; `crc` is that of the bytes since it was last set to 0."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.offset = 0
        self.crc = 0

    def write(self, chunk: Chunk) -> None:
        data = _bytes_of(chunk)
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            self.crc = zlib.crc32(piece, self.crc)
            self._file.write(piece)
        self.offset += len(data)

    def align(self, alignment: int) -> None:
        self.write(bytes(-self.offset % alignment))


def _bytes_of(chunk: Chunk) -> memoryview:
    if isinstance(chunk, np.ndarray):
        # Viewed as bytes by numpy, since the buffer protocol knows neither bfloat16 nor casts of empty arrays.
        return np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
    return memoryview(chunk).cast("B")


def write_artifact(
    path: str | Path,
    manifest: Mapping[str, Any],
    sections: Mapping[str, Iterable[Chunk]],
    alignments: Mapping[str, int] | None = None,
) -> None:
    """Write `sections` and `manifest`, to which the table of sections is added, as one artifact at `path`.

    `alignments` has the sections that are to begin at a multiple of more than `ALIGNMENT` bytes. The file appears whole
    or not at all. Raises UserError where it cannot be written.
    """
    path = Path(path)
    with replaced_file(path) as file:
        writer = _Writer(file)
        writer.write(bytes(_HEADER.size))
        table = {}
        for name, chunks in sections.items():
            writer.align((alignments or {}).get(name, ALIGNMENT))
            offset, writer.crc = writer.offset, 0
            for chunk in chunks:
                writer.write(chunk)
            table[name] = {"offset": offset, "size": writer.offset - offset, "crc32": writer.crc}
        text = json.dumps({**manifest, "sections": table}, ensure_ascii=False, separators=(",", ":")).encode()
        offset, writer.crc = writer.offset, 0
        writer.write(text)
        header = _HEADER.pack(MAGIC, FORMAT_VERSION, writer.crc, offset, len(text), 0)[:-4]
        file.seek(0)
        file.write(header + struct.pack("<I", zlib.crc32(header)))


@dataclass(frozen=True)
class _Section:
    offset: int
    size: int
    crc32: int


class Artifact:
    """An artifact, mapped. Views of its sections keep the mapping alive, and it goes with the last of them."""

    def __init__(self, path: Path, data: memoryview, manifest: dict[str, Any]):
        self.path = path
        self.manifest = manifest
        self.data = data
        self._sections = {name: _Section(**row) for name, row in manifest["sections"].items()}

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Map the artifact at `path`; UserError, naming the file, if it is not one that can be trusted."""
        path = Path(path)
        data = _map(path)
        return cls(path, data, _read_manifest(path, data))

    @property
    def names(self) -> list[str]:
        return list(self._sections)

    def section(self, name: str) -> memoryview:
        """The bytes of a section, in place. Small sections are checked against their checksum."""
        section = self._sections[name]
        if section.size <= SMALL_SECTION:
            self._check(name)
        return self._view(section)

    def check(self) -> None:
        """Read every section and compare checksums; UserError at the first that differs."""
        for name in self._sections:
            self._check(name)

    def release(self) -> None:
        """Let go of the pages that have been read so far; they are mapped again when they are touched."""
        mapped = self.data.obj
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def _view(self, section: _Section) -> memoryview:
        return self.data[section.offset : section.offset + section.size]

    def _check(self, name: str) -> None:
        section = self._sections[name]
        if zlib.crc32(self._view(section)) != section.crc32:
            raise UserError(f"{self.path} is corrupt: the checksum of its section {name!r} does not match")


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < _HEADER.size:
                raise UserError(f"{path} is not a tensorc artifact: it is shorter than a header")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _read_manifest(path: Path, data: memoryview) -> dict[str, Any]:
    header = data[: _HEADER.size]
    magic, version, manifest_crc, offset, size, header_crc = _HEADER.unpack(header)
    if magic != MAGIC:
        raise UserError(f"{path} is not a tensorc artifact: it does not begin with the magic bytes of one")
    if version != FORMAT_VERSION:
        age = "newer" if version > FORMAT_VERSION else "older"
        raise UserError(
            f"{path} has artifact format {version}, {age} than format {FORMAT_VERSION}, the one read here: "
            "compile the model again"
        )
    if zlib.crc32(header[:-4]) != header_crc:
        raise UserError(f"{path} is corrupt: the checksum of its header does not match")
    if offset + size != len(data):
        raise UserError(f"{path} is truncated or overlong: it has {len(data)} bytes and should have {offset + size}")
    text = bytes(data[offset:])
    if zlib.crc32(text) != manifest_crc:
        raise UserError(f"{path} is corrupt: the checksum of its manifest does not match")
    manifest: dict[str, Any] = json.loads(text)
    for name, row in manifest["sections"].items():
        if not 0 <= row["offset"] <= row["offset"] + row["size"] <= offset:
            raise UserError(f"{path} is corrupt: its section {name!r} lies outside the file")
    return manifest
