"""`tensorc verify DIR`: what a target wrote into a folder is checked by the target's own means."""

from __future__ import annotations

import json
from pathlib import Path

from tensorc.cli.console import duration, print_json, print_table, progress_bar
from tensorc.errors import UserError
from tensorc.target import PROJECT, find_target


def verify_folder(folder: Path, reference: Path | None, samples: Path | None, as_json: bool) -> int:
    """The exit code: 1 if anything that was checked does not hold."""
    try:
        manifest = json.loads((folder / PROJECT).read_text())
        target = find_target(manifest["target"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is no project that tensorc wrote: it has no readable {PROJECT} ({error})") from error
    with progress_bar() as watch:
        checks = target.check(folder, reference, samples, lambda done, total, name: watch("verify", done, total, name))
    ok = all(check.ok for check in checks)
    if as_json:
        rows = {check.name: {"ok": check.ok, "text": check.text, "seconds": check.seconds, **check.numbers}
                for check in checks}  # fmt: skip
        print_json({"ok": ok, "project": str(folder), "target": manifest["target"], "checks": rows})
    else:
        title = f"{folder}: {'everything holds' if ok else 'NOT EVERYTHING HOLDS'}"
        rows_of = [(check.name, "ok" if check.ok else "wrong", check.text, duration(check.seconds)) for check in checks]
        print_table(title, ("check", "verdict", "", "time"), rows_of)
    return 0 if ok else 1
