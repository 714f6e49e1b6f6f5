"""Features of the Inception network that FID is usually taken with, as torch-fidelity has it ('inception-v3-compat').

The network and its resizing are torch-fidelity's; here are finding the weights, making sure of them, and making it faster
without other numbers. A weights file is read as plain tensors only: nothing in it is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.errors import UnavailableError
from bench.metrics.features import FeatureExtractor, three_channels
from bench.seeds import forked

VARIABLE = "BENCH_INCEPTION_WEIGHTS"
PATIENCE_SECONDS = 15.0
"""How long a server may be silent before the download is given up."""
_HELP = f"name a file with {VARIABLE} or `inception_weights`, or leave the features 'inception' out"


class InceptionFeatures(FeatureExtractor):
    """2,048 numbers and 1,008 logits of Inception v3 trained on photographs: the features of published FIDs.

    Args:
        weights: file with the weights; else the environment's BENCH_INCEPTION_WEIGHTS; else torch-fidelity's file in
            torch's cache, downloaded if it is not there.
        device: where the network runs.

    Raises:
        UnavailableError: no weights can be had, or the file is damaged or another network's.
    """

    name: ClassVar[str] = "inception"
    version: ClassVar[str] = "1"
    batch_size: ClassVar[int] = 16
    rule = (
        "grey repeated to 3 channels, resized to 299x299 as TensorFlow 1 did (bilinear, not antialiased), pixels in "
        "[-1, 1]; pool features (2048) and logits without bias (1008) of torch-fidelity's inception-v3-compat"
    )
    dimensions = 2048
    has_logits = True

    def __init__(self, *, weights: str | Path | None = None, device: torch.device | str = "cpu") -> None:
        super().__init__(device=device)
        path = find_weights(weights)
        state, digest = _read(path)
        official = digest.startswith(_official()[1])
        self._weights = "official" if official else f"custom sha256:{digest[:16]}"
        network = _build(state, path)
        _fold(network)
        self._network = network.to(self.device).to(memory_format=torch.channels_last)

    @property
    def details(self) -> dict[str, Any]:
        """Which weights these are: 'official', or a hash of the file."""
        return super().details | {"weights": self._weights}

    @property
    def backend(self) -> str:
        """Name, version and weights."""
        return f"{super().backend}-{self._weights}"

    def _extract(self, images: UInt8[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
        features, logits = self._network(three_channels(images))
        return features, logits


def find_weights(named: str | Path | None = None) -> Path:
    """Return the file with the weights: named, or the environment's, or cached, or downloaded.

    Raises:
        UnavailableError: a named file is not there, or nothing could be downloaded.
    """
    for where, value in (("inception weights", named), (VARIABLE, os.environ.get(VARIABLE))):
        if value:
            path = Path(value).expanduser()
            if not path.is_file():
                raise UnavailableError(f"{where}: there is no file {path}; {_HELP}")
            return path
    url, prefix = _official()
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.is_file():
        _download(url, path, prefix)
    elif not _sha256(path).startswith(prefix):
        raise UnavailableError(f"the Inception weights in torch's cache are damaged; remove {path}, or {_HELP}")
    return path


def weights_at_hand() -> bool:
    """Whether weights are named by the environment or lie in torch's cache, so that nothing needs to be downloaded."""
    if os.environ.get(VARIABLE):
        return True
    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(_official()[0]).path).name).is_file()


def _official() -> tuple[str, str]:
    """Address of torch-fidelity's weights, and the beginning of their SHA-256, which their name ends in."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as URL

    return URL, Path(urlparse(URL).path).stem.rpartition("-")[2]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: Path, prefix: str) -> None:
    """Fetch the weights, check their hash, and only then put them in their place.

    The connection is opened in a thread: a resolver without network may keep a call waiting for minutes, timeout or not.
    """
    opened: queue.Queue[Any] = queue.Queue()

    def connect() -> None:
        try:
            opened.put(urllib.request.urlopen(url, timeout=PATIENCE_SECONDS))
        except Exception as error:  # whatever it is, it is the reason to show
            opened.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = opened.get(timeout=PATIENCE_SECONDS)
    except queue.Empty:
        answer = TimeoutError(f"no answer within {PATIENCE_SECONDS:.0f} s")
    if isinstance(answer, Exception):
        raise UnavailableError(f"the Inception weights can't be downloaded ({answer}); {_HELP}") from answer
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    digest = hashlib.sha256()
    try:
        with answer, os.fdopen(handle, "wb") as file:
            while chunk := answer.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
        if not digest.hexdigest().startswith(prefix):
            raise UnavailableError(f"the downloaded Inception weights are damaged (wrong hash); try again, or {_HELP}")
        Path(temporary).replace(path)
    except OSError as error:
        raise UnavailableError(f"the Inception weights can't be downloaded ({error}); {_HELP}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a file of tensors and its SHA-256; anything else than tensors in it is refused unread."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise whatever they like on foreign bytes
        raise UnavailableError(f"{path} is damaged or holds no weights ({type(error).__name__}); {_HELP}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UnavailableError(f"{path} holds something else than named weights; {_HELP}")
    return state, _sha256(path)


def _build(state: dict[str, Tensor], path: Path) -> Any:
    """Build torch-fidelity's network on these weights.

    Its constructor reads a named file by unpickling whatever is in it, so it is given tensors that were read safely, in
    place of the ones it would download.
    """
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    with _replaced(inception, "load_state_dict_from_url", lambda *_, **__: state), forked(0, "inception"):
        try:
            return inception.FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], verbose=False
            )
        except (RuntimeError, AttributeError) as error:
            first = str(error).splitlines()[1:2] or [str(error)]
            raise UnavailableError(
                f"{path} holds another network's weights: {first[0].strip()[:200]}; {_HELP}"
            ) from error


_LOCK = threading.RLock()


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    with _LOCK:
        original = getattr(module, name)
        setattr(module, name, value)
        try:
            yield
        finally:
            setattr(module, name, original)


def _fold(network: nn.Module) -> None:
    """Fold each batch norm into its convolution, in float64: fewer passes over memory, features equal to about 1e-6."""
    for module in network.modules():
        convolution, norm = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(convolution.double(), norm.double()).float().requires_grad_(False)
            module.bn = nn.Identity()
