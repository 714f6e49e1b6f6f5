"""Images from files: a folder per class, or a table. PNG, JPEG and TIFF, 8 and 16 bit, grey and colour.

One stated rule for everything that changes numbers, the same for training and scoring: intensity, colour, size. Nothing
is clipped unasked (Pillow's own conversion of 16-bit images clips at 255), nothing is left out unnamed.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bench.data.dataset import ImageDataset, content_fingerprint
from bench.data.pixels import UnusableError, raw_values
from bench.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Grey from colour: ITU-R BT.601."""
MAX_PIXELS = 100_000_000
CHUNK = 256

Array = NDArray[np.float32]
Side = Annotated[int, Field(ge=8, le=4096)]


@dataclass(frozen=True)
class _Item:
    """One file to be read."""

    path: Path
    name: str
    label: str
    subject: str


class ImageFolder:
    """Images in a folder per class, or listed in a CSV file: PNG, JPEG, TIFF, 8 or 16 bit.

    Intensity: 8-bit images span 0 to 255, 16-bit images 0 to 65535, or both the `window` that is given. Colour: with
    `channels: 1` ITU-R BT.601 luma, with `channels: 3` grey is repeated; transparency is dropped. Size: bicubic with
    antialiasing on the unrounded values (Pillow, mode F), stretched to `image_size` or padded with 0 to its shape.
    """

    version: ClassVar[int] = 1

    class Options(BaseModel):
        """What may be set in the suite."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        root: str | tuple[str, ...] = Field(
            description="folder with a folder per class, or several; base of a CSV's paths"
        )
        title: str | None = Field(None, description="what the report calls the data; 'images of FOLDER' if left out")
        csv: str | None = Field(None, description="table of images, in place of a folder per class")
        columns: dict[Literal["path", "label", "subject"], str] = Field(
            default_factory=dict, description="names of the CSV's columns, where they are not path, label, subject"
        )
        image_size: tuple[Side, Side] = Field((64, 64), description="height, width in pixels")
        channels: Literal[1, 3] = 1
        classes: tuple[str, ...] | dict[str, str] | None = Field(
            None, description="classes to use, in this order, or a mapping of folder (or label) to class name"
        )
        subject_pattern: str | None = Field(
            None,
            description="regular expression searched in the file name; its first group names the subject. Left out: "
            "every image is a subject of its own, and images of one patient may stand on both sides of the split",
        )
        window: tuple[float, float] | None = Field(None, description="raw values that become black and white")
        clip: bool = Field(
            False, description="whether values outside the window are clipped; otherwise they are an error"
        )
        fit: Literal["stretch", "pad"] = "stretch"
        max_skipped_fraction: float = Field(0.02, ge=0, le=1, description="share of unusable images put up with")
        keep_constant: bool = Field(
            False, description="whether images of one value are used; a scan has none, a generator may make them"
        )
        allow_outside: bool = Field(False, description="whether the CSV may name files outside root")

        @field_validator("subject_pattern")
        @classmethod
        def _pattern(cls, value: str | None) -> str | None:
            try:
                re.compile(value or "")
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
            return value

        @model_validator(mode="after")
        def _window(self) -> ImageFolder.Options:
            if self.window and not self.window[0] < self.window[1]:
                raise ValueError("window: the first value must be below the second")
            if self.csv and not isinstance(self.root, str):
                raise ValueError("root: with a csv there is one root")
            return self

    def __init__(self, options: Options) -> None:
        self.options = options

    def manifest(self) -> list[Any]:
        """Return path, size and time of change of every file.

        Raises:
            InputError: a folder or file that is missing, no images, a CSV that can't be used.
        """
        stats = [(item, item.path.stat()) for item in self._items()]
        return [[str(item.path), item.label, item.subject, stat.st_size, stat.st_mtime_ns] for item, stat in stats]

    def prepare(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> ImageDataset:
        """Read every image and write the set into `folder`; `progress` is told (images done, images).

        Raises:
            InputError: more than `max_skipped_fraction` of the images can't be used, or a value is outside the window.
        """
        options = self.options
        items = list(self._items())
        shape = (len(items), options.channels, *options.image_size)
        depth = np.iinfo(np.uint16)
        decoded = np.lib.format.open_memmap(folder / "decoded.npy", mode="w+", dtype=np.uint16, shape=shape)
        kept: list[_Item] = []
        skipped: list[tuple[str, str]] = []
        deep = False
        done = 0
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            warnings.simplefilter("ignore")  # what Pillow warns of (huge, odd metadata) is judged here
            for start in range(0, len(items), CHUNK):
                chunk = items[start : start + CHUNK]
                for item, (image, reason, bits) in zip(chunk, pool.map(self._read, chunk), strict=True):
                    if image is None:
                        skipped.append((item.name, reason))
                        continue
                    decoded[len(kept)] = np.rint(image * depth.max)
                    kept.append(item)
                    deep |= bits > 8
                done += len(chunk)
                if progress:
                    progress(done, len(items))
        if len(skipped) > options.max_skipped_fraction * len(items):
            first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
            raise InputError(
                f"{len(skipped)} of {len(items)} images can't be used ({first}{'; ...' if len(skipped) > 3 else ''}); "
                f"mend or remove them, or raise data.max_skipped_fraction (now {options.max_skipped_fraction:g})"
            )
        if lost := sorted({item.label for item in items} - {item.label for item in kept}):
            raise InputError(
                f"no image of class {lost[0]!r} can be used ({skipped[0][0]}: {skipped[0][1]}); mend or leave it out"
            )
        return self._finish(folder, decoded, kept, skipped, deep)

    def _finish(
        self, folder: Path, decoded: NDArray[np.uint16], kept: list[_Item], skipped: list[tuple[str, str]], deep: bool
    ) -> ImageDataset:
        """Write the images that were kept in their depth, and everything that is known of them."""
        dtype = np.uint16 if deep else np.uint8
        shape = (len(kept), *decoded.shape[1:])
        pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=dtype, shape=shape)
        for start in range(0, len(kept), CHUNK):
            part = decoded[start : min(start + CHUNK, len(kept))]
            # 65535 = 255 * 257: rounding to the nearest of 256 levels
            pixels[start : start + len(part)] = part if deep else (part.astype(np.uint32) + 128) // 257
        pixels.flush()
        (folder / "decoded.npy").unlink()
        names = tuple(item.name for item in kept)
        class_names = self._class_names({item.label for item in kept})
        labels = np.array([class_names.index(item.label) for item in kept], np.int64)
        subjects = np.array([item.subject for item in kept], dtype=str)
        left_out = {"root", "title", "csv", "columns", "allow_outside", "keep_constant", "max_skipped_fraction"}
        rules = {"source": "images", "version": self.version, **self.options.model_dump(mode="json", exclude=left_out)}
        dataset = ImageDataset(
            pixels=pixels,
            labels=labels,
            class_names=class_names,
            subjects=subjects,
            names=names,
            fingerprint=content_fingerprint(pixels, labels, subjects, names, class_names, rules),
            title=self.options.title or f"images of {Path(self._roots()[0]).resolve().name}",
            simulated=False,
            skipped=tuple(skipped),
        )
        dataset.save(folder)
        return dataset

    # ---- which files

    def _roots(self) -> tuple[str, ...]:
        return (self.options.root,) if isinstance(self.options.root, str) else self.options.root

    def _items(self) -> Iterator[_Item]:
        """Yield every image with label and subject, in a fixed order."""
        roots = [Path(root).expanduser() for root in self._roots()]
        for root in roots:
            if not root.is_dir():
                raise InputError(f"data.root: there is no folder {root} (seen from {Path.cwd()})")
        found = sorted(
            self._from_csv(roots[0]) if self.options.csv else self._from_folders(roots), key=lambda item: item.name
        )
        if not found:
            raise InputError(
                f"data.root: no images in {', '.join(map(str, roots))}; expected a folder per class, "
                f"files {' '.join(SUFFIXES)}"
            )
        yield from found

    def _from_folders(self, roots: list[Path]) -> Iterator[_Item]:
        names = [root.resolve().name for root in roots]
        for index, root in enumerate(roots):
            # names tell images (and, without a pattern, subjects) apart: two roots of one name must not merge them
            prefix = "" if len(roots) == 1 else f"{names[index]}/" if names.count(names[index]) == 1 else f"{index}/"
            for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
                if (label := self._label(folder.name)) is None:
                    continue
                for path in sorted(folder.rglob("*")):
                    if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
                        name = prefix + path.relative_to(root).as_posix()
                        yield _Item(path, name, label, self._subject(path.name, name))
        wanted = self.options.classes
        present = {path.name for root in roots for path in root.iterdir() if path.is_dir()}
        for name in wanted or ():
            if name not in present:
                raise InputError(f"data.classes: no folder {name!r} in {', '.join(map(str, roots))}")

    def _from_csv(self, root: Path) -> Iterator[_Item]:
        table = Path(str(self.options.csv)).expanduser()
        table = table if table.is_file() else root / table
        named: dict[str, str] = {str(key): value for key, value in self.options.columns.items()}
        columns = {"path": "path", "label": "label", "subject": "subject", **named}
        base = root.resolve()
        seen: dict[Path, int] = {}
        for line, row in _rows(table, (columns["path"], columns["label"])):
            where = f"{table}:{line}"
            given = row[columns["path"]]
            if "\0" in given or not given:
                raise InputError(f"{where}: {given!r} is no path")
            path = (root / given).resolve()
            if not self.options.allow_outside and not path.is_relative_to(base):
                raise InputError(f"{where}: {given} lies outside {root}; set data.allow_outside: true if that is meant")
            if not path.is_file():
                raise InputError(f"{where}: there is no file {given} in {root}")
            if (first := seen.setdefault(path, line)) != line:
                raise InputError(f"{where}: {given} stands in line {first} already; an image has one label")
            if not (said := row[columns["label"]]):
                raise InputError(f"{where}: the label is missing")
            if (label := self._label(said)) is None:
                continue
            told = self.options.subject_pattern is None and ("subject" in named or columns["subject"] in row)
            own = row.get(columns["subject"]) if told else None
            if told and not own:
                raise InputError(f"{where}: no subject in the column {columns['subject']!r}")
            yield _Item(path, given, label, own or self._subject(path.name, given))

    def _label(self, name: str) -> str | None:
        """The class that a folder or label stands for, or None if it is left out."""
        classes = self.options.classes
        if classes is None:
            return name
        if isinstance(classes, Mapping):
            return classes.get(name)
        return name if name in classes else None

    def _class_names(self, present: set[str]) -> tuple[str, ...]:
        classes = self.options.classes
        if classes is None:
            return tuple(sorted(present, key=_natural))
        ordered: Iterable[str] = classes.values() if isinstance(classes, Mapping) else classes
        return tuple(dict.fromkeys(ordered))

    def _subject(self, file_name: str, name: str) -> str:
        if self.options.subject_pattern is None:
            return name
        found = re.search(self.options.subject_pattern, file_name)
        subject = found and (found.group(1) if found.re.groups else found.group(0))
        if not subject:
            raise InputError(f"data.subject_pattern: {self.options.subject_pattern!r} finds no subject in {name}")
        return subject

    # ---- one image

    def _read(self, item: _Item) -> tuple[Array | None, str, int]:
        """Return the image as float32 [channels, height, width] in [0, 1], or why it is left out; and its bits."""
        try:
            raw, bits = raw_values(item.path, MAX_PIXELS)
            values = self._intensities(raw, bits, item)
            if np.ptp(values) == 0 and not self.options.keep_constant:
                raise UnusableError("constant: every pixel is the same")
            return self._resized(self._colour(values)), "", bits
        except InputError:
            raise
        except UnusableError as error:
            return None, str(error), 0
        except Exception as error:  # whatever a damaged file makes a decoder raise, it is that one image's fault
            reason = (str(error).splitlines() or [""])[0].replace(str(item.path), item.name)
            return None, f"can't be read: {reason or type(error).__name__}", 0

    def _intensities(self, raw: Array, bits: int, item: _Item) -> Array:
        if not np.isfinite(raw).all():
            raise UnusableError("holds values that are not finite")
        window = self.options.window
        if window is None and bits > 16:
            raise UnusableError("holds 32-bit values: give data.window")
        low, high = window or (0.0, float(2**bits - 1))
        if not self.options.clip and (raw.min() < low or raw.max() > high):
            raise InputError(
                f"{item.name}: values from {raw.min():g} to {raw.max():g} lie outside data.window [{low:g}, {high:g}]; "
                "widen it, or set data.clip: true"
            )
        scaled: Array = np.clip((raw - np.float32(low)) / np.float32(high - low), 0, 1, dtype=np.float32)
        return scaled

    def _colour(self, values: Array) -> Array:
        """Return [channels, height, width] from [height, width] or [height, width, 3]."""
        if values.ndim == 2:
            return np.repeat(values[None], self.options.channels, axis=0)
        return values.transpose(2, 0, 1) if self.options.channels == 3 else (values @ LUMA)[None]

    def _resized(self, values: Array) -> Array:
        from PIL import Image

        height, width = self.options.image_size
        inner = (height, width)
        if self.options.fit == "pad":
            scale = min(height / values.shape[1], width / values.shape[2])
            inner = (max(1, round(values.shape[1] * scale)), max(1, round(values.shape[2] * scale)))
        if values.shape[1:] != inner:
            size, method = (inner[1], inner[0]), Image.Resampling.BICUBIC
            resized = [np.asarray(Image.fromarray(np.ascontiguousarray(v)).resize(size, method)) for v in values]
            values = np.stack(resized).clip(0, 1)  # bicubic overshoots at edges
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        sides = ((0, 0), (top, height - inner[0] - top), (left, width - inner[1] - left))
        return np.pad(values, sides)


def _natural(name: str) -> list[int | str]:
    """Sort key that puts '2' before '10'."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _rows(table: Path, needed: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and row of a CSV file that has the needed columns."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            for name in needed:
                if name not in header:
                    raise InputError(
                        f"{table}: no column {name!r}; there are {', '.join(header) or 'none'}: set data.columns"
                    )
            for row in reader:
                yield (
                    reader.line_num,
                    {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)},
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: can't be read: {error}") from None
