"""What folders and tables say of images and volumes alike: rows, paths, classes, subjects. Opens tables, nothing else."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from bench.errors import InputError

Classes = tuple[str, ...] | Mapping[str, str] | None
"""The classes to use, in this order; or what folders and labels are called; or None: whatever there is."""
ONE = "all"
"""Name of the only class of a folder without classes."""
MAX_ROWS = 5_000_000
_LONGEST = 2**16
"""Characters of a header that are looked at."""


def _compiles(value: str | None) -> str | None:
    try:
        re.compile(value or "")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


Pattern = Annotated[str, AfterValidator(_compiles)]


def natural(name: str) -> list[int | str]:
    """Sort key that puts '2' before '10'."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def class_of(classes: Classes, said: str) -> str | None:
    """The class that a folder or label stands for, or None if it is left out."""
    if classes is None:
        return said
    if isinstance(classes, Mapping):
        return classes.get(said)
    return said if said in classes else None


def class_names(classes: Classes, present: Iterable[str]) -> tuple[str, ...]:
    """The classes in label order: as the options name them, else those present, sorted with '2' before '10'."""
    if classes is None:
        return tuple(sorted(present, key=natural))
    return tuple(dict.fromkeys(classes.values() if isinstance(classes, Mapping) else classes))


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names in order, cut off where they are many."""
    ordered = sorted(names, key=natural)
    return ", ".join(map(repr, ordered[:most])) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def searched(pattern: str, text: str, what: str, name: str | None = None) -> str:
    """What a pattern's first group (or all of it) finds in a text; `name` says whose text it is, if not its own.

    Raises:
        InputError: nothing.
    """
    found = re.search(pattern, text)
    value = found and (found.group(1) if found.re.groups else found.group(0))
    if not value:
        raise InputError(f"data.{what}_pattern: {pattern!r} finds no {what} in {name or text}")
    return value


def root_prefixes(roots: list[Path]) -> list[str]:
    """What tells the files of several roots apart: the roots' names, or numbers where these are equal.

    Names tell images (and, without a pattern, subjects) apart: two roots of one name must not merge them.
    """
    if len(roots) == 1:
        return [""]
    names = [root.resolve().name for root in roots]
    return [f"{name}/" if names.count(name) == 1 else f"{index}/" for index, name in enumerate(names)]


def table_path(given: str, root: Path) -> Path:
    """A table is looked for where it is named, then in the root.

    Raises:
        InputError: it is in neither place.
    """
    table = Path(given).expanduser()
    for place in (table, root / table):
        if place.is_file():
            return place
    raise InputError(f"there is no table {given}, neither seen from {Path.cwd()} nor in {root}")


def is_link_to_nothing(path: Path) -> bool:
    """Whether a link's file isn't there: as where git-annex or DataLad manage files that were not fetched."""
    return path.is_symlink() and not path.exists()


UNFETCHED = "is a link to a file that isn't there: not fetched?"


def inside(root: Path, given: str, where: str, allow_outside: bool) -> Path:
    """The file that a table names, which lies in the root unless told otherwise.

    Raises:
        InputError: it lies elsewhere, or is no path; `where` says which line.
    """
    if "\0" in given or not given:
        raise InputError(f"{where}: {given!r} is no path")
    try:
        path = (root / given).resolve()
        path.exists()  # what is no name of a file on this system (too long, say) is told here
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{where}: {given[:80]!r} is no path ({type(error).__name__})") from None
    if not allow_outside and not path.is_relative_to(root.resolve()):
        raise InputError(f"{where}: {given} lies outside {root}; set data.allow_outside: true if that is meant")
    return path


def rows_of(table: Path, needed: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and row of a table that has the needed columns.

    Commas separate, or what its header has in place of them: semicolons, as spreadsheets write in many countries, or tabs.

    Raises:
        InputError: it can't be read, has no row, or lacks a column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline(_LONGEST)
            file.seek(0)
            separator = next((one for one in ("\t", ",", ";") if one in first), ",")
            reader = csv.DictReader(file, delimiter=separator, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or []]
            if not header:
                raise InputError(f"{table}: is empty; a table begins with the names of its columns")
            reader.fieldnames = header
            for name in needed:
                if name not in header:
                    raise InputError(f"{table}: no column {name!r}; there are {', '.join(header)}: set data.columns")
            found = False
            for row in reader:
                if reader.line_num > MAX_ROWS:
                    raise InputError(f"{table}: more than {MAX_ROWS:,} lines; this is no table of images")
                found = True
                plain: dict[str, Any] = {key: value for key, value in row.items() if isinstance(key, str)}
                yield reader.line_num, {key: (value or "").strip() for key, value in plain.items()}
            if not found:
                raise InputError(f"{table}: has names of columns, but no row below them")
    except UnicodeDecodeError:
        raise InputError(f"{table}: is no UTF-8 text; save it as CSV UTF-8") from None
    except (OSError, csv.Error) as error:
        raise InputError(f"{table}: can't be read: {error}") from None
