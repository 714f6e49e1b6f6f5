"""ImageDataset: prepared images in one memory-mapped array, with labels, subjects and a fingerprint.

This file holds, stores and reopens images and keeps the cache of prepared sets. It decodes nothing (that is a source's
work: `phantom`, `images`) and knows no split, model or suite.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.data.mapped import mapped
from bench.errors import BenchError, InputError

if TYPE_CHECKING:
    import torch

SCHEMA = 1
CHUNK = 1024
"""Images that are held in memory at once where a whole set is read."""
BUILDING = re.compile(r"\.\w+-[0-9a-f]{16}-\w{8}")
"""Names of the folders that sets are built in."""
SETTLED_SECONDS = 60.0
"""A folder that is younger may not be locked yet."""

Indices = Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images with classes and subjects; the pixels stay on disk until asked for.

    Raises:
        InputError: the parts do not fit each other (lengths, depth, labels out of range).
    """

    pixels: NDArray[Any]
    """[n, channels, height, width], uint8 or uint16, usually a read-only memory map."""
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    subjects: NDArray[np.str_]
    names: tuple[str, ...]
    """One per image: a relative path, or the like of 'phantom-0012-slice3'."""
    fingerprint: str
    """16 hex digits of the content and every preparation parameter."""
    title: str
    simulated: bool
    skipped: tuple[tuple[str, str], ...] = ()
    """(path, reason) of every image that was left out."""
    notes: tuple[str, ...] = ()
    """What a user should know of how the images were read, a line each."""
    official: NDArray[np.str_] | None = None
    """'train', 'validation' or 'test' of each image, where the source has a split of its own."""

    def __post_init__(self) -> None:
        n = len(self.pixels)
        if self.pixels.ndim != 4 or self.pixels.dtype not in (np.uint8, np.uint16):
            found = f"{self.pixels.dtype} {self.pixels.shape}"
            raise InputError(f"pixels must be uint8 or uint16 [n, channels, height, width], not {found}")
        if not n == len(self.labels) == len(self.subjects) == len(self.names):
            raise InputError(
                f"{n} images, {len(self.labels)} labels, {len(self.subjects)} subjects and {len(self.names)} names: "
                "all four must be equal"
            )
        if n and not 0 <= self.labels.min() <= self.labels.max() < self.num_classes:
            raise InputError(f"labels must be 0 to {self.num_classes - 1}, the classes are {list(self.class_names)}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes, counted by name: a class may have no image."""
        return len(self.class_names)

    def as_one_class(self) -> ImageDataset:
        """Return the same images without their classes, for a model that is to know none."""
        return replace(self, labels=np.zeros_like(self.labels), class_names=("all",))

    def floats(self, indices: Indices) -> torch.Tensor:
        """Return the images as float32 [n, c, h, w], scaled to [0, 1] by their depth's full range."""
        import torch

        chosen = np.array(self.pixels[np.asarray(indices, dtype=np.int64)], dtype=np.float32)
        chosen /= np.float32(np.iinfo(self.pixels.dtype).max)
        return torch.from_numpy(chosen)

    def bytes(self, indices: Indices) -> NDArray[np.uint8]:
        """Return the images as uint8 [n, c, h, w]; 16-bit pixels are scaled and rounded, never clipped."""
        chosen = np.array(self.pixels[np.asarray(indices, dtype=np.int64)])
        if chosen.dtype == np.uint16:  # 65535 = 255 * 257, so this is rounding to the nearest
            return ((chosen.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return chosen.astype(np.uint8, copy=False)

    def save(self, folder: Path) -> None:
        """Write pixels.npy and dataset.json into `folder`, each atomically, the JSON last; it marks the set complete.

        Pixels that are a memory map of that very file are only flushed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / "pixels.npy"
        if isinstance(self.pixels, np.memmap) and self.pixels.filename and _same_file(self.pixels.filename, target):
            self.pixels.flush()
        else:
            temporary = folder / f".pixels-{os.getpid()}.npy"
            copy = mapped(temporary, self.pixels.dtype, self.pixels.shape)
            for start in range(0, len(self), CHUNK):
                copy[start : start + CHUNK] = self.pixels[start : start + CHUNK]
            copy.flush()
            del copy
            temporary.replace(target)
        record = {
            "schema": SCHEMA,
            "title": self.title,
            "simulated": self.simulated,
            "fingerprint": self.fingerprint,
            "shape": list(self.pixels.shape),
            "dtype": str(self.pixels.dtype),
            "class_names": list(self.class_names),
            "labels": self.labels.tolist(),
            "subjects": self.subjects.tolist(),
            "names": list(self.names),
            "skipped": [list(item) for item in self.skipped],
            **({"notes": list(self.notes)} if self.notes else {}),
            **({} if self.official is None else {"official": self.official.tolist()}),
        }
        _write_text(folder / "dataset.json", json.dumps(record))

    @classmethod
    def open(cls, folder: Path) -> ImageDataset:
        """Open a saved set; its pixels are mapped, read-only, not read.

        Raises:
            InputError: there is no complete set in `folder`, or it was damaged.
        """
        try:
            record = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
            if record["schema"] != SCHEMA:
                raise InputError(f"{folder}: written with schema {record['schema']}, this version reads {SCHEMA}")
            pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
            if list(pixels.shape) != record["shape"] or str(pixels.dtype) != record["dtype"]:
                raise InputError(f"{folder}: pixels.npy and dataset.json are not of the same set")
            return cls(
                pixels=pixels,
                labels=np.array(record["labels"], dtype=np.int64),
                class_names=tuple(record["class_names"]),
                subjects=np.array(record["subjects"], dtype=np.str_),
                names=tuple(record["names"]),
                fingerprint=record["fingerprint"],
                title=record["title"],
                simulated=record["simulated"],
                skipped=tuple((path, reason) for path, reason in record["skipped"]),
                notes=tuple(record.get("notes", ())),
                official=np.array(record["official"], dtype=np.str_) if "official" in record else None,
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise InputError(f"{folder}: no complete data set here ({error})") from error


def content_fingerprint(
    pixels: NDArray[Any],
    labels: NDArray[np.int64],
    subjects: NDArray[np.str_],
    names: Sequence[str],
    class_names: Sequence[str],
    parameters: Mapping[str, Any],
) -> str:
    """Return 16 hex digits over every pixel, label, subject and name, and over the preparation's parameters.

    Args:
        pixels: [n, c, h, w]; read in chunks.
        labels: [n].
        subjects: [n].
        names: [n].
        class_names: names of the classes in label order.
        parameters: whatever else the preparation depended on, JSON-able; no paths, so that a moved folder
            stays the same.
    """
    record = [list(class_names), labels.tolist(), subjects.tolist(), list(names), dict(parameters)]
    digest = hashlib.sha256(json.dumps([record, str(pixels.dtype), list(pixels.shape)], sort_keys=True).encode())
    for start in range(0, len(pixels), CHUNK):
        digest.update(np.ascontiguousarray(pixels[start : start + CHUNK]).tobytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Return where prepared sets are kept: the environment's BENCH_CACHE, else the user's cache directory."""
    if named := os.environ.get("BENCH_CACHE"):
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("medgenbench"))


def prepare_dataset(
    source_name: str,
    source: Any,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageDataset:
    """Return the source's data set, from the cache if it was prepared before and nothing has changed since.

    The key covers the source's name and `version`, its options and its manifest. A set is built beside its place and
    moved there when complete, so that neither an interruption nor a second process can leave half a set.

    Args:
        source_name: the name under which the source is registered.
        source: an instance with `options`, `manifest()` and `prepare(folder, progress)`.
        cache: the cache's folder; `cache_folder()` if left out.
        progress: called with (done, total) while preparing.

    Raises:
        InputError: what the source finds wrong with the user's data.
        BenchError: the cache can't be written.
    """
    cache = cache or cache_folder()
    known = [source_name, type(source).version, source.options.model_dump(mode="json"), source.manifest()]
    key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"{source_name}-{key}"
    if folder.exists():
        try:
            return ImageDataset.open(folder)
        except InputError:  # damaged by a full disk or by hand: the source is there, so make it anew
            shutil.rmtree(folder, ignore_errors=True)
    keep(folder, lambda building: source.prepare(building, progress))
    return ImageDataset.open(folder)


def keep(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a set beside its place in the cache and move it there when it is complete.

    Args:
        folder: its place; its name ends with 16 hex digits.
        make: fills the folder that it is given.

    Raises:
        BenchError: the cache can't be written.
    """
    cache = folder.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        sweep(cache)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache))
        try:
            with claimed(building, must=False):
                make(building)
                try:
                    building.rename(folder)
                except OSError:  # another process was first: its set is the same
                    if not folder.exists():
                        raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise BenchError(
            f"the prepared data can't be written to {cache}: {error.strerror or error}; "
            f"{'free some space there, or ' if full else ''}set BENCH_CACHE to another folder"
        ) from error


def sweep(root: Path, names: re.Pattern[str] = BUILDING) -> None:
    """Remove folders that processes which were killed left behind; those at work hold a lock that no crash leaves."""
    for left in root.glob("*"):
        try:
            if names.fullmatch(left.name) and time.time() - left.stat().st_mtime > SETTLED_SECONDS:
                with claimed(left, must=True):
                    shutil.rmtree(left, ignore_errors=True)
        except OSError:  # somebody works at it, or it is gone
            continue


@contextlib.contextmanager
def claimed(folder: Path, *, must: bool) -> Iterator[None]:
    """Hold a lock of the operating system's on a folder.

    Raises:
        OSError: it must be held, and somebody else holds it, or this system has none.
    """
    try:
        import fcntl
    except ImportError:
        if must:
            raise OSError("no locks on folders here") from None
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if must:
                raise
        yield
    finally:
        os.close(descriptor)


def _same_file(left: Any, right: Path) -> bool:
    return right.exists() and Path(left).samefile(right)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
