"""Images from arrays: MedMNIST's .npz files and MNIST's idx files, with the parts that they come in.

Members are read image by image from the archive into the prepared set, so that memory doesn't grow with their size; what a
header declares is judged against the bytes there are before anything is unpacked.
"""

from __future__ import annotations

import gzip
import re
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from bench.data.dataset import ImageDataset, content_fingerprint
from bench.data.mapped import mapped
from bench.data.rules import coloured, resized, stretching
from bench.errors import InputError

PARTS = {"train": "train", "val": "validation", "test": "test"}
MAX_SIDE = 4096
MAX_IMAGES = 5_000_000
MAX_LABEL_BYTES = 100_000_000
MAX_RATIO = 1_000
"""Bytes that one packed byte may become: deflate's own limit is about 1,030, images reach a tenth of that."""
SMALL = 1_000_000
"""Bytes below which no ratio is judged."""
Side = Annotated[int, Field(ge=8, le=MAX_SIDE)]


@dataclass(frozen=True)
class Member:
    """The images of one part, as the header declares them."""

    part: str
    shape: tuple[int, ...]
    """n, height, width, and 3 for colour."""
    open: Callable[[], Any]
    """A context manager of a binary file that stands at the first pixel."""
    labels: NDArray[np.int64]
    name: str
    path: Path
    """The file that it stands in, for messages."""


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str | None = Field(None, description="what the report calls the data; the file's name if left out")
    image_size: tuple[Side, Side] | None = Field(None, description="height, width; as they are stored if left out")
    channels: Literal[1, 3] | None = Field(None, description="1 makes grey by luma; as they are stored if left out")
    classes: tuple[str, ...] | None = Field(None, description="names of the classes, in the order of the labels")
    max_skipped_fraction: float = Field(0.02, ge=0, le=1, description="share of unusable (constant) images put up with")


class _Arrays(ABC):
    """What both kinds share: members in, a prepared set out."""

    version: ClassVar[int] = 1
    kind: ClassVar[str]
    options: Any

    @abstractmethod
    def _members(self) -> list[Member]:
        """Return each part as its header declares it, with its labels."""

    @abstractmethod
    def _files(self) -> list[Path]:
        """Return the files that all parts lie in."""

    def manifest(self) -> list[Any]:
        """Return name, size and time of change of every file.

        Raises:
            InputError: a file that is missing.
        """
        stats = [(path, path.stat()) for path in self._files()]
        return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]

    def prepare(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> ImageDataset:
        """Read every image and write the set into `folder`; `progress` is told (images done, images).

        Raises:
            InputError: the file is damaged, or holds what is no set of images with one label each.
        """
        options = self.options
        members = self._members()
        total = sum(member.shape[0] for member in members)
        if not total:
            raise InputError(f"{self._files()[0]}: holds no images")
        size = options.image_size or self._stored_size(members)
        channels = options.channels or (3 if any(len(member.shape) == 4 for member in members) else 1)
        shape = (total, channels, *size)
        pixels = mapped(folder / "all.npy", np.uint8, shape)
        labels, parts, names = [], [], []
        skipped: list[tuple[str, str]] = []
        done = kept = 0
        for member in members:
            for index, image in enumerate(_images(member)):
                name = f"{member.part}/{index:06d}"
                done += 1
                if progress and done % 256 == 0:
                    progress(done, total)
                if image.min() == image.max():
                    skipped.append((name, "constant: every pixel is the same"))
                    continue
                pixels[kept] = _brought(image, channels, size)
                labels.append(member.labels[index])
                parts.append(member.part)
                names.append(name)
                kept += 1
        if progress:
            progress(total, total)
        if len(skipped) > options.max_skipped_fraction * total:
            raise InputError(
                f"{len(skipped)} of {total} images can't be used ({skipped[0][0]}: {skipped[0][1]}); mend the file, or raise "
                f"data.max_skipped_fraction (now {options.max_skipped_fraction:g})"
            )
        shapes: Counter[tuple[int, int]] = Counter()
        for member in members:
            shapes[member.shape[1], member.shape[2]] += member.shape[0]
        bent = stretching(shapes, size)
        notes = (f"{bent}, another aspect ratio",) if bent else ()
        return self._finish(folder, pixels[:kept], np.array(labels, np.int64), parts, names, skipped, notes)

    def _stored_size(self, members: list[Member]) -> tuple[int, int]:
        height, width = members[0].shape[1:3]
        if any(member.shape[1:3] != (height, width) for member in members):
            raise InputError(f"{self._files()[0]}: parts of different sizes; set data.image_size")
        if min(height, width) < 8:
            raise InputError(
                f"{self._files()[0]}: images of {height}x{width}; set data.image_size to sides of 8 or more"
            )
        return height, width

    def _finish(
        self,
        folder: Path,
        kept: NDArray[Any],
        labels: NDArray[np.int64],
        parts: list[str],
        names: list[str],
        skipped: list[tuple[str, str]],
        notes: tuple[str, ...],
    ) -> ImageDataset:
        options = self.options
        count = int(labels.max()) + 1
        classes = options.classes or tuple(str(number) for number in range(count))
        if len(classes) < count:
            raise InputError(f"data.classes: {len(classes)} names for labels 0 to {count - 1}")
        if len(lost := np.setdiff1d(np.arange(len(classes)), labels)):
            raise InputError(
                f"{self._files()[0]}: no image has label {lost[0]} (class {classes[lost[0]]!r}); labels must be 0 to "
                f"{count - 1} without gaps, and data.classes must name as many"
            )
        pixels = mapped(folder / "pixels.npy", np.uint8, kept.shape)
        for start in range(0, len(kept), 1024):
            pixels[start : start + 1024] = kept[start : start + 1024]
        pixels.flush()
        (folder / "all.npy").unlink()
        subjects = np.array(names, dtype=str)
        rules = {"source": self.kind, "version": self.version, "size": options.image_size, "channels": options.channels}
        dataset = ImageDataset(
            pixels=pixels,
            labels=labels,
            class_names=tuple(classes),
            subjects=subjects,
            names=tuple(names),
            fingerprint=content_fingerprint(pixels, labels, subjects, names, classes, rules),
            title=options.title or self._files()[0].name,
            simulated=False,
            skipped=tuple(skipped),
            notes=notes,
            official=np.array(parts, dtype=str),
        )
        dataset.save(folder)
        return dataset


class NpzArrays(_Arrays):
    """MedMNIST's files: arrays train_images, train_labels, val_ and test_ in one .npz, with their official split."""

    kind: ClassVar[str] = "npz"

    class Options(_Options):
        """What may be set in the suite."""

        file: str = Field(description="the .npz: train_images [n, h, w] or [n, h, w, 3] of uint8, train_labels, ...")
        label_column: int | None = Field(None, ge=0, description="which label, where every image has several")

    def __init__(self, options: Options) -> None:
        self.options = options

    def _files(self) -> list[Path]:
        path = Path(self.options.file).expanduser()
        if not path.is_file():
            raise InputError(f"data.file: there is no file {path} (seen from {Path.cwd()})")
        return [path]

    def _members(self) -> list[Member]:
        (path,) = self._files()
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
                named = [part for part in PARTS if f"{part}_images" in entries]
                if not named:
                    raise InputError(
                        f"{path}: no arrays train_images, val_images or test_images; there are "
                        f"{', '.join(list(entries)[:8]) or 'none'}"
                    )
                return [self._member(path, archive, entries, part) for part in named]
        except InputError:
            raise
        except Exception as error:  # whatever NumPy and the zip reader make of damaged bytes
            raise _unreadable(path, error) from None

    def _member(self, path: Path, archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], part: str) -> Member:
        key = f"{part}_labels"
        if key not in entries:
            raise InputError(f"{path}: {part}_images has no {key} beside it")
        shape = _header(path, archive, entries[f"{part}_images"], f"{part}_images")[1]
        if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
            raise InputError(
                f"{path}: {part}_images is {'x'.join(map(str, shape))}; expected [n, h, w] (grey) or [n, h, w, 3] (colour)"
                f"{', not volumes' if len(shape) >= 4 else ''}"
            )
        dtype, labelled = _header(path, archive, entries[key], key, "iub")
        if np.prod(labelled, dtype=float) * dtype.itemsize > MAX_LABEL_BYTES:
            raise InputError(f"{path}: {key} declares {'x'.join(map(str, labelled))} labels: too many")
        with archive.open(entries[key]) as file:
            labels = np.lib.format.read_array(file, allow_pickle=False)
        labels = self._column(path, key, labels.reshape(len(labels), -1) if labels.ndim else labels.reshape(0, 1))
        entry = entries[f"{part}_images"]
        return _checked(
            path, Member(PARTS[part], shape, partial(_npy, path, entry.filename), labels, f"{part}_images", path)
        )

    def _column(self, path: Path, key: str, labels: NDArray[Any]) -> NDArray[np.int64]:
        column = self.options.label_column
        if labels.shape[1] != 1 and column is None:
            raise InputError(
                f"{path}: {key} holds {labels.shape[1]} labels per image; choose one with data.label_column, from 0"
            )
        if column is not None and column >= labels.shape[1]:
            raise InputError(f"data.label_column: {key} has {labels.shape[1]} labels per image, counted from 0")
        found: NDArray[np.int64] = labels[:, column or 0].astype(np.int64)
        return found


class IdxFiles(_Arrays):
    """MNIST's files: train and t10k (or test) images and labels in the idx format, .gz or not, with that split."""

    kind: ClassVar[str] = "idx"

    class Options(_Options):
        """What may be set in the suite."""

        root: str = Field(
            description="folder with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..., .gz or not"
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def _files(self) -> list[Path]:
        root = Path(self.options.root).expanduser()
        if not root.is_dir():
            raise InputError(f"data.root: there is no folder {root} (seen from {Path.cwd()})")
        found = [path for path in sorted(root.iterdir()) if re.search(r"images[-.]idx3", path.name) and path.is_file()]
        if not found:
            raise InputError(f"data.root: no file like train-images-idx3-ubyte(.gz) in {root}")
        files = []
        for path in found:
            own = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
            twin = own.with_name(own.name.removesuffix(".gz")) if own.name.endswith(".gz") else Path(f"{own}.gz")
            labels = own if own.is_file() else twin
            if not labels.is_file():
                raise InputError(f"{path}: the labels {own.name} are not beside it")
            files += [path, labels]
        return files

    def _members(self) -> list[Member]:
        files = self._files()
        members: list[Member] = []
        for path, labelled in zip(files[::2], files[1::2], strict=True):
            part = "train" if "train" in path.name else "test" if re.search("t10k|test", path.name) else None
            if part is None:
                raise InputError(f"{path}: neither 'train' nor 't10k' or 'test' in its name, so its part is unknown")
            if any(member.part == part for member in members):
                raise InputError(f"{path}: a second file of {part} images; keep one")
            try:
                shape, labels = _idx_shape(path, 3), _idx_labels(labelled)
                members.append(_checked(path, Member(part, shape, partial(_idx, path), labels, path.name, path)))
            except (OSError, EOFError, zlib.error, struct.error) as error:
                raise _unreadable(path, error) from None
        return members


def _checked(path: Path, member: Member) -> Member:
    n, height, width = member.shape[:3]
    if n > MAX_IMAGES or max(height, width) > MAX_SIDE or min(height, width) < 1:
        raise InputError(f"{path}: {member.name} declares {n:,} images of {height}x{width}; this is no set of images")
    if n != len(member.labels):
        raise InputError(
            f"{path}: {member.name} holds {n} images and {len(member.labels)} labels; they must be as many"
        )
    if n and member.labels.min() < 0:
        raise InputError(f"{path}: {member.name} has the label {member.labels.min()}; labels count from 0")
    return member


def _images(member: Member) -> Iterator[NDArray[np.uint8]]:
    one = member.shape[1:]
    size = int(np.prod(one))
    try:
        with member.open() as file:
            for index in range(member.shape[0]):
                content = _exactly(file, size)
                if len(content) < size:
                    raise InputError(
                        f"{member.path}: {member.name} ends after {index} of {member.shape[0]} images; the file is damaged"
                    )
                yield np.frombuffer(content, np.uint8).reshape(one)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise _unreadable(member.path, error) from None


def _exactly(file: IO[bytes], size: int) -> bytes:
    """Read so many bytes, fewer only at the end."""
    content = file.read(size)
    while len(content) < size and (more := file.read(size - len(content))):
        content += more
    return content


def _brought(image: NDArray[np.uint8], channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    if image.shape[:2] == size and (image.ndim == 2) == (channels == 1):
        return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    values = coloured(image.astype(np.float32) / np.float32(255), channels)
    return np.rint(resized(values, size, "stretch") * 255).astype(np.uint8)


def _header(
    path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, kinds: str = ""
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The depth and shape an array declares, once they agree with the bytes that the archive declares for it."""
    if entry.file_size > SMALL and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
        raise InputError(
            f"{path}: {name} would unpack to {entry.file_size:,} bytes from {entry.compress_size:,}: refused"
        )
    with archive.open(entry) as file:
        dtype, shape, length = _npy_header(file)
    if kinds and dtype.kind not in kinds:
        raise InputError(f"{path}: {name} holds {dtype}; whole numbers are needed")
    if not kinds and dtype != np.uint8:
        raise InputError(f"{path}: {name} holds {dtype}; uint8 is needed (0 to 255)")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize + length != entry.file_size:
        raise InputError(
            f"{path}: {name} declares {'x'.join(map(str, shape))}, which its {entry.file_size:,} bytes are not"
        )
    return dtype, shape


def _npy_header(file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran order: save it in C order")
    if any(side < 0 for side in shape):
        raise ValueError(f"a negative size in {shape}")
    return dtype, shape, file.tell()


@contextmanager
def _npy(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        _npy_header(file)
        yield file


def _idx_open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _idx_shape(path: Path, dimensions: int) -> tuple[int, ...]:
    with _idx_open(path) as file:
        magic = file.read(4)
        if magic != bytes((0, 0, 8, dimensions)):
            raise InputError(
                f"{path}: no idx file of {dimensions} dimensions of bytes (starts with {magic.hex() or 'nothing'})"
            )
        shape = struct.unpack(f">{dimensions}I", _exactly(file, 4 * dimensions))
    stored = path.stat().st_size
    declared = int(np.prod(shape, dtype=object))
    if declared > (max(SMALL, MAX_RATIO * stored) if path.suffix == ".gz" else stored):
        raise InputError(f"{path}: declares {'x'.join(map(str, shape))} bytes, which a file of {stored:,} can't hold")
    return shape


def _idx_labels(path: Path) -> NDArray[np.int64]:
    (count,) = _idx_shape(path, 1)
    if count > MAX_IMAGES:
        raise InputError(f"{path}: declares {count:,} labels: too many")
    with _idx_open(path) as file:
        content = _exactly(file, 8 + count)[8:]
    if len(content) < count:
        raise InputError(f"{path}: ends after {len(content)} of {count} labels; the file is damaged")
    return np.frombuffer(content, np.uint8).astype(np.int64)


@contextmanager
def _idx(path: Path) -> Iterator[IO[bytes]]:
    with _idx_open(path) as file:
        _exactly(file, 16)
        yield file


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [""])[0]
    return InputError(f"{path}: can't be read: {reason or type(error).__name__}")
