"""A folder at any address that fsspec knows: objects are put there, read, listed and removed, and that is all.

It promises what every store keeps: an object is written whole under a name that nobody else writes to. Appending, renaming
and locking are not asked for, and who reads compares with a digest (`bench.executors.parcels`). It knows neither jobs nor Ray.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from bench.errors import BenchError, InputError

SMALL_BYTES = 8_000_000
"""What is not larger goes in one request, and through memory."""
CHUNK_BYTES = 4_000_000
ANSWER_SECONDS = 30.0
"""For one request: the stores' packages wait for many minutes before they say that nobody answers."""
SLOWEST = 100_000
"""Bytes a second of a link that is slow and not dead."""
PAUSE_SECONDS = 2.0
"""Until a store that did not answer is asked again."""
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
}

LIKE_URL = re.compile(r"[a-z][a-z0-9+]+:|(s3a?|gc?s|abfss?|az|https?|file)//", re.IGNORECASE)
"""Begins no folder's name that anybody means."""

T = TypeVar("T")


class DepotError(BenchError):
    """The address can't be reached, read or written, which may pass."""


class Depot:
    """A folder at an address.

    Args:
        address: a URL that fsspec knows, or a path. Credentials are what the store's own package finds: its environment,
            its files, the machine's role.

    Raises:
        InputError: no such kind of address, its package is missing, or it holds a password.
    """

    def __init__(self, address: str) -> None:
        scheme, separator, rest = address.partition("://")
        if separator and ":" in rest.rpartition("@")[0]:
            where = "the store's package takes it from its environment or its own files"
            raise InputError(f"--share {scheme}://...: leave the password out of the address; {where}")
        if not address.strip() or (separator and not rest.strip("/")):
            raise InputError(f"--share {address!r}: names nothing; give a bucket, such as s3://bucket/x, or a folder")
        if not separator and LIKE_URL.match(address):
            remedy = "a URL has :// behind its kind, as s3://bucket/x; for a folder of this name write ./ in front"
            raise InputError(f"--share {address}: a URL or a folder? {remedy}")
        if separator:
            scheme, address = scheme.lower(), f"{scheme.lower()}://{rest.rstrip('/')}"
        else:
            address = str(Path(address).expanduser().absolute())
        try:
            from fsspec.core import url_to_fs

            self._fs: Any
            self._fs, root = url_to_fs(address)
        except ImportError as error:
            remedy = f"pip install {PACKAGES.get(scheme, 'the package that it names')}, here and on every node"
            raise InputError(f"--share {address}: {_first_line(error)}; {remedy}") from None
        except Exception as error:  # of any store's package
            raise InputError(f"--share {address}: no address that fsspec knows: {_first_line(error)}") from None
        self._root = root.rstrip("/")
        self._local = bool(getattr(self._fs, "local_file", False))
        self.address = f"file://{self._root}" if self._local else address
        """As it can be given to another process, whatever folder that one works in."""

    def put(self, key: str, source: IO[bytes], size: int) -> None:
        """Write an object: so many bytes from here on, or as many as there are.

        Raises:
            DepotError: it can't be written.
        """
        path = self._path(key)
        with self._telling("can't be written"):
            try:
                self._put(path, source, size)
            except FileNotFoundError:  # neither a folder on a disk nor an object store: folders must be made
                if self._local or getattr(self._fs, "async_impl", False):
                    raise
                self._ask("makedirs", path.rpartition("/")[0], exist_ok=True)
                source.seek(0)
                self._put(path, source, size)

    def put_bytes(self, key: str, content: bytes) -> None:
        """Write a small object.

        Raises:
            DepotError: it can't be written.
        """
        self.put(key, io.BytesIO(content), len(content))

    def read(self, key: str, size: int = 0) -> bytes | None:
        """Return a small object, of about this size where that is known; None if there is none.

        Raises:
            DepotError: the store does not answer.
        """
        with self._telling("can't be read"):
            try:
                content: bytes = self._ask("cat_file", self._path(key), size=size)
            except FileNotFoundError:
                return None
            return content

    def fetch(self, key: str, size: int) -> Iterator[bytes]:
        """Yield an object of about this size in parts; nothing if there is none.

        Raises:
            DepotError: the store does not answer.
        """
        if size <= SMALL_BYTES:
            yield self.read(key, size) or b""
            return
        with (
            self._telling("can't be read"),
            contextlib.suppress(FileNotFoundError),
            self._fs.open(self._path(key), "rb") as file,
        ):
            while part := file.read(CHUNK_BYTES):
                yield part

    def size(self, key: str) -> int | None:
        """Return the size of an object; None if there is none.

        Raises:
            DepotError: the store does not answer.
        """
        with self._telling("can't be read"):
            try:
                self._fs.invalidate_cache()
                return int(self._ask("size", self._path(key)))
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> set[str]:
        """Return what lies directly below a folder; nothing if there is no such folder.

        Raises:
            DepotError: the store does not answer.
        """
        with self._telling("can't be read"):
            try:
                self._fs.invalidate_cache()
                found: list[str] = self._ask("ls", self._path(folder), detail=False)
            except FileNotFoundError:
                return set()
            return {path.rstrip("/").rpartition("/")[2] for path in found}

    def remove(self, key: str) -> None:
        """Remove an object, if it is there.

        Raises:
            DepotError: the store does not answer.
        """
        with self._telling("can't be written"), contextlib.suppress(FileNotFoundError):
            self._ask("rm_file", self._path(key))

    def clear(self, folder: str) -> None:
        """Remove a folder with all that is in it.

        Raises:
            DepotError: the store does not answer.
        """
        path = self._path(folder)
        with self._telling("can't be written"), contextlib.suppress(FileNotFoundError):
            if self._local:
                shutil.rmtree(path, ignore_errors=True)
                return
            self._fs.invalidate_cache()
            if found := self._ask("find", path):
                self._ask("rm", found)

    def probe(self) -> None:
        """Write an object, read it and remove it.

        Raises:
            InputError: the address can't be used.
        """
        key, content = f".probe-{secrets.token_hex(6)}", b"of medgenbench, which looks whether it can write here\n"
        try:
            self.put_bytes(key, content)
            found = self.read(key)
            self.remove(key)
        except DepotError as error:
            raise InputError(str(error)) from None
        if found != content:
            raise InputError(f"--share {self.address}: what is written there can't be read again")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _ask(self, method: str, *arguments: Any, size: int = 0, **more: Any) -> Any:
        """Call a method of the store that moves about so many bytes; one over a network has its time to answer in."""
        if not getattr(self._fs, "async_impl", False):
            return getattr(self._fs, method)(*arguments, **more)
        from fsspec.asyn import sync
        from fsspec.exceptions import FSTimeoutError

        seconds = ANSWER_SECONDS + size / SLOWEST
        try:
            return sync(self._fs.loop, getattr(self._fs, f"_{method}"), *arguments, timeout=seconds, **more)
        except FSTimeoutError:
            raise TimeoutError(f"no answer in {seconds:.0f} s") from None

    def _put(self, path: str, source: IO[bytes], size: int) -> None:
        if self._local:  # where who reads would see half a file
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(f"{path}.{os.getpid()}-{secrets.token_hex(4)}.part")
            try:
                with temporary.open("wb") as file:
                    _copy(source, file, size)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        elif size <= SMALL_BYTES:
            self._ask("pipe_file", path, source.read(size), size=size)
        else:
            with self._fs.open(path, "wb") as file:
                _copy(source, file, size)

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BenchError, GeneratorExit):
            raise
        except Exception as error:  # every store's package has errors of its own
            raise DepotError(f"--share {self.address}: {what}: {_first_line(error)}") from None


def patiently(function: Callable[[], T], seconds: float) -> T:
    """Call a function that asks a store, again and again for so long if the store does not answer.

    Raises:
        DepotError: it did not answer for so long.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return function()
        except DepotError:
            if time.monotonic() >= until:
                raise
            time.sleep(PAUSE_SECONDS)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size > 0 and (part := source.read(min(size, CHUNK_BYTES))):
        target.write(part)
        size -= len(part)


def _first_line(error: BaseException) -> str:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (told.strip().splitlines() or [type(error).__name__])[0]
