"""What extractors with a network share: weights read safely, float32 or bfloat16, plain or compiled, and how far from plain.

A network is taken apart in two: images are resized and normalised in float32, always plainly; the trunk behind that may be
compiled or run under bfloat16. What decides the numbers stands in the backend, and so in ids; how far the numbers are from
plain float32 is measured on fixed images and stands in the details.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import threading
import warnings
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from bench.errors import UnavailableError
from bench.metrics.features import FeatureExtractor, Images, check_images, three_channels
from bench.metrics.weights import ORIGINS, advice, described, doubt, find_weights, sha256

Precision = Literal["float32", "bfloat16"]
CHECKED = 16
"""Fixed images that the deviation from plain float32 is measured on."""
MOST_DEVIATION = {"float32": 1e-3, "bfloat16": 0.1}
"""Relative deviation of the features beyond which a backend is refused: it computes something else."""


class Runner:
    """A trunk as it is run.

    Args:
        trunk: normalised images -> features, logits or None; in evaluation mode.
        name: of the features, for messages.
        device: where it runs.
        precision: float32, or bfloat16 by autocast.
        compiled: whether it is compiled and its weights frozen (torch.compile, inductor).

    Raises:
        UnavailableError: nothing here can compile.
    """

    def __init__(
        self,
        trunk: Callable[[Tensor], Any],
        *,
        name: str,
        device: torch.device,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        if compiled and (lack := no_compiler(device)):
            raise UnavailableError(
                f"features {name!r}: compiled is asked for, but {lack}; install it or leave `compiled` out"
            )
        self._name, self._device, self._trunk = name, device, trunk
        self.precision: Precision = precision
        self.compiled = compiled
        # one shape only: batches are of one size, and resizing lies before the trunk
        self._run = torch.compile(trunk, dynamic=False, options={"freezing": True}) if compiled else trunk

    @property
    def plain(self) -> bool:
        """Whether this is float32, not compiled."""
        return self.precision == "float32" and not self.compiled

    @property
    def backend(self) -> str:
        """The name of this way to run, as it stands in backends and ids."""
        return f"{self.precision}-{'compiled' if self.compiled else 'eager'}"

    def __call__(self, images: Float[Tensor, "n c h w"], *, plain: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return features and logits of normalised images; `plain`: in float32 and not compiled, whatever was asked for."""
        if plain:
            return self._trunk(images)
        lowered = torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with lowered:
            if not self.compiled:
                return self._run(images)
            try:
                with torch.no_grad():
                    return self._run(images)
            except Exception as error:  # dynamo, inductor and the compiler behind them each have errors of their own
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise UnavailableError(
                    f"features {self._name!r} can't be compiled here ({first[:200]}); leave `compiled` out"
                ) from error


def no_compiler(device: torch.device) -> str:
    """Say what is missing to compile for this device; empty if nothing is."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "the package triton is missing"
    named = os.environ.get("CXX")
    found = any(shutil.which(name) for name in ((named,) if named else ("g++", "clang++", "cl")))
    return "" if found else f"there is no C++ compiler ({named or 'g++ or clang++'})"


class NetworkFeatures(FeatureExtractor):
    """Features of a known network, from a file of its weights.

    Args:
        weights: file with the weights; else the environment's BENCH_<NAME>_WEIGHTS; else the file in torch's cache,
            downloaded if it is not there.
        precision: float32, or bfloat16 by autocast: faster where the processor computes in it, with other numbers.
        compiled: compile and freeze the network: faster, the numbers equal to float32's rounding; takes a minute first.
        device: where the network runs.

    Raises:
        UnavailableError: no weights can be had, the file is damaged or another network's, or nothing here can compile.
    """

    network: ClassVar[bool] = True
    """Whether weights, precision and compilation can be chosen; read by suites without importing this."""
    batch_size: ClassVar[int] = 16

    def __init__(
        self,
        *,
        weights: str | Path | None = None,
        precision: Precision = "float32",
        compiled: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(device=device)
        path = find_weights(self.name, weights)
        digest = sha256(path)
        self._weights, self.doubt = described(self.name, digest), doubt(self.name, digest)
        trunk = self._build(path).requires_grad_(False).eval()
        trunk = trunk.to(self.device).to(memory_format=torch.channels_last)
        self._runner = Runner(trunk, name=self.name, device=self.device, precision=precision, compiled=compiled)
        self._deviation: dict[str, float] = {}

    @property
    def details(self) -> dict[str, Any]:
        """Which weights, how they are run, and after the self-check how far that is from plain float32."""
        how = {"precision": self._runner.precision, "compiled": self._runner.compiled}
        return super().details | {"weights": self._weights} | how | self._deviation

    @property
    def backend(self) -> str:
        """Name, version, weights and way to run."""
        return f"{super().backend}-{self._weights}-{self._runner.backend}"

    @abstractmethod
    def _build(self, path: Path) -> nn.Module:
        """Build the trunk on the weights in a file; normalised images -> features, logits or None."""

    @abstractmethod
    def _prepare(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Give images the channels, size and scale that the trunk takes."""

    def _extract(self, images: UInt8[Tensor, "n c h w"]) -> tuple[Tensor, Tensor | None]:
        return self._runner(self._prepare(images))

    def self_check(self) -> None:
        """Also measure how far this backend is from plain float32.

        Raises:
            UnavailableError: as for every extractor, or so far away that it computes something else.
        """
        super().self_check()
        self._deviation = deviation(self.name, self._runner, self._prepare, self._check_shape(), self.device)


def deviation(
    name: str, runner: Runner, prepare: Callable[[Tensor], Tensor], shape: tuple[int, int, int], device: torch.device
) -> dict[str, float]:
    """Return how far a runner's features of fixed images are from plain float32; nothing for plain float32 itself.

    Norm of the difference over the norm of the features, and over the norm of what the images differ by: the second is
    what a distance between sets of images feels.

    Raises:
        UnavailableError: beyond `MOST_DEVIATION`.
    """
    if runner.plain:
        return {}
    with torch.inference_mode():
        x = prepare(torch.from_numpy(varied_check_images(shape)).to(device))
        found, expected = (runner(x, plain=plain)[0].double() for plain in (False, True))
    distance = (found - expected).norm()
    relative = float(distance / expected.norm())
    if not relative <= MOST_DEVIATION[runner.precision]:
        raise UnavailableError(
            f"features {name!r}: {runner.backend} gives other features than plain float32 (relative difference "
            f"{relative:.2g}); leave it out"
        )
    spread = float(distance / (expected - expected.mean(dim=0)).norm())
    return {"deviation_from_float32": relative, "deviation_over_spread": spread}


def varied_check_images(shape: tuple[int, int, int]) -> Images:
    """Return `CHECKED` fixed images: the two check images moved, mirrored in grey, dimmed."""
    pair = check_images(shape)
    found = []
    for step in range(CHECKED // 2):
        moved = np.roll(pair, (5 * step, 3 * step), axis=(2, 3))
        moved = 255 - moved if step % 2 else moved
        found.append((moved // (1 + step // 4)).astype(np.uint8))
    return np.concatenate(found)


def read_weights(name: str, path: Path) -> dict[str, Tensor]:
    """Read a known network's weights; see `read_tensors`."""
    return read_tensors(path, advice(name))


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Read a file of tensors; anything else than tensors in it is refused unread.

    Args:
        path: the file.
        remedy: what a user can do who has no such file.

    Raises:
        UnavailableError: damaged, or no named tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise whatever they like on foreign bytes
        raise UnavailableError(f"{path} is damaged or holds no weights ({type(error).__name__}); {remedy}") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UnavailableError(f"{path} holds something else than named weights; {remedy}")
    return state


@contextlib.contextmanager
def fitting(name: str, path: Path) -> Iterator[None]:
    """Turn what a network's constructor raises on foreign weights into one line."""
    try:
        yield
    except (RuntimeError, AttributeError, KeyError, IndexError, ValueError, AssertionError, TypeError) as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise UnavailableError(
            f"{path} holds another network's weights: {first[0].strip()[:200]}; {advice(name)}"
        ) from error


def tensorflow_resize(images: UInt8[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c side side"]:
    """Resize as TensorFlow 1 did (bilinear, not antialiased), with torch-fidelity's own function; grey values as floats."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(side, side), align_corners=False)


def as_photograph(
    images: UInt8[Tensor, "n c h w"], side: int, mean: Tensor, std: Tensor
) -> Float[Tensor, "n 3 side side"]:
    """Repeat grey to three channels, resize as TensorFlow 1 did, take channel means and deviations out.

    Raises:
        UnavailableError: neither one nor three channels.
    """
    three_channels(images)
    x = tensorflow_resize(images, side)  # a grey image is resized once, not three times
    return (x - mean.to(x).view(1, 3, 1, 1)) / std.to(x).view(1, 3, 1, 1)


LOCK = threading.RLock()


@contextlib.contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Put something else in the place of a module's attribute for a while; one at a time."""
    with LOCK:
        original = getattr(module, name)
        setattr(module, name, value)
        try:
            yield
        finally:
            setattr(module, name, original)


def read_archive(name: str, path: Path) -> dict[str, Tensor]:
    """Read weights from a TorchScript archive, as CLIP's are published, or from a file of tensors.

    An archive may hold code that runs as it is read: the published one alone is, known by its hash.

    Raises:
        UnavailableError: neither of the two.
    """
    content = path.read_bytes()
    scripted = False
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            scripted = any(entry.endswith("constants.pkl") for entry in archive.namelist())
    if not scripted:
        return read_weights(name, path)
    if not (digest := ORIGINS[name].digest) or not hashlib.sha256(content).hexdigest().startswith(digest):
        raise UnavailableError(
            f"{path} is a TorchScript archive, which may hold code, and not the published one (its hash is another): save its "
            f"tensors alone, torch.save(torch.jit.load(FILE).state_dict(), OTHER), where you trust it; {advice(name)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of TorchScript's age
            return dict(torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict())
    except Exception as error:
        raise UnavailableError(
            f"{path} is damaged or holds no weights ({type(error).__name__}); {advice(name)}"
        ) from error
