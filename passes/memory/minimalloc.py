"""The CSV form of minimalloc (https://github.com/google/minimalloc): columns id, lower, upper, size and, in a plan,
offset; alignment may stand beside them. The capacity stands in the file's name: `A.1048576.csv`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from passes.memory.problem import Buffer, Problem
from tensorc.errors import UserError

_NEEDED = ("id", "lower", "upper", "size")
_KNOWN = (*_NEEDED, "alignment", "offset")
#: Above this, numbers are a fault of the file: sums stay exact in every solver.
_LARGEST = 1 << 62


@dataclass(frozen=True)
class ProblemFile:
    """`ids` name the buffers; `offsets` are those of the file, if it has any."""

    problem: Problem
    ids: tuple[str, ...]
    offsets: tuple[int, ...] | None


def read(path: Path) -> ProblemFile:
    """Raises UserError, naming the file and the line, where it is not of this form."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot read {path}: {reason}") from error
    columns = [name.strip() for name in rows[0]] if rows else []
    wrong = [name for name in columns if name not in _KNOWN or columns.count(name) > 1]
    if wrong or not set(_NEEDED) <= set(columns):
        raise UserError(f"{path}: the first line must name the columns {', '.join(_NEEDED)} once each, not {columns}")
    ids, buffers, offsets = [], [], []
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(columns):
            raise UserError(f"{path}, line {number}: {len(row)} fields for {len(columns)} columns")
        fields = dict(zip(columns, row, strict=True))
        ids.append(fields["id"])
        numbers = {name: _number(path, number, name, text) for name, text in fields.items() if name != "id"}
        offset = numbers.pop("offset", None)
        try:
            buffers.append(Buffer(**numbers))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        if offset is not None:
            offsets.append(offset)
    return ProblemFile(Problem.of(buffers, _capacity(path)), tuple(ids), tuple(offsets) if offsets else None)


def _number(path: Path, line: int, column: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise UserError(f"{path}, line {line}: the {column} {text!r} is not a whole number") from error
    if abs(value) > _LARGEST:
        raise UserError(f"{path}, line {line}: the {column} {text} is too large")
    return value


def _capacity(path: Path) -> int:
    parts = path.name.split(".")
    if len(parts) < 3 or not parts[-2].isascii() or not parts[-2].isdigit() or len(parts[-2]) > 18:
        raise UserError(f"{path}: the name must give the capacity, as in NAME.1048576.csv")
    return int(parts[-2])


def write(path: Path, ids: Sequence[str], problem: Problem, offsets: Sequence[int] | None = None) -> None:
    """The capacity is for the caller to put into the name."""
    aligned = any(buffer.alignment != 1 for buffer in problem.buffers)
    columns = [*_NEEDED, *["alignment"] * aligned, *["offset"] * (offsets is not None)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for number, (name, b) in enumerate(zip(ids, problem.buffers, strict=True)):
            alignment = [b.alignment] if aligned else []
            offset = [offsets[number]] if offsets is not None else []
            writer.writerow([name, b.lower, b.upper, b.size, *alignment, *offset])
