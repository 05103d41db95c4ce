"""`tensorc verify DIR`: what a target wrote into a folder is checked by the target's own means."""

from __future__ import annotations

from pathlib import Path

from tensorc.cli.console import duration, print_json, print_table, progress_bar
from tensorc.target import find_target, read_project


def verify_folder(folder: Path, reference: Path | None, samples: Path | None, as_json: bool) -> int:
    """The exit code: 1 if anything that was checked does not hold."""
    manifest = read_project(folder)
    target = find_target(manifest["target"])
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
