"""Lint of generated HLS C++: what Vitis HLS would refuse, or take for something else than was meant, found without it.

The text itself is read, since it is what the user gives to the tool and may have edited. Only the shape of C++ that is
printed here is understood: what is declared, loops, calls, pragmas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from targets.hls.program import MOST_PARTS

#: What storage can be made of, by its type (UG1399, BIND_STORAGE).
_STORAGE = {
    "fifo": ("bram", "lutram", "uram", "srl", "memory", "auto"),
    "ram_1p": ("bram", "lutram", "uram", "auto"),
    "ram_1wnr": ("bram", "lutram", "auto"),
    "ram_2p": ("bram", "lutram", "uram", "auto"),
    "ram_s2p": ("bram", "bram_ecc", "lutram", "uram", "uram_ecc", "auto"),
    "ram_t2p": ("bram", "uram", "auto"),
    "rom_1p": ("bram", "lutram", "auto"),
    "rom_2p": ("bram", "lutram", "auto"),
    "rom_np": ("bram", "lutram", "auto"),
}
_PORTS = ("axis", "m_axi", "s_axilite", "ap_none", "ap_stable", "ap_vld", "ap_ack", "ap_hs", "ap_ovld", "ap_fifo",
          "ap_memory", "bram")  # fmt: skip
_CONTROL = ("s_axilite", "ap_ctrl_none", "ap_ctrl_hs", "ap_ctrl_chain")
_PARTITIONS = ("complete", "block", "cyclic")
_KEYWORDS = re.compile(
    r"alignas|alignof|and|and_eq|asm|auto|bitand|bitor|bool|break|case|catch|char|char16_t|"
    r"char32_t|class|compl|const|const_cast|constexpr|continue|decltype|default|delete|do|double|"
    r"dynamic_cast|else|enum|explicit|export|extern|false|float|for|friend|goto|if|inline|int|"
    r"long|mutable|namespace|new|noexcept|not|not_eq|nullptr|operator|or|or_eq|private|protected|"
    r"public|register|reinterpret_cast|return|short|signed|sizeof|static|static_assert|static_cast|"
    r"struct|switch|template|this|thread_local|throw|true|try|typedef|typeid|typename|union|"
    r"unsigned|using|virtual|void|volatile|wchar_t|while|xor|xor_eq"
)
#: What defines.h and the vendor's headers call something else.
_TAKEN = frozenset({"known", "word", "smaller", "greater", "leading_bit", "ap_int", "ap_uint", "hls", "std", "main"})

#: What declares a pointer or a reference, before the name.
_POINTER = r"\(?(?P<points>[&*])"

_TYPE = (
    r"(?:hls::stream<.*>|word<.*>|known<.*>|ap_u?int<\d+>|(?:unsigned |long )*(?:int|long|char|bool|float|double)|"
    r"u?int\d+_t)"
)
_DECLARED = re.compile(rf"^(?P<how>(?:static |const |constexpr )*)(?P<type>{_TYPE})(?!\w)\s*(?:{_POINTER}\s*)?"
                       r"(?P<name>\w+)\)?\s*(?P<extents>(?:\[\d+\])*)\s*(?:=.*|\(.*\))?$")  # fmt: skip
_LOOP = re.compile(
    r"^(?:(?P<label>\w+):\s*)?for\s*\(\s*\w+\s+(?P<name>\w+)\s*=\s*0\s*;\s*\w+\s*<\s*(?P<trip>\w+)\s*;.*\)$"
)
_FUNCTION = re.compile(
    r"^(?:template\s*<.*?>\s*)?(?:static |inline )*[\w:<>]+\s+(?P<name>\w+)\s*\((?P<parameters>.*)\)$"
)
_CALL = re.compile(r"^(?P<name>\w+)\((?P<arguments>[\w, ]*)\)$")
_PRAGMA = re.compile(r"#pragma HLS (\w+)\s*(.*)")


@dataclass(frozen=True)
class Finding:
    """What is wrong in a line of a file, and what would be legal."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


@dataclass(frozen=True)
class _Variable:
    type: str
    extents: tuple[int, ...]
    constant: bool
    line: int
    is_pointer: bool = False

    @property
    def is_stream(self) -> bool:
        return self.type.startswith("hls::stream")


@dataclass(frozen=True)
class _Pragma:
    line: int
    name: str
    options: Mapping[str, str]
    words: frozenset[str]


@dataclass
class _Scope:
    """What stands between two braces. `trip` is of a loop, None where it is not a number. `statements` declare nothing,
    by their lines; `values` are what declared variables begin with."""

    head: str
    line: int
    above: _Scope | None = None
    name: str = ""
    is_loop: bool = False
    trip: int | None = None
    label: str = ""
    variables: dict[str, _Variable] = field(default_factory=dict)
    pragmas: list[_Pragma] = field(default_factory=list)
    inner: list[_Scope] = field(default_factory=list)
    statements: list[tuple[int, str]] = field(default_factory=list)
    values: list[str] = field(default_factory=list)

    def find(self, name: str) -> _Variable | None:
        return self.variables.get(name) or (self.above.find(name) if self.above is not None else None)

    def all(self) -> Iterator[_Scope]:
        yield self
        for one in self.inner:
            yield from one.all()

    def has(self, pragma: str) -> bool:
        return any(one.name == pragma for one in self.pragmas)


def lint(files: Mapping[str, str]) -> list[Finding]:
    """What is wrong with the sources of `firmware/`, by their names there."""
    linter = _Linter()
    # Declarations first: headers of weights, then what reads them.
    for name in sorted(files, key=lambda name: (not name.startswith("weights/"), not name.endswith(".h"), name)):
        linter.file(name, files[name])
    return linter.findings


def lint_project(folder: Path) -> list[Finding]:
    """As `lint`, for a project's folder."""
    firmware = folder / "firmware"
    sources = [path for path in sorted(firmware.rglob("*")) if path.suffix in (".cpp", ".h")]
    return lint({path.relative_to(firmware).as_posix(): path.read_text() for path in sources})


class _Linter:
    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.shared = _Scope("", 0)
        self.name = ""

    def say(self, line: int, text: str) -> None:
        self.findings.append(Finding(self.name, line, text))

    def file(self, name: str, text: str) -> None:
        self.name = name
        root = _Scope("", 0, self.shared)
        if name.startswith("weights/"):  # millions of numbers
            text = text.partition("= {")[0] + "= {};"
        self._read(root, text)
        functions = {scope.name: scope for scope in root.inner if scope.name}
        for scope in root.all():
            for pragma in scope.pragmas:
                rule = _RULES.get(pragma.name)
                if rule is None:
                    self.say(
                        pragma.line, f"there is no pragma {pragma.name}; known here are {', '.join(sorted(_RULES))}"
                    )
                else:
                    rule(self, scope, pragma)
            if scope.has("DATAFLOW"):
                self._dataflow(scope, functions)
                self._ports(scope)
        for function in functions.values():
            self._labels(function)
        self.shared.variables.update(root.variables)

    # Text -----------------------------------------------------------------------------------------------

    def _read(self, scope: _Scope, text: str) -> None:
        """Statements, scopes and pragmas of `text` into `scope`, as synthesis sees them."""
        text = re.sub(r"//[^\n]*|/\*.*?\*/", lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.S)
        text = re.sub(r'"[^"\n]*"', '""', text)
        line = 1
        pending, first, parentheses, skipped = "", 1, 0, 0
        conditions: list[str] = []
        for part in re.findall(r"\n[ \t]*#[^\n]*|^#[^\n]*|\n|[;{}()]|[^\n;{}()]+", text):
            line += part.count("\n")
            directive = re.match(r"\s*#\s*(if|else|endif)", part)
            if directive is not None:
                _follow(conditions, directive[1], part)
            elif "simulation" in conditions:
                continue
            elif skipped:  # the numbers of an array
                skipped += (part == "{") - (part == "}")
            elif part.lstrip().startswith("#"):
                self._pragma(scope, line, part.strip())
            elif part == ";" and not parentheses:
                self._statement(scope, first, pending)
                pending = ""
            elif part == "{" and pending.rstrip().endswith("="):
                skipped = 1
            elif part == "{" and not parentheses:
                scope = self._opened(scope, first, pending)
                pending = ""
            elif part == "}" and not parentheses:
                scope = scope.above if scope.above is not None and scope.line else scope
                pending = ""
            else:
                parentheses += (part == "(") - (part == ")")
                if not pending.strip():
                    first = line
                pending += " " if part == "\n" else part
        if scope.line:
            self.say(scope.line, "a brace is not closed")

    def _pragma(self, scope: _Scope, line: int, text: str) -> None:
        found = _PRAGMA.match(text)
        if found is not None:
            parts = found[2].split()
            options = dict(part.split("=", 1) for part in parts if "=" in part)
            scope.pragmas.append(_Pragma(line, found[1].upper(), options, frozenset(p for p in parts if "=" not in p)))

    def _statement(self, scope: _Scope, line: int, text: str) -> None:
        text = " ".join(text.split())
        found = _DECLARED.match(text)
        if found is not None:
            extents = tuple(int(extent) for extent in re.findall(r"\d+", found["extents"]))
            self._declare(scope, line, found["name"], _Variable(found["type"], extents, "const" in found["how"], line))
            scope.values.append(text)
        elif text:
            scope.statements.append((line, text))

    def _declare(self, scope: _Scope, line: int, name: str, variable: _Variable) -> None:
        if _KEYWORDS.fullmatch(name):
            self.say(line, f"{name!r} is a keyword of C++: another name")
        elif name in _TAKEN:
            self.say(line, f"{name!r} is the name of something else in the headers: another name")
        elif "__" in name or re.match(r"_[A-Z]", name):
            self.say(line, f"{name!r} is reserved: names hold no '__' and do not begin with '_' and a capital letter")
        if name in scope.variables:
            self.say(line, f"{name!r} is declared twice, before in line {scope.variables[name].line}")
        scope.variables[name] = variable

    def _opened(self, scope: _Scope, line: int, text: str) -> _Scope:
        head = " ".join(text.split())
        made = _Scope(head, line, scope)
        scope.inner.append(made)
        loop, function = _LOOP.match(head), _FUNCTION.match(head)
        if loop is not None:
            made.is_loop, made.label = True, loop["label"] or ""
            made.trip = int(loop["trip"]) if loop["trip"].isdigit() else None
            self._declare(made, line, loop["name"], _Variable("int", (), False, line))
        elif re.match(r"(\w+:\s*)?(for|while)\b", head):
            made.is_loop = True
        elif function is not None and not scope.line:
            made.name = function["name"]
            for parameter in _split(function["parameters"]):
                found = _DECLARED.match(parameter)
                if found is not None:
                    extents = tuple(int(extent) for extent in re.findall(r"\d+", found["extents"]))
                    constant, is_pointer = "const" in found["how"], found["points"] == "*"
                    variable = _Variable(found["type"], extents, constant, line, is_pointer)
                    self._declare(made, line, found["name"], variable)
        return made

    # Rules ----------------------------------------------------------------------------------------------

    def _variable(self, scope: _Scope, pragma: _Pragma) -> _Variable | None:
        name = pragma.options.get("variable", "")
        found = scope.find(name)
        if found is None:
            self.say(pragma.line, f"{pragma.name}: there is no variable {name!r} here")
        return found

    def number(self, pragma: _Pragma, key: str, least: int) -> int | None:
        """An option that is a whole number; None if it is missing or wrong."""
        text = pragma.options.get(key)
        if text is None:
            return None
        if not text.isdigit() or int(text) < least:
            self.say(pragma.line, f"{pragma.name}: {key}={text} is no whole number from {least} on")
            return None
        return int(text)

    def parts(self, scope: _Scope, pragma: _Pragma) -> None:
        variable = self._variable(scope, pragma)
        if variable is None:
            return
        if not variable.extents:
            self.say(pragma.line, f"{pragma.name}: {pragma.options['variable']} is no array")
            return
        how = pragma.options.get("type") or next(iter(pragma.words), "complete")
        if how not in _PARTITIONS:
            self.say(pragma.line, f"{pragma.name}: {how!r} is none of {', '.join(_PARTITIONS)}")
        dim = int(pragma.options.get("dim", "1")) if pragma.options.get("dim", "1").isdigit() else -1
        if not 0 <= dim <= len(variable.extents):
            self.say(pragma.line, f"{pragma.name}: dim={pragma.options['dim']}; the array has dimensions 1 to "
                                  f"{len(variable.extents)}, 0 is all of them")  # fmt: skip
            return
        cut = variable.extents if dim == 0 else variable.extents[dim - 1 : dim]
        parts = 1
        for extent in cut:
            parts *= extent
        if how != "complete":
            factor = self.number(pragma, "factor", 1)
            if factor is None:
                self.say(pragma.line, f"{pragma.name}: {how} needs factor=N")
                return
            if factor > parts:
                self.say(
                    pragma.line, f"{pragma.name}: factor={factor} is more than the {parts} elements that there are"
                )
            parts = factor
        if parts > MOST_PARTS:
            self.say(pragma.line, f"{pragma.name}: {parts} parts; no more than {MOST_PARTS} are made")

    def unroll(self, scope: _Scope, pragma: _Pragma) -> None:
        if not scope.is_loop:
            self.say(pragma.line, "UNROLL: it does not stand in a loop's body")
            return
        factor = self.number(pragma, "factor", 1)
        if scope.trip is None and factor is None and not self._is_template(scope):
            self.say(pragma.line, "UNROLL: the loop's count is no number, so factor=N is needed")
        most = factor if factor is not None else scope.trip or 0
        if most > MOST_PARTS:
            self.say(pragma.line, f"UNROLL: {most} copies of the loop's body; no more than {MOST_PARTS} are made")

    @staticmethod
    def _is_template(scope: _Scope) -> bool:
        above: _Scope | None = scope
        while above is not None:
            if above.head.startswith("template"):
                return True
            above = above.above
        return False

    def pipeline(self, scope: _Scope, pragma: _Pragma) -> None:
        if not scope.is_loop and not scope.name:
            self.say(pragma.line, "PIPELINE: it stands neither in a loop's body nor in a function's")
        self.number(pragma, "II", 1)
        if pragma.options.get("style", "stp") not in ("stp", "flp", "frp"):
            self.say(pragma.line, f"PIPELINE: style={pragma.options['style']} is none of stp, flp, frp")
        for inner in scope.all():
            if inner is not scope and inner.is_loop and not inner.has("UNROLL"):
                around = f"the pipelined loop around it (line {pragma.line})"
                self.say(inner.line, f"{around} unrolls this loop: UNROLL says so, or PIPELINE belongs into it")

    def stream(self, scope: _Scope, pragma: _Pragma) -> None:
        variable = self._variable(scope, pragma)
        if variable is not None and not variable.is_stream:
            self.say(pragma.line, f"STREAM: {pragma.options['variable']} is no hls::stream")
        self.number(pragma, "depth", 1)

    def interface(self, scope: _Scope, pragma: _Pragma) -> None:
        port = pragma.options.get("port", "")
        mode = pragma.options.get("mode") or next(iter(pragma.words), "")
        if not scope.name:
            self.say(pragma.line, "INTERFACE: it does not stand in a function's body")
        elif port == "return":
            if mode not in _CONTROL:
                self.say(
                    pragma.line, f"INTERFACE: {mode!r} is none of {', '.join(_CONTROL)}, which port=return can have"
                )
        elif port not in scope.variables or scope.variables[port].line != scope.line:
            self.say(pragma.line, f"INTERFACE: {scope.name} has no port {port!r}")
        elif mode not in _PORTS:
            self.say(pragma.line, f"INTERFACE: {mode!r} is none of {', '.join(_PORTS)}")
        elif mode == "m_axi" and scope.variables[port].is_stream:
            self.say(pragma.line, f"INTERFACE: {port} is a stream, which has axis or ap_fifo and not m_axi")
        elif mode == "m_axi":
            self._memory_port(scope, pragma, port)
        elif mode == "axis" and scope.variables[port].is_pointer:
            self.say(pragma.line, f"INTERFACE: {port} is an array outside the chip, which has m_axi and not axis")

    def _memory_port(self, scope: _Scope, pragma: _Pragma, port: str) -> None:
        if not scope.variables[port].is_pointer:
            self.say(pragma.line, f"INTERFACE: {port} is no pointer, which m_axi needs")
        if "depth" not in pragma.options:
            self.say(pragma.line, f"INTERFACE: m_axi of {port} needs depth=N, or co-simulation does not know its size")
        self.number(pragma, "depth", 1)
        self.number(pragma, "latency", 0)
        offset = pragma.options.get("offset", "slave")
        if offset not in ("off", "direct", "slave"):
            self.say(pragma.line, f"INTERFACE: offset={offset} is none of off, direct, slave")
        bundle = pragma.options.get("bundle", "gmem")
        for other in scope.pragmas:
            is_port = other.name == "INTERFACE" and "m_axi" in (*other.words, other.options.get("mode"))
            if is_port and other.line < pragma.line and other.options.get("bundle", "gmem") == bundle:
                names = f"{other.options.get('port')} and {port}"
                self.say(pragma.line, f"INTERFACE: {names} share the bundle {bundle}: one waits for the other's bursts")

    def storage(self, scope: _Scope, pragma: _Pragma) -> None:
        variable = self._variable(scope, pragma)
        kind, made_of = pragma.options.get("type", ""), pragma.options.get("impl", "auto")
        if kind not in _STORAGE:
            self.say(pragma.line, f"BIND_STORAGE: type={kind} is none of {', '.join(_STORAGE)}")
        elif made_of not in _STORAGE[kind]:
            legal = ", ".join(_STORAGE[kind])
            self.say(pragma.line, f"BIND_STORAGE: {kind} is not made of impl={made_of}, but of one of {legal}")
        elif variable is not None and (kind == "fifo") != variable.is_stream:
            self.say(pragma.line, f"BIND_STORAGE: type={kind} of what is {'a' if variable.is_stream else 'no'} stream")
        elif variable is not None and kind.startswith("rom") != variable.constant:
            what = "constant" if variable.constant else "written"
            self.say(pragma.line, f"BIND_STORAGE: type={kind} of an array that is {what}")

    def inline(self, scope: _Scope, pragma: _Pragma) -> None:
        if not scope.name:
            self.say(pragma.line, f"{pragma.name}: it does not stand in a function's body")

    def dependence(self, scope: _Scope, pragma: _Pragma) -> None:
        if "variable" in pragma.options:
            self._variable(scope, pragma)

    # Functions ------------------------------------------------------------------------------------------

    def _dataflow(self, scope: _Scope, functions: Mapping[str, _Scope]) -> None:
        """Nothing but declarations and calls; each stream has one that writes it and one that reads it."""
        for inner in scope.inner:
            self.say(inner.line, f"DATAFLOW: {scope.name} holds more than declarations and calls")
        writers: dict[str, list[str]] = {}
        readers: dict[str, list[str]] = {}
        users: dict[str, list[str]] = {}
        for line, text in scope.statements:
            call = _CALL.match(text)
            if call is None or call["name"] not in functions:
                self.say(line, f"DATAFLOW: {text!r} is no call of a function of this file")
                continue
            for argument, (writes, reads) in zip(
                _split(call["arguments"]), _ends(functions[call["name"]], functions), strict=False
            ):
                if writes:
                    writers.setdefault(argument, []).append(call["name"])
                if reads:
                    readers.setdefault(argument, []).append(call["name"])
            for argument in _split(call["arguments"]):
                users.setdefault(argument, []).append(call["name"])
        for name, variable in scope.variables.items():
            if variable.is_pointer:
                used = users.get(name, [])
                if len(used) > 1:
                    self.say(variable.line, f"DATAFLOW: {name} is used by {' and '.join(used)}; one may do that")
                elif not used:
                    self.say(variable.line, f"DATAFLOW: the port {name} is used by none")
            if not variable.is_stream:
                continue
            outside = variable.line == scope.line
            for what, found in (("written", writers.get(name, [])), ("read", readers.get(name, []))):
                if len(found) > 1:
                    self.say(variable.line, f"DATAFLOW: {name} is {what} by {' and '.join(found)}; one may do that")
                elif not found and not outside:
                    self.say(variable.line, f"DATAFLOW: {name} is {what} by none")
            if outside and name not in writers and name not in readers:
                self.say(variable.line, f"DATAFLOW: the port {name} is used by none")

    def _ports(self, scope: _Scope) -> None:
        """Arrays that a top function gets are memory outside, which has to be said."""
        named = {pragma.options.get("port") for pragma in scope.pragmas if pragma.name == "INTERFACE"}
        for name, variable in scope.variables.items():
            if variable.is_pointer and name not in named:
                self.say(variable.line, f"INTERFACE: the pointer {name} of {scope.name} has none: m_axi is missing")

    def _labels(self, function: _Scope) -> None:
        seen: dict[str, int] = {}
        for scope in function.all():
            if scope.label:
                if scope.label in seen:
                    self.say(
                        scope.line, f"the label {scope.label} is that of line {seen[scope.label]} too: another name"
                    )
                seen.setdefault(scope.label, scope.line)


def _follow(conditions: list[str], directive: str, text: str) -> None:
    """What the text behind a directive is for."""
    if directive == "if":
        conditions.append("synthesis" if "ifdef __SYNTHESIS__" in text else "all")
    elif directive == "endif" and conditions:
        conditions.pop()
    elif conditions and conditions[-1] == "synthesis":
        conditions[-1] = "simulation"


def _ends(function: _Scope, functions: Mapping[str, _Scope]) -> list[tuple[bool, bool]]:
    """Of each parameter whether it is a stream that is written, and one that is read, by itself or by what it calls."""
    text = " ".join(part for one in function.all() for part in (*one.values, *(text for _, text in one.statements)))
    names = [name for name, variable in function.variables.items() if variable.line == function.line]
    ends = {name: [re.search(rf"\b{name}\.{what}\(", text) is not None for what in ("write", "read")] for name in names}
    for _, statement in function.statements:
        call = _CALL.match(statement)
        if call is not None and call["name"] in functions and functions[call["name"]] is not function:
            passed = zip(_split(call["arguments"]), _ends(functions[call["name"]], functions), strict=False)
            for name, used in passed:
                if name in ends:
                    ends[name] = [a or b for a, b in zip(ends[name], used, strict=True)]
    return [(writes, reads) for writes, reads in ends.values()]


def _split(text: str) -> list[str]:
    """At commas that no bracket encloses."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "<([") - (letter in ">)]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


_RULES: dict[str, Callable[[_Linter, _Scope, _Pragma], None]] = {
    "ALLOCATION": _Linter.inline, "ARRAY_PARTITION": _Linter.parts, "ARRAY_RESHAPE": _Linter.parts,
    "BIND_STORAGE": _Linter.storage, "DATAFLOW": _Linter.inline, "DEPENDENCE": _Linter.dependence,
    "INLINE": _Linter.inline, "INTERFACE": _Linter.interface, "PIPELINE": _Linter.pipeline, "STREAM": _Linter.stream,
    "UNROLL": _Linter.unroll,
}  # fmt: skip
