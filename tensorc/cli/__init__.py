"""The command line: commands, and the one place where a failure becomes an exit code and a line.

Exit codes: 0 done; 1 the command ran and the answer is no; 2 the input or the command is wrong; 3 a fault of tensorc;
130 interrupted. Commands return their code, raise UserError, or click's usage errors; they never print an error.
"""

from __future__ import annotations

import difflib
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from tensorc import environment
from tensorc.cli.bench import bench
from tensorc.cli.compile import compile_command
from tensorc.cli.inspect import inspect
from tensorc.cli.listings import ops, targets
from tensorc.cli.profile import profile
from tensorc.cli.records import records
from tensorc.cli.run import run
from tensorc.cli.tune import tune
from tensorc.cli.verify import verify
from tensorc.errors import IRError, TensorcWarning, UserError

DONE, NO, WRONG, FAULT, INTERRUPTED = 0, 1, 2, 3, 130

_LONGEST_WORD, _LONGEST_LINE = 500, 10_000


class _Commands(click.Group):
    """A group whose complaints say which commands there are."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            legal = f"commands: {', '.join(self.list_commands(ctx))}"
            raise click.UsageError(f"no command {name!r}{_near(name, self.commands)}; {legal}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        import tensorc

        click.echo(f"tensorc {tensorc.__version__}")
        ctx.exit()


@click.group(cls=_Commands, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Show the version.")  # fmt: skip
def cli() -> None:
    """Compile ONNX models to fast native code, run them and compare them with other engines."""


for command in (compile_command, run, verify, bench, tune, records, profile, inspect, targets, ops):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code. Without `argv`: the process's own arguments."""
    try:
        with _warnings_as_lines():
            code = cli.main(args=argv, prog_name="tensorc", standalone_mode=False)
    except click.ClickException as error:
        return _complain("error", _message(error), WRONG)
    except UserError as error:
        return _complain("error", str(error), WRONG)
    except (click.Abort, KeyboardInterrupt):
        return _complain("error", "interrupted", INTERRUPTED)
    except Exception as error:  # the last resort, which must not look like the user's mistake
        first = str(error).splitlines()[:1] if isinstance(error, IRError) else [str(error)]
        what = ": ".join([type(error).__name__, *first])
        hint = f"this is a bug of tensorc; {environment.TRACEBACK}=1 shows where"
        return _complain("internal error", f"{what} ({hint})", FAULT)
    return code if isinstance(code, int) else DONE


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Each of our own once; the libraries' as Python shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", TensorcWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, TensorcWarning):
                print(f"tensorc: warning: {message}", file=sys.stderr)
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield


def _complain(kind: str, message: str, code: int) -> int:
    if environment.show_traceback():
        traceback.print_exc()
    print(f"tensorc: {kind}: {_one_line(message)}", file=sys.stderr)
    return code


def _one_line(message: str) -> str:
    """`message` as a terminal can take it: names in it come from files, and may be of any letters and length."""
    words = (word if len(word) <= _LONGEST_WORD else f"{word[:_LONGEST_WORD]}..." for word in message.split())
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(words))
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."


def _message(error: click.ClickException) -> str:
    """click's message, with the legal choices where click leaves them out."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        legal = [name for parameter in error.ctx.command.params for name in parameter.opts if name.startswith("--")]
        near = _near(error.option_name, legal)
        return f"{error.ctx.info_name}: no option {error.option_name}{near}; options: {', '.join(legal)}"
    if isinstance(error, click.UsageError) and error.ctx is not None and error.ctx.parent is not None:
        return f"{error.ctx.info_name}: {error.format_message()}"
    if isinstance(error, click.UsageError) and error.ctx is not None and error.message.startswith("Missing command"):
        return f"no command given; commands: {', '.join(sorted(cli.commands))}"
    return error.format_message()


def _near(word: str, legal: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(legal), n=2)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
