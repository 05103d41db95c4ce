"""The rules by which ONNX operators become IR: one function an operator, found by domain and name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import onnx

from tensorc.frontend.call import Call
from tensorc.frontend.scope import Datum, OnHost

#: What a node gives: its one output, all of them in order, or that it is done on the host.
Result = Datum | Sequence[Datum] | OnHost
Rule = Callable[[Call], Result]

#: ONNX's own domain, which models write as "" or as "ai.onnx".
STANDARD = "ai.onnx"
#: The oldest opset whose operators are known here.
OLDEST_OPSET = 7

_RULES: dict[tuple[str, str], Rule] = {}


class SupportedOperator(NamedTuple):
    """An ONNX operator that the frontend takes. `versions` are the opsets that defined or changed it."""

    domain: str
    name: str
    versions: tuple[int, ...]


def operator(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ONNX's operators of these names."""

    def add(rule: Rule) -> Rule:
        for name in names:
            if (STANDARD, name) in _RULES:
                raise ValueError(f"{name} has a rule already")
            _RULES[STANDARD, name] = rule
        return rule

    return add


def domain_of(node: onnx.NodeProto) -> str:
    return node.domain or STANDARD


def find_rule(node: onnx.NodeProto) -> Rule | None:
    return _RULES.get((domain_of(node), node.op_type))


def known_domains() -> set[str]:
    return {domain for domain, _ in _RULES}


def supported_operators() -> list[SupportedOperator]:
    """Every operator that has a rule, by name."""
    history: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            history.setdefault(schema.name, set()).add(schema.since_version)
    found = []
    for domain, name in sorted(_RULES):
        versions = sorted(history[name])
        in_force = [v for v in versions if v <= OLDEST_OPSET][-1:]
        found.append(SupportedOperator(domain, name, (*in_force, *(v for v in versions if v > OLDEST_OPSET))))
    return found
