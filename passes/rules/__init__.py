"""Rewriting rules by subject; each is local, guards first, and gives None when it does not match.

Rules may rely on the canonical form that `passes.simplify` gives (constants on the right, no division by a
constant, `rsqrt` instead of a division by a root), never on the order in which rules are tried.
"""
