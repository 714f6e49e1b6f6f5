"""List the licence of every package that an installation brings along, in docs/licences.md; from their own metadata.

Run as: python docs/licences.py (nox -s audit does, with the packages of a fresh environment).
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "medgenbench"
EXTRAS = ("onnx", "postgres", "registration")
"""What users may ask for; the others are for developers."""
HEAD = """# Licences of the dependencies

What `pip install medgenbench` brings along, from each package's own metadata; made by `python docs/licences.py`.
The versions are those of the environment it was made in.

| Package | Version | Licence |
| --- | --- | --- |
"""
MORE = """
What the extras bring beyond that (`pip install 'medgenbench[{}]'`), as far as they were installed there:

| Package | Version | Licence |
| --- | --- | --- |
"""


def needed(name: str = OURS, extras: Iterable[str] = ()) -> set[str]:
    """Return the names of all packages that one with these extras needs, directly or not, as far as they are installed."""
    waiting = [(name, extra) for extra in ("", *extras)]
    seen = set(waiting)
    while waiting:
        package, extra = waiting.pop()
        for line in requires(package) or []:
            other = Requirement(line)
            if other.marker is not None and not other.marker.evaluate({"extra": extra}):
                continue
            key = canonicalize_name(other.name)
            for wanted in ("", *other.extras):  # 'package[extra]' brings what that extra needs
                if (key, wanted) not in seen and installed(key):
                    seen.add((key, wanted))
                    waiting.append((key, wanted))
    return {package for package, _ in seen} - {name}


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
    always = needed()
    return HEAD + _rows(always) + MORE.format(",".join(EXTRAS)) + _rows(needed(extras=EXTRAS) - always)


def _rows(names: Iterable[str]) -> str:
    told = [metadata(name) for name in sorted(names)]
    lines = [f"| {one['Name']} | {one['Version']} | {licence(one).replace('|', '/')} |" for one in told]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("licences.md").write_text(page(), encoding="utf-8")
