"""The two ways a command can fail that are not faults of ours.

`UserError` is for input or usage that is wrong: one line that names the thing and what is legal, exit
code 2. Everything else that escapes is a bug of tensorc and exits with 3.
"""

from __future__ import annotations


class UserError(ValueError):
    """The input, or the request, is wrong. The message is one line and stands on its own."""


class UnsupportedError(UserError):
    """The model is valid, but holds something tensorc does not compile."""


class IRError(Exception):
    """A graph breaks a rule of the IR: always a bug in the pass or the frontend that made it."""
