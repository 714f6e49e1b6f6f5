"""Where the weights of the known networks come from: a file that is named, torch's cache, or the networks' own download.

Knows files and hashes only and imports no torch, so that a plan can tell which weights a result would come from. Nothing
here reads what is in a file; nothing in a file is ever executed here.
"""

from __future__ import annotations

import hashlib
import os
import queue
import tempfile
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from bench.errors import UnavailableError

PATIENCE_SECONDS = 15.0
"""How long a server may be silent before the download is given up."""
EXPORTED_VERSION = "1"
"""Of the features of TorchScript and ONNX files: raise it when a change of code changes numbers."""

_CLIP = "https://openaipublic.azureedge.net/clip/models"
_DINO = "https://dl.fbaipublicfiles.com/dinov2"


@dataclass(frozen=True)
class Origin:
    """Where a network's published weights lie, and how they are known again."""

    url: str
    digest: str = ""
    """The beginning of their SHA-256 as their authors tell it; empty if they don't."""
    file: str = ""
    """Name in torch's cache; the address's last part if left out."""

    @property
    def file_name(self) -> str:
        """The name that torch's cache keeps them under."""
        return self.file or Path(urlparse(self.url).path).name


def _clip(name: str, file: str, digest: str) -> Origin:
    return Origin(f"{_CLIP}/{digest}/{file}.pt", digest, f"{name}-{digest}.pt")


def _dino(size: str) -> Origin:
    return Origin(f"{_DINO}/dinov2_vit{size}14/dinov2_vit{size}14_pretrain.pth")


ORIGINS: dict[str, Origin] = {
    "inception": Origin(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    "vgg16": Origin("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
    **{
        name: _clip(name, file, digest)
        for name, file, digest in (
            ("clip-rn50", "RN50", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
            ("clip-rn101", "RN101", "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"),
            ("clip-rn50x4", "RN50x4", "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"),
            ("clip-rn50x16", "RN50x16", "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"),
            ("clip-rn50x64", "RN50x64", "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"),
            ("clip-vit-b-32", "ViT-B-32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
            ("clip-vit-b-16", "ViT-B-16", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
            ("clip-vit-l-14", "ViT-L-14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
            ("clip-vit-l-14-336px", "ViT-L-14-336px", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
        )
    },
    **{f"dinov2-vit-{size}-14": _dino(size) for size in ("s", "b", "l", "g")},
}  # fmt: skip
"""Features -> the weights of their network; the addresses are those that torch-fidelity downloads from."""


def variable(name: str) -> str:
    """The environment variable that may name the weights' file of these features: BENCH_INCEPTION_WEIGHTS."""
    return f"BENCH_{name.upper().replace('-', '_')}_WEIGHTS"


def advice(name: str) -> str:
    """What a user can do who has no weights."""
    return f"name a file with {variable(name)} or `evaluation.extractors.{name}.weights`, or leave the features {name!r} out"


def cache_file(name: str) -> Path:
    """Where torch keeps these weights once they are downloaded."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints" / ORIGINS[name].file_name


def known_file(name: str, named: str | Path | None = None) -> Path | None:
    """The file that would be read, as far as it is there: named, or the environment's, or in torch's cache."""
    given = named or os.environ.get(variable(name))
    path = Path(given).expanduser() if given else cache_file(name)
    return path if path.is_file() else None


def find_weights(name: str, named: str | Path | None = None) -> Path:
    """Return the file with the weights of these features: named, or the environment's, or cached, or downloaded.

    Raises:
        UnavailableError: a named file is not there, what lies in the cache is damaged, or nothing could be downloaded.
    """
    for where, value in ((f"{name} weights", named), (variable(name), os.environ.get(variable(name)))):
        if value:
            path = Path(value).expanduser()
            if not path.is_file():
                raise UnavailableError(f"{where}: there is no file {path}; {advice(name)}")
            return path
    path = cache_file(name)
    if not path.is_file():
        _download(name, path)
    elif not sha256(path).startswith(ORIGINS[name].digest):
        raise UnavailableError(f"the {name} weights in torch's cache are damaged; remove {path}, or {advice(name)}")
    return path


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def described(name: str, digest: str) -> str:
    """Return 'official' for the published weights where their hash is known, or else the beginning of the hash."""
    expected = ORIGINS[name].digest
    return "official" if expected and digest.startswith(expected) else f"custom sha256:{digest[:16]}"


def doubt(name: str, digest: str) -> str:
    """Say what a reader must know of numbers on a file of weights; '' for the published ones.

    Tensors of the right shapes compute something whatever is in them, so only the hash tells whose they are.
    """
    if described(name, digest) == "official":
        return ""
    if ORIGINS[name].digest:
        return f"weights not the official ones (sha256 {digest[:16]})"
    return f"weights unverified: their authors publish no hash (sha256 {digest[:16]})"


def _download(name: str, path: Path) -> None:
    """Fetch the weights, check their hash where it is known, and only then put them in their place.

    The connection is opened in a thread: a resolver without network may keep a call waiting for minutes, timeout or not.
    """
    opened: queue.Queue[Any] = queue.Queue()

    def connect() -> None:
        try:
            opened.put(urllib.request.urlopen(ORIGINS[name].url, timeout=PATIENCE_SECONDS))
        except Exception as error:  # whatever it is, it is the reason to show
            opened.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = opened.get(timeout=PATIENCE_SECONDS)
    except queue.Empty:
        answer = TimeoutError(f"no answer within {PATIENCE_SECONDS:.0f} s")
    if isinstance(answer, Exception):
        raise UnavailableError(f"the {name} weights can't be downloaded ({answer}); {advice(name)}") from answer
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    digest = hashlib.sha256()
    try:
        with answer, os.fdopen(handle, "wb") as file:
            while chunk := answer.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
        if not digest.hexdigest().startswith(ORIGINS[name].digest):
            raise UnavailableError(
                f"the downloaded {name} weights are damaged (wrong hash); try again, or {advice(name)}"
            )
        Path(temporary).replace(path)
    except OSError as error:
        raise UnavailableError(f"the {name} weights can't be downloaded ({error}); {advice(name)}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
