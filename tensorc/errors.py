"""The two ways a command can fail that are not faults of ours, and what is only worth a word.

`UserError` is for input or usage that is wrong: one line that names the thing and what is legal, exit
code 2. Everything else that escapes is a bug of tensorc and exits with 3.
"""

from __future__ import annotations


class UserError(ValueError):
    """The input, or the request, is wrong. The message is one line and stands on its own."""


class UnsupportedError(UserError):
    """The model is valid, but holds something tensorc does not compile."""


class TensorcWarning(UserWarning):
    """Something that the user may want to know; the work goes on. One line."""


class IRError(Exception):
    """A graph breaks a rule of the IR: always a bug in the pass or the frontend that made it."""
