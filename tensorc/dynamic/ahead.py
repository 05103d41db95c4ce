"""Specialisations that are made ahead, into the artifact: what runs then needs no compiler."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tensorc.dynamic.kinds import Kind, kind_to_json
from tensorc.errors import UserError
from tensorc.runtime.constants import content_key

if TYPE_CHECKING:
    from tensorc.frontend.importer import StagedModel
    from tensorc.ir.graph import Graph
    from tensorc.target import PackedConstant, Program

#: Specialisations of one artifact at most.
MOST = 64


@dataclass(frozen=True)
class Ahead:
    """`programs` have, each, the kinds of the inputs that it is for, its manifest, the numbers of its constants and the
    names of its sections."""

    programs: list[dict[str, Any]]
    constants: list[PackedConstant]
    sections: dict[str, Any]


def all_kinds(model: StagedModel) -> Iterator[dict[str, Kind]]:
    """The kinds of the inputs for every choice among the sizes that axes may have. Raises UserError."""
    spans: dict[Hashable, range] = {}
    for declared in model.inputs:
        spans |= declared.spans
    count = math.prod(map(len, spans.values()))
    if count > MOST:
        raise UserError(f"{model.model.name}: the ranges of --shape make {count} combinations; {MOST} are possible")
    for sizes in itertools.product(*spans.values()):
        chosen = [declared.chosen(dict(zip(spans, sizes, strict=True))) for declared in model.inputs]
        for declared in chosen:
            declared.check_static(model.model.name)
        yield {declared.name: declared.kind() for declared in chosen}


def specialise(
    model: StagedModel, build: Callable[[Graph], Program], progress: Callable[[int, int, str], None]
) -> Ahead:
    """A program for every choice of sizes. Raises UserError where one choice is not one program."""
    result = Ahead([], [], {})
    numbers: dict[Hashable, int] = {}
    choices = list(all_kinds(model))
    for done, kinds in enumerate(choices):
        text = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        progress(done, len(choices), text)
        imported = model.start(kinds)
        if not imported.is_whole:
            raise UserError(f"{model.model.name} cannot be compiled ahead for {text}: {imported.why()}")
        program = build(imported.stage.graph)
        result.programs.append(
            {
                "kinds": [kind_to_json(kind) for kind in kinds.values()],
                "program": program.manifest,
                "constants": [_number(constant, numbers, result.constants) for constant in program.constants],
                "sections": _renamed(program.sections, done, result.sections),
            }
        )
    return result


def _number(constant: PackedConstant, numbers: dict[Hashable, int], kept: list[PackedConstant]) -> int:
    if constant.origin is None:
        constant = replace(constant, origin=content_key(constant))
    if constant.origin not in numbers:
        numbers[constant.origin] = len(kept)
        kept.append(constant)
    return numbers[constant.origin]


def _renamed(sections: Mapping[str, Any], number: int, all_sections: dict[str, Any]) -> dict[str, str]:
    """What a program calls its sections -> what the artifact does."""
    names = {}
    for name, chunks in sections.items():
        names[name] = f"{name}.{number}"
        all_sections[names[name]] = chunks
    return names
