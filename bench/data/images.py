"""Images from files: a folder per class, or a table. PNG, JPEG, TIFF and DICOM, 8 and 16 bit, grey and colour.

One stated rule for everything that changes numbers, the same for training and scoring: intensity, colour, size. Nothing
is clipped unasked (Pillow's own conversion of 16-bit images clips at 255), nothing is left out unnamed.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bench.data.dataset import ImageDataset, content_fingerprint
from bench.data.faults import Raw, UnusableError
from bench.data.files import SUFFIXES, FileOptions, Item, list_files
from bench.data.mapped import mapped
from bench.data.pixels import count_pages, read_raw
from bench.data.rules import Array, coloured, resized, scaled, stretching
from bench.errors import InputError

__all__ = ["MAX_PIXELS", "SUFFIXES", "ImageFolder"]

MAX_PIXELS = 100_000_000
CHUNK = 256
PLACELESS = frozenset(
    {"root", "title", "csv", "columns", "allow_outside", "folders", "keep_constant", "max_skipped_fraction"}
)
"""Options that no pixel depends on: they are no part of the fingerprint."""
LATER = {"intensity": "range", "percentiles": [0.0, 100.0], "pages": None, "dicom_window": False}
"""Options that came after fingerprints were published: part of them only where they differ from this."""

Side = Annotated[int, Field(ge=8, le=4096)]
Percent = Annotated[float, Field(ge=0, le=100)]


class _Stored(NamedTuple):
    """How an image lies in its file."""

    bits: int = 0
    shape: tuple[int, int] = (0, 0)
    """Height and width, upright."""


class ImageFolder:
    """Images in a folder per class, or listed in a CSV file: PNG, JPEG, TIFF, DICOM, 8 or 16 bit.

    Intensity: 8-bit images span 0 to 255, 16-bit images 0 to 65535, DICOM what its stored bits can mean; or the `window`
    that is given; or each image's own percentiles (`intensity: image`); or the outermost of these (`global`). Colour: with
    `channels: 1` ITU-R BT.601 luma, with `channels: 3` grey is repeated; transparency is dropped. Size: bicubic with
    antialiasing on the unrounded values (Pillow, mode F), stretched to `image_size` or padded with 0 to its shape.
    """

    version: ClassVar[int] = 1

    class Options(FileOptions):
        """What may be set in the suite."""

        title: str | None = Field(None, description="what the report calls the data; 'images of FOLDER' if left out")
        image_size: tuple[Side, Side] = Field((64, 64), description="height, width in pixels")
        channels: Literal[1, 3] = 1
        window: tuple[float, float] | None = Field(None, description="raw values that become black and white")
        clip: bool = Field(
            False, description="whether values outside the window are clipped; otherwise they are an error"
        )
        intensity: Literal["range", "image", "global"] = Field(
            "range", description="black and white by the files' range (or window), each image's own percentiles, or the "
            "outermost of all images' percentiles"
        )  # fmt: skip
        percentiles: tuple[Percent, Percent] = Field((0.0, 100.0), description="of intensity: image or global")
        dicom_window: bool = Field(False, description="whether a DICOM file's own window is its range, and clips")
        pages: Literal["first", "all"] | None = Field(
            None, description="of TIFF and DICOM with several; left out: such files are refused by name"
        )
        fit: Literal["stretch", "pad"] = "stretch"
        max_skipped_fraction: float = Field(0.02, ge=0, le=1, description="share of unusable images put up with")
        keep_constant: bool = Field(
            False, description="whether images of one value are used; a scan has none, a generator may make them"
        )

        @model_validator(mode="after")
        def _window(self) -> ImageFolder.Options:
            if self.window and not self.window[0] < self.window[1]:
                raise ValueError("window: the first value must be below the second")
            if not self.percentiles[0] < self.percentiles[1]:
                raise ValueError("percentiles: the first must be below the second")
            if self.intensity != "range" and (self.window or self.dicom_window):
                raise ValueError(f"intensity: {self.intensity} takes no window: leave one of them out")
            if self.intensity == "range" and self.percentiles != (0, 100):
                raise ValueError("percentiles are for intensity: image or global")
            return self

    def __init__(self, options: Options) -> None:
        self.options = options

    def manifest(self) -> list[Any]:
        """Return path, size and time of change of every file.

        Raises:
            InputError: a folder that is missing or empty, no images, a CSV that can't be used.
        """
        found = []
        for item in self._items():
            stat = None if item.fault else item.path.stat()
            known = [stat.st_size, stat.st_mtime_ns] if stat else [item.fault, None]
            found.append([str(item.path), item.label, item.subject, *known])
        return found

    def prepare(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> ImageDataset:
        """Read every image and write the set into `folder`; `progress` is told (images done, images).

        Raises:
            InputError: more than `max_skipped_fraction` of the images can't be used, or a value is outside the window.
        """
        options = self.options
        with warnings.catch_warnings(), ThreadPoolExecutor(_workers()) as pool:
            warnings.simplefilter("ignore")  # what decoders warn of (huge, odd metadata) is judged here
            items = self._pages(pool)
            shape = (len(items), options.channels, *options.image_size)
            depth = np.iinfo(np.uint16)
            decoded = mapped(folder / "decoded.npy", np.uint16, shape)
            span = self._outermost(items, pool) if options.intensity == "global" else None
            kept: list[Item] = []
            skipped: list[tuple[str, str]] = []
            deep = False
            shapes: Counter[tuple[int, int]] = Counter()
            done = 0
            for start in range(0, len(items), CHUNK):
                chunk = items[start : start + CHUNK]
                read = pool.map(lambda item: self._read(item, span), chunk)
                for item, (image, reason, stored) in zip(chunk, read, strict=True):
                    if image is None:
                        skipped.append((item.name, reason))
                        continue
                    decoded[len(kept)] = np.rint(image * depth.max)
                    kept.append(item)
                    shapes[stored.shape] += 1
                    deep |= stored.bits > 8
                done += len(chunk)
                if progress:
                    progress(done, len(items))
        if len(skipped) > options.max_skipped_fraction * len(items):
            first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
            raise InputError(
                f"{len(skipped)} of {len(items)} images can't be used ({first}{'; ...' if len(skipped) > 3 else ''}); "
                f"mend or remove them, or raise data.max_skipped_fraction (now {options.max_skipped_fraction:g})"
            )
        if lost := sorted({item.label for item in items if not item.fault} - {item.label for item in kept}):
            raise InputError(
                f"no image of class {lost[0]!r} can be used ({skipped[0][0]}: {skipped[0][1]}); mend or leave it out"
            )
        bent = stretching(shapes, options.image_size) if options.fit == "stretch" else ""
        notes = (f"{bent}, another aspect ratio; data.fit: pad keeps theirs",) if bent else ()
        return self._finish(folder, decoded, kept, skipped, deep, notes)

    def _finish(
        self,
        folder: Path,
        decoded: NDArray[np.uint16],
        kept: list[Item],
        skipped: list[tuple[str, str]],
        deep: bool,
        notes: tuple[str, ...],
    ) -> ImageDataset:
        """Write the images that were kept in their depth, and everything that is known of them."""
        dtype = np.uint16 if deep else np.uint8
        shape = (len(kept), *decoded.shape[1:])
        pixels = mapped(folder / "pixels.npy", dtype, shape)
        for start in range(0, len(kept), CHUNK):
            part = decoded[start : min(start + CHUNK, len(kept))]
            # 65535 = 255 * 257: rounding to the nearest of 256 levels
            pixels[start : start + len(part)] = part if deep else (part.astype(np.uint32) + 128) // 257
        pixels.flush()
        (folder / "decoded.npy").unlink()
        names = tuple(item.name for item in kept)
        class_names = self.options.class_names({item.label for item in kept})
        labels = np.array([class_names.index(item.label) for item in kept], np.int64)
        subjects = np.array([item.subject for item in kept], dtype=str)
        given = self.options.model_dump(mode="json", exclude=set(PLACELESS))
        rules = {key: value for key, value in given.items() if key not in LATER or value != LATER[key]}
        rules |= {"source": "images", "version": self.version}
        dataset = ImageDataset(
            pixels=pixels,
            labels=labels,
            class_names=class_names,
            subjects=subjects,
            names=names,
            fingerprint=content_fingerprint(pixels, labels, subjects, names, class_names, rules),
            title=self.options.title or f"images of {Path(self.options.roots[0]).resolve().name}",
            simulated=False,
            skipped=tuple(skipped),
            notes=notes,
        )
        dataset.save(folder)
        return dataset

    # ---- which files

    def _items(self) -> list[Item]:
        return list_files(self.options)

    def _pages(self, pool: ThreadPoolExecutor) -> list[Item]:
        """Every image to be read: with `pages`, a file of several pages is as many images of one subject."""
        items = self._items()
        if self.options.pages is None:
            return items
        counts = pool.map(_count, items) if self.options.pages == "all" else (1 for _ in items)
        found: list[Item] = []
        for item, count in zip(items, counts, strict=True):
            if count == 1:
                found.append(replace(item, page=0))
            else:
                found += [replace(item, page=page, name=f"{item.name}#{page}") for page in range(count)]
        return found

    # ---- one image

    def _outermost(self, items: list[Item], pool: ThreadPoolExecutor) -> tuple[float, float]:
        """The least and the greatest of all images' percentiles."""
        ends = [found for found in pool.map(self._ends, items) if found is not None]
        if not ends:
            return 0.0, 1.0  # no image can be read, as reading them will tell by name
        low, high = np.array(ends).T
        return float(low.min()), float(high.max())

    def _ends(self, item: Item) -> tuple[float, float] | None:
        try:
            low, high = self._percentiles(self._raw(item).values)
        except Exception:  # read again below, and named there
            return None
        return low, high

    def _percentiles(self, values: Array) -> tuple[float, float]:
        if not np.isfinite(values).all():
            raise UnusableError("holds values that are not finite")
        low, high = np.percentile(values, self.options.percentiles)
        return float(low), float(high)

    def _raw(self, item: Item) -> Raw:
        if item.fault:
            raise UnusableError(item.fault)
        return read_raw(item.path, MAX_PIXELS, page=item.page, own_window=self.options.dicom_window)

    def _read(self, item: Item, span: tuple[float, float] | None = None) -> tuple[Array | None, str, _Stored]:
        """Return the image as float32 [channels, height, width] in [0, 1], or why it is left out; and how it is stored."""
        options = self.options
        try:
            raw = self._raw(item)
            values = self._intensities(raw, span, item)
            if np.ptp(values) == 0 and not options.keep_constant:
                raise UnusableError("constant: every pixel is the same")
            stored = _Stored(raw.bits, (values.shape[0], values.shape[1]))
            return resized(coloured(values, options.channels), options.image_size, options.fit), "", stored
        except InputError:
            raise
        except UnusableError as error:
            return None, str(error), _Stored()
        except Exception as error:  # whatever a damaged file makes a decoder raise, it is that one image's fault
            reason = (str(error).splitlines() or [""])[0].replace(str(item.path), item.name)
            return None, f"can't be read: {reason or type(error).__name__}", _Stored()

    def _intensities(self, raw: Raw, span: tuple[float, float] | None, item: Item) -> Array:
        values = raw.values
        if not np.isfinite(values).all():
            raise UnusableError("holds values that are not finite")
        if self.options.intensity != "range":
            low, high = span or self._percentiles(values)
            if high <= low:
                raise UnusableError("constant: its percentiles are the same")
        elif (ends := self.options.window or raw.full) is None:
            raise UnusableError("holds 32-bit values: give data.window")
        else:
            low, high = ends
            own = raw.clips and not self.options.window
            if not self.options.clip and not own and (values.min() < low or values.max() > high):
                raise InputError(
                    f"{item.name}: values from {values.min():g} to {values.max():g} lie outside data.window "
                    f"[{low:g}, {high:g}]; widen it, or set data.clip: true"
                )
        found = scaled(values, low, high)
        return 1 - found if raw.inverted else found


def _workers() -> int:
    """Threads that decode: as many as cores, since each may hold an image of MAX_PIXELS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(item: Item) -> int:
    try:
        return 1 if item.fault else max(1, count_pages(item.path))
    except Exception:  # reading it will say what is wrong with it
        return 1
