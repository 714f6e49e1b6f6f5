"""Which volumes there are, with label and subject: folders, a table, IXI's and SALD's layouts.

Looks at names and tables only; opens no volume.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from bench.data.dicom_series import series_files
from bench.data.naming import (
    ONE,
    UNFETCHED,
    Pattern,
    class_of,
    inside,
    is_link_to_nothing,
    listed,
    root_prefixes,
    rows_of,
    searched,
    table_path,
)
from bench.data.slicing import NIFTI_SUFFIXES, Recipe
from bench.errors import InputError

LAYOUTS = ("folders", "ixi", "sald")
IXI_NAME = re.compile(r"(IXI\d+)-([A-Za-z]+)-\d+[-_]T1\.nii(?:\.gz)?")
"""IXI002-Guys-0828-T1.nii.gz: subject, site."""


Layout = Literal["folders", "ixi", "sald"]


class Where(Recipe):
    """The part of the options that says which volumes."""

    root: str | tuple[str, ...] = Field(description="folder of the volumes, or several; base of a CSV's paths")
    layout: Layout | tuple[Layout, ...] = Field(
        "folders",
        description="folders: a folder per class; ixi: IXI002-Guys-0828-T1.nii.gz, the site is the label; sald: "
        "sub-031274/anat/*T1w.nii.gz, the label from `participants` or else the root's name; one for each root, or for all",
    )
    title: str | None = Field(None, description="what the report calls the data; 'volumes of FOLDER' if left out")
    csv: str | None = Field(None, description="table of volumes, in place of a layout")
    participants: str | None = Field(None, description="table of subjects and labels (CSV, or TSV) for the layout sald")
    columns: dict[Literal["path", "label", "subject"], str] = Field(
        default_factory=dict,
        description="names of the table's columns, where they are not path, label, subject (participants: participant_id)",
    )
    classes: tuple[str, ...] | dict[str, str] | None = Field(
        None, description="classes to use, in this order, or a mapping of label to class name; several may become one"
    )
    label_pattern: Pattern | None = Field(
        None, description="regular expression searched in a volume's path below root; its first group is the label"
    )
    subject_pattern: Pattern | None = Field(
        None,
        description="regular expression searched in the file's (or series folder's) name, then in its path below root; its "
        "first group names the subject. Left out: every volume is a subject of its own, where no layout or column tells",
    )
    include: Pattern | None = Field(
        None, description="regular expression searched in a volume's path below root; others are not used"
    )
    allow_outside: bool = Field(False, description="whether the CSV may name volumes outside root")


@dataclass(frozen=True, order=True)
class Item:
    """One volume to be read."""

    name: str
    path: Path
    """A NIfTI file, or the folder of a DICOM series."""
    label: str
    """Empty where there is none, which is then the fault."""
    subject: str
    fault: str = ""
    """Why it is left out before it is opened."""


def find_volumes(options: Where) -> list[Item]:
    """Return every volume with label and subject, ordered by name.

    Raises:
        InputError: a folder or table that is missing or can't be used, no volumes, a label or subject that can't be told.
    """
    roots = [Path(root).expanduser() for root in ([options.root] if isinstance(options.root, str) else options.root)]
    layouts = [options.layout] * len(roots) if isinstance(options.layout, str) else list(options.layout)
    if len(layouts) != len(roots):
        raise InputError(f"data.layout: {len(layouts)} layouts for {len(roots)} roots; give one, or one for each")
    for root in roots:
        if not root.is_dir():
            raise InputError(f"data.root: there is no folder {root} (seen from {Path.cwd()})")
    if options.csv:
        if len(roots) != 1:
            raise InputError("data.root: with a csv there is one root")
        found = list(_from_csv(options, roots[0]))
    else:
        found = []
        for root, layout, prefix in zip(roots, layouts, root_prefixes(roots), strict=True):
            found += _READERS[layout](options, root, prefix)
    if not found:
        kinds = f"{' '.join(NIFTI_SUFFIXES)} files or folders of DICOM slices"
        raise InputError(
            f"data.root: no volumes of layout {'csv' if options.csv else '/'.join(layouts)} in "
            f"{', '.join(map(str, roots))}; looked for {kinds}{_restricted(options)}"
        )
    return sorted(replace(item, fault=UNFETCHED) if is_link_to_nothing(item.path) else item for item in found)


def _restricted(options: Where) -> str:
    given = [name for name in ("include", "classes") if getattr(options, name) is not None]
    return f" that data.{' and data.'.join(given)} let through" if given else ""


# ---- layouts


def _from_folders(options: Where, root: Path, prefix: str) -> Iterator[Item]:
    found = [(path, path.relative_to(root).as_posix()) for path in _volumes(root)]
    found = [(path, inner) for path, inner in found if _included(options, inner)]
    folders = any("/" in inner for _, inner in found)
    for path, inner in found:
        fault = ""
        if options.label_pattern:
            said = searched(options.label_pattern, inner, "label")
        elif "/" in inner:
            said = inner.split("/")[0]
        elif options.classes is None:
            said, fault = ("", "lies outside the folders of the classes: put it into one") if folders else (ONE, "")
        else:
            continue
        if (label := class_of(options.classes, said)) is not None:
            yield Item(prefix + inner, path, label, _subject(options, path, prefix + inner), fault)
    if options.label_pattern is None and prefix == "":
        present = {path.name for path in root.iterdir() if path.is_dir()}
        for name in options.classes or ():
            if name not in present:
                raise InputError(f"data.classes: no folder {name!r} in {root}; there are {listed(present)}")


def _from_ixi(options: Where, root: Path, prefix: str) -> Iterator[Item]:
    for path in _volumes(root):
        inner = path.relative_to(root).as_posix()
        told = IXI_NAME.fullmatch(path.name)
        if told and _included(options, inner) and (label := class_of(options.classes, told.group(2))) is not None:
            yield Item(prefix + inner, path, label, told.group(1))


def _from_sald(options: Where, root: Path, prefix: str) -> Iterator[Item]:
    labels = _participants(options, root) if options.participants else None
    for path in _volumes(root):
        inner = path.relative_to(root).as_posix()
        subject = next((part for part in inner.split("/") if re.fullmatch(r"sub-[A-Za-z0-9]+", part)), None)
        if not subject or "T1w.nii" not in path.name or not _included(options, inner):
            continue
        if labels is None:
            said = root.resolve().name
        elif (said := labels.get(_number(subject), "")) == "":
            raise InputError(f"{options.participants}: no label for {subject} ({inner})")
        if (label := class_of(options.classes, said)) is not None:
            yield Item(prefix + inner, path, label, subject)


_READERS: dict[str, Callable[[Where, Path, str], Iterator[Item]]] = {
    "folders": _from_folders,
    "ixi": _from_ixi,
    "sald": _from_sald,
}


def _participants(options: Where, root: Path) -> dict[str, str]:
    table = table_path(str(options.participants), root)
    subject, label = options.columns.get("subject", "participant_id"), options.columns.get("label", "label")
    found: dict[str, str] = {}
    for line, row in rows_of(table, (subject, label)):
        if found.setdefault(_number(row[subject]), row[label]) != row[label]:
            raise InputError(f"{table}:{line}: a second label for {row[subject]}")
    return found


def _number(subject: str) -> str:
    """A subject as tables write it, with or without 'sub-' and leading zeros."""
    return subject.removeprefix("sub-").lstrip("0")


def _volumes(root: Path) -> Iterator[Path]:
    """Yield NIfTI files and folders of DICOM slices below root, hidden ones left out."""
    for path in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        is_series = path.is_dir() and next(series_files(path), None) is not None
        if is_series or (path.name.lower().endswith(NIFTI_SUFFIXES) and (path.is_file() or is_link_to_nothing(path))):
            yield path


# ---- a table


def _from_csv(options: Where, root: Path) -> Iterator[Item]:
    table = table_path(str(options.csv), root)
    columns = {name: options.columns.get(name, name) for name in ("path", "label", "subject")}
    seen: dict[Path, tuple[int, str]] = {}
    told = options.subject_pattern is None and "subject" in options.columns
    needed = [columns["path"], *([] if options.label_pattern else [columns["label"]])]
    needed += [columns["subject"]] if told else []
    for line, row in rows_of(table, needed):
        where, given = f"{table}:{line}", row[columns["path"]]
        path = inside(root, given, where, options.allow_outside)
        if not _included(options, given):
            continue
        said = searched(options.label_pattern, given, "label") if options.label_pattern else row[columns["label"]]
        if not said:
            raise InputError(f"{where}: the label is missing")
        if (label := class_of(options.classes, said)) is None:
            continue
        first, before = seen.setdefault(path, (line, label))
        if before != label:
            raise InputError(
                f"{where}: {given} is {label!r} here and {before!r} in line {first}; a volume has one label"
            )
        told = options.subject_pattern is None and columns["subject"] in row
        own = row.get(columns["subject"], "") if told else _subject(options, path, given)
        if not own:
            raise InputError(f"{where}: no subject in the column {columns['subject']!r}")
        fault = "" if path.exists() else "there is no such file in data.root"
        yield Item(
            given, path, label, own, fault if first == line else f"line {line} names it again (line {first} did)"
        )


# ---- one volume


def _included(options: Where, inner: str) -> bool:
    return options.include is None or re.search(options.include, inner) is not None


def _subject(options: Where, path: Path, name: str) -> str:
    """By the pattern: what it finds in the file's own name, else in the folders above (patient/series/, say)."""
    if options.subject_pattern is None:
        return name
    own = re.search(options.subject_pattern, path.name)
    return searched(options.subject_pattern, path.name if own else name, "subject", name)
