"""List the licence of every package that an installation brings along, in docs/licences.md; from their own metadata.

Run as: python docs/licences.py (nox -s audit does, with the packages of a fresh environment).
"""

from __future__ import annotations

import re
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata, requires
from pathlib import Path

OURS = "medgenbench"
HEAD = """# Licences of the dependencies

What `pip install medgenbench` brings along, from each package's own metadata; made by `python docs/licences.py`.
The versions are those of the environment it was made in.

| Package | Version | Licence |
| --- | --- | --- |
"""


def needed(name: str = OURS) -> set[str]:
    """Return the names of all packages that one needs, directly or not, without extras, as far as they are installed."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for line in requires_of(waiting.pop()):
            if "extra ==" in line:
                continue
            other = re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", line)[0]).lower()  # type: ignore[index]
            if other not in found and installed(other):
                found.add(other)
                waiting.append(other)
    return found


def requires_of(name: str) -> list[str]:
    """Return the requirements of an installed package."""
    return requires(name) or []


def installed(name: str) -> bool:
    """Whether the package is there: some are needed on other systems only."""
    try:
        metadata(name)
    except PackageNotFoundError:
        return False
    return True


def licence(told: PackageMetadata) -> str:
    """Return what the metadata say: the expression, else the classifiers, else the first line of the free text."""
    if expression := told.get("License-Expression"):
        return str(expression)
    classifiers = [line for line in told.get_all("Classifier") or [] if line.startswith("License ::")]
    names = [line.rsplit(" :: ", 1)[1] for line in classifiers if not line.endswith("OSI Approved")]
    if names:
        return ", ".join(names)
    free = (told.get("License") or "").strip().splitlines()
    return free[0][:80] if free else "not stated"


def page() -> str:
    """Return the whole page."""
    rows = []
    for name in sorted(needed()):
        told = metadata(name)
        rows.append(f"| {told['Name']} | {told['Version']} | {licence(told).replace('|', '/')} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("licences.md").write_text(page(), encoding="utf-8")
