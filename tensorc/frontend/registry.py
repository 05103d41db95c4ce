"""The rules by which ONNX operators become IR: one function an operator, found by domain and name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import onnx

from tensorc.frontend.call import Call
from tensorc.frontend.scope import Datum, OnHost

#: What a node gives: its one output, all of them in order, or that it is done on the host.
Result = Datum | Sequence[Datum] | OnHost
Rule = Callable[[Call], Result]

#: ONNX's own domain, which models write as "" or as "ai.onnx".
STANDARD = "ai.onnx"
#: The oldest opset whose operators are known here; `tensorc.frontend.upgrade` knows those before 7.
OLDEST_OPSET = 1

_RULES: dict[tuple[str, str], Rule] = {}


class SupportedOperator(NamedTuple):
    """An ONNX operator that the frontend takes. `versions` are the opsets that defined or changed it."""

    domain: str
    name: str
    versions: tuple[int, ...]


def operator(*names: str, domain: str = STANDARD) -> Callable[[Rule], Rule]:
    """Register a rule for the operators of these names."""

    def add(rule: Rule) -> Rule:
        for name in names:
            if (domain, name) in _RULES:
                raise ValueError(f"{name} has a rule already")
            _RULES[domain, name] = rule
        return rule

    return add


def domain_of(node: onnx.NodeProto) -> str:
    return node.domain or STANDARD


def find_rule(node: onnx.NodeProto) -> Rule | None:
    return _RULES.get((domain_of(node), node.op_type))


def known_domains() -> set[str]:
    return {domain for domain, _ in _RULES}


def ruled_operators() -> set[tuple[str, str]]:
    """(domain, name) of every operator that has a rule."""
    return set(_RULES)


@cache
def _history() -> dict[tuple[str, str], list[int]]:
    history: dict[tuple[str, str], list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        history.setdefault((schema.domain or STANDARD, schema.name), []).append(schema.since_version)
    return history


def versions_of(domain: str, name: str) -> tuple[int, ...]:
    """The opsets that defined or changed an operator, from the one in force in the oldest opset on."""
    found = sorted(_history().get((domain, name), [1]))  # of a domain that the onnx package does not know: its first
    if domain != STANDARD:
        return tuple(found)
    in_force = [version for version in found if version <= OLDEST_OPSET][-1:]
    return (*in_force, *(version for version in found if version > OLDEST_OPSET))
