"""A program in which every process is a fiber and every channel has an end: what finds deadlocks.

The processes are printed as in the project, and before an iteration begins it asks for all words that it will read and
for room for all that it will write, as hardware does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from targets.hls.expressions import TRUE, Expr
from targets.hls.printing.cpp import Cpp, functions, stream_type, weight_headers
from targets.hls.printing.expressions import Printer
from targets.hls.program import Channel, Lanes, Let, Nest, Program, Read, Statement, When, Write


class Fibers(Cpp):
    """Asks at the start of an iteration."""

    def iteration(self, printer: Printer, nest: Nest) -> None:
        for statement in nest.body:
            self._ask(printer, statement)

    def _ask(self, printer: Printer, statement: Statement) -> None:
        match statement:
            case Read(channel):
                printer.line(f"{channel.name}.need();")
            case Write(channels):
                for channel in channels:
                    printer.line(f"{channel.name}.reserve();")
            case When(condition, body) if _asks(body):
                with printer.block(f"if ({printer.expression(condition)})"):
                    for inner in body:
                        self._ask(printer, inner)
            case Let() if
