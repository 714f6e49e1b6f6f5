"""Which image files there are: a folder per class, or a table, with the label and the subject of each.

Opens no image. What stands in a table and isn't there is an item with a fault, counted and named like a damaged file; what
can't be meant (a label that contradicts the folder, a path that leaves the root) is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.data.dicom import SUFFIXES as DICOM
from bench.data.naming import (
    ONE,
    UNFETCHED,
    Pattern,
    class_names,
    class_of,
    inside,
    is_link_to_nothing,
    listed,
    natural,
    root_prefixes,
    rows_of,
    searched,
    table_path,
)
from bench.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", *DICOM)


@dataclass(frozen=True)
class Item:
    """One file to be read."""

    path: Path
    name: str
    label: str
    subject: str
    page: int | None = None
    """Which page or frame of the file, from 0; None for a file of one."""
    fault: str = ""
    """Why it is left out unread."""


class FileOptions(BaseModel):
    """Which files, and what their names tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str | tuple[str, ...] = Field(description="folder with a folder per class, or several; base of a CSV's paths")
    csv: str | None = Field(None, description="table of images, in place of a folder per class")
    columns: dict[Literal["path", "label", "subject"], str] = Field(
        default_factory=dict, description="names of the CSV's columns, where they are not path, label, subject"
    )
    classes: tuple[str, ...] | dict[str, str] | None = Field(
        None, description="classes to use, in this order, or a mapping of folder (or label) to class name"
    )
    subject_pattern: Pattern | None = Field(
        None,
        description="regular expression searched in the file name; its first group names the subject. Left out: "
        "every image is a subject of its own, and images of one patient may stand on both sides of the split",
    )
    allow_outside: bool = Field(False, description="whether the CSV may name files outside root")
    folders: Literal["check", "ignore"] = Field(
        "check", description="whether a CSV's label must agree with a folder that bears a class's name"
    )

    @model_validator(mode="after")
    def _one_root(self) -> FileOptions:
        if self.csv and not isinstance(self.root, str):
            raise ValueError("root: with a csv there is one root")
        return self

    @property
    def roots(self) -> tuple[str, ...]:
        """The root, or all of them."""
        return (self.root,) if isinstance(self.root, str) else self.root

    def label(self, name: str) -> str | None:
        """The class that a folder or label stands for, or None if it is left out."""
        return class_of(self.classes, name)

    def class_names(self, present: set[str]) -> tuple[str, ...]:
        """The classes in label order: as the options name them, else sorted with '2' before '10'."""
        return class_names(self.classes, present)

    def subject(self, file_name: str, name: str) -> str:
        """The subject that a file's name tells, or the image's own name without a pattern."""
        return name if self.subject_pattern is None else searched(self.subject_pattern, file_name, "subject", name)


def list_files(options: FileOptions) -> list[Item]:
    """Return every image with label and subject, in a fixed order; what is to be left out bears its fault.

    Raises:
        InputError: a folder that is missing or empty, no images, a table that can't be used.
    """
    roots = [Path(root).expanduser() for root in options.roots]
    for root in roots:
        if not root.is_dir():
            raise InputError(f"data.root: there is no folder {root} (seen from {Path.cwd()})")
    listed = _from_csv(options, roots[0]) if options.csv else _from_folders(options, roots)
    found = sorted(listed, key=lambda item: item.name)
    if not found:
        raise InputError(
            f"data.root: no images in {', '.join(map(str, roots))}; expected a folder per class, "
            f"files {' '.join(SUFFIXES)}"
        )
    return found


def is_image(path: Path) -> bool:
    """Whether a file is an image by its name."""
    named = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    return named and (path.is_file() or is_link_to_nothing(path))


def visible(folder: Path) -> list[Path]:
    """Everything below a folder, sorted, but what is hidden: by its own name or by that of a folder it lies in."""
    found = sorted(folder.rglob("*"))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _from_folders(options: FileOptions, roots: list[Path]) -> Iterator[Item]:
    folders_of = [sorted(path for path in root.iterdir() if path.is_dir()) for root in roots]
    folders = [[path for path in own if not path.name.startswith(".")] for own in folders_of]
    empty: list[str] = []
    filled: set[str] = set()
    for index, (root, prefix) in enumerate(zip(roots, root_prefixes(roots), strict=True)):
        alone = [path for path in sorted(root.iterdir()) if is_image(path)] if options.classes is None else []
        for path in alone:
            stray = "lies outside the folders of the classes: put it into one" if any(folders) else ""
            stray = stray or (UNFETCHED if is_link_to_nothing(path) else "")
            yield Item(path, prefix + path.name, ONE, options.subject(path.name, prefix + path.name), fault=stray)
        for folder in folders[index]:
            if (label := options.label(folder.name)) is None:
                continue
            images = [path for path in visible(folder) if is_image(path)]
            for path in images:
                name = prefix + path.relative_to(root).as_posix()
                fault = UNFETCHED if is_link_to_nothing(path) else ""
                yield Item(path, name, label, options.subject(path.name, name), fault=fault)
            if images:
                filled.add(folder.name)
            else:
                empty.append(folder.name)
    present = {path.name for own in folders_of for path in own}
    for name in options.classes or ():
        if name not in present:
            raise InputError(
                f"data.classes: no folder {name!r} in {', '.join(map(str, roots))}; there are {listed(present)}"
            )
    if filled and (lost := sorted(set(empty) - filled, key=natural)):
        remedy = "leave it out of data.classes" if options.classes else "remove it, or name the others in data.classes"
        raise InputError(
            f"data.root: the class folder {lost[0]!r} holds no images ({' '.join(SUFFIXES)}); fill it, {remedy}"
        )


def _from_csv(options: FileOptions, root: Path) -> Iterator[Item]:
    table = table_path(str(options.csv), root)
    named: dict[str, str] = {str(key): value for key, value in options.columns.items()}
    columns = {"path": "path", "label": "label", "subject": "subject", **named}
    seen: dict[Path, int] = {}
    said: dict[str, str] = {}
    used: set[str] = set()
    told = options.subject_pattern is None and "subject" in named
    for line, row in rows_of(table, [columns[name] for name in ("path", "label", *(["subject"] if told else []))]):
        where = f"{table}:{line}"
        given = row[columns["path"]]
        path = inside(root, given, where, options.allow_outside)
        if (first := seen.setdefault(path, line)) != line:
            raise InputError(f"{where}: {given} stands in line {first} already; an image has one label")
        if not (label := row[columns["label"]]):
            raise InputError(f"{where}: the label is missing")
        said[given] = label
        if (chosen := options.label(label)) is None:
            continue
        used.add(label)
        told = options.subject_pattern is None and columns["subject"] in row
        own = row.get(columns["subject"]) if told else None
        if told and not own:
            raise InputError(f"{where}: no subject in the column {columns['subject']!r}")
        fault = "" if path.is_file() else f"there is no such file in data.root (line {line} of {table.name})"
        yield Item(path, given, chosen, own or options.subject(path.name, given), fault=fault)
    for name in options.classes or ():
        if name not in used:
            raise InputError(
                f"data.classes: no image is labelled {name!r} in {table}; leave the class out, there are "
                f"{listed(set(said.values()))}"
            )
    if options.folders == "check":
        _agree(said, table)


def _agree(said: Mapping[str, str], table: Path) -> None:
    """Refuse labels that differ from a folder on the image's path that bears another class's name."""
    labels = set(said.values())
    wrong = []
    for given, label in said.items():
        folders = [part for part in Path(given).parts[:-1] if part in labels]
        if folders and label not in folders:
            wrong.append((given, label, folders[-1]))
    if wrong:
        given, label, folder = wrong[0]
        raise InputError(
            f"{table}: {len(wrong)} images have another label than their folder; the first, {given}, is {label!r} in the "
            f"table and lies in {folder!r}. Mend one of them, or set data.folders: ignore if the table is right"
        )
