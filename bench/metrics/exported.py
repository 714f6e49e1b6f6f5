"""Features of any exported network: a TorchScript or an ONNX file, RadImageNet's for instance.

A TorchScript file holds code, which runs when the file is read and used: name files only that you trust. Nothing is read
that a suite doesn't name, and pickled modules (torch.save) are not read at all. ONNX holds a graph and no code; it needs the
package onnxruntime (`pip install medgenbench[onnx]`).
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from bench.errors import UnavailableError
from bench.metrics.features import FeatureExtractor, three_channels
from bench.metrics.networks import Precision, Runner, deviation
from bench.metrics.weights import EXPORTED_VERSION

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Input:
    """What an exported network takes."""

    size: tuple[int, int]
    """Height and width that images are resized to."""
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = ()
    """Per channel, of pixels in [0, 1]; taken out after resizing."""
    std: tuple[float, ...] = ()
    resize: Literal["bilinear", "bicubic"] = "bilinear"

    @property
    def rule(self) -> str:
        """What becomes of an image, in words."""
        channels = "grey repeated to 3 channels" if self.channels == 3 else "colour made grey by luma (Rec. 601)"
        scale = "pixels in [0, 1]"
        if self.mean or self.std:
            mean, std = (" ".join(f"{value:g}" for value in values) or "none" for values in (self.mean, self.std))
            scale += f", mean {mean} taken out, divided by {std}"
        return f"{channels}, resized to {self.size[0]}x{self.size[1]} ({self.resize}, antialiased), {scale}"

    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h2 w2"]:
        """Bring uint8 images to what the network takes.

        Raises:
            UnavailableError: neither one nor three channels.
        """
        if images.shape[1] not in (1, 3):
            three_channels(images)
        x = images.float() / 255
        if self.channels == 1 and x.shape[1] == 3:
            x = (x * x.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, size=self.size, mode=self.resize, antialias=True, align_corners=False)
        x = x.expand(-1, self.channels, -1, -1)
        if self.mean:
            x = x - x.new_tensor(self.mean).view(1, -1, 1, 1)
        return x / x.new_tensor(self.std).view(1, -1, 1, 1) if self.std else x


class ExportedFeatures(FeatureExtractor):
    """What a TorchScript or ONNX network of your own gives: its first output, maps averaged over their places.

    Args:
        name: what the features are called.
        file: .onnx, or a TorchScript file of any other suffix.
        takes: what becomes of an image before the network.
        precision: float32, or bfloat16 by autocast (TorchScript only).
        device: where a TorchScript network runs; ONNX runs on the processor.

    Raises:
        UnavailableError: no such file, damaged, not of these kinds, or onnxruntime is not there.
    """

    version: ClassVar[str] = EXPORTED_VERSION
    batch_size: ClassVar[int] = 16

    def __init__(
        self,
        *,
        name: str,
        file: str | Path,
        takes: Input,
        precision: Precision = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name  # type: ignore[misc]  # other extractors have one name; these are named by the user
        path = Path(file).expanduser()
        onnx = path.suffix.lower() == ".onnx"
        super().__init__(device="cpu" if onnx else device)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UnavailableError(f"features {name!r}: {path} can't be read: {error.strerror}") from None
        self._digest = hashlib.sha256(content).hexdigest()[:16]
        self._kind = "ONNX" if onnx else "TorchScript"
        self._takes = takes
        if onnx and precision != "float32":
            raise UnavailableError(f"features {name!r}: an ONNX file runs in its own precision; leave `precision` out")
        network = _onnx(name, path, content) if onnx else _torchscript(name, path, content, self.device)
        self._runner = Runner(_first(name, network), name=name, device=self.device, precision=precision)
        self._deviation: dict[str, float] = {}
        self.rule = (
            f"{takes.rule}; first output of the {self._kind} network {path.name}, maps averaged over their places"
        )
        self.dimensions = self._width()

    @property
    def details(self) -> dict[str, Any]:
        """Kind and hash of the file, how it is run, and after the self-check how far that is from float32."""
        file = {"file": f"{self._kind} sha256:{self._digest}", "precision": self._runner.precision}
        return super().details | file | self._deviation

    @property
    def backend(self) -> str:
        """Version, the file's hash, what it takes, and the way to run."""
        takes = hashlib.sha256(self._takes.rule.encode()).hexdigest()[:8]
        return f"{self.name}-{self.version}-{self._kind.lower()}-sha256:{self._digest}-{takes}-{self._runner.backend}"

    def _extract(self, images: UInt8[Tensor, "n c h w"]) -> tuple[Tensor, None]:
        return self._runner(self._takes(images))[0], None

    def _width(self) -> int:
        """The number of features, found by trying."""
        with torch.inference_mode():
            batch = torch.zeros(self.batch_size, self._takes.channels, *self._takes.size, dtype=torch.uint8)
            return int(self._extract(batch.to(self.device))[0].shape[1])

    def self_check(self) -> None:
        """Also measure how far bfloat16 is from float32.

        Raises:
            UnavailableError: as for every extractor, or so far away that it computes something else.
        """
        super().self_check()
        self._deviation = deviation(self.name, self._runner, self._takes, self._check_shape(), self.device)


def _first(name: str, network: Callable[[Tensor], Any]) -> Callable[[Tensor], tuple[Tensor, None]]:
    """Take the first output, as a matrix [n, d]."""

    def run(x: Tensor) -> tuple[Tensor, None]:
        try:
            found = network(x)
        except Exception as error:  # whatever a foreign graph raises on a shape that it doesn't take
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise UnavailableError(
                f"features {name!r}: the network fails on images {list(x.shape)}: {last[:200]}"
            ) from error
        if isinstance(found, list | tuple):
            found = found[0] if found else None
        if isinstance(found, dict):
            found = next(iter(found.values()), None)
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(x):
            what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UnavailableError(f"features {name!r}: the network's first output is {what}, not [{len(x)}, features]")
        return (found.flatten(2).mean(dim=2) if found.ndim > 2 else found), None

    return run


def _torchscript(name: str, path: Path, content: bytes, device: torch.device) -> Callable[[Tensor], Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of TorchScript's age
            return torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except Exception as error:  # torch raises whatever it likes on foreign bytes
        raise UnavailableError(
            f"features {name!r}: {path} is damaged or no TorchScript file (torch.jit.script(network).save(FILE) writes one; "
            "files of torch.save are not read)"
        ) from error


def _onnx(name: str, path: Path, content: bytes) -> Callable[[Tensor], Any]:
    try:
        import onnxruntime
    except ImportError:
        raise UnavailableError(
            f"features {name!r}: ONNX files need the package onnxruntime: python -m pip install onnxruntime"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:  # from bytes: what is hashed is what runs, and files beside it are not reached for
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen kinds
        raise UnavailableError(f"features {name!r}: {path} is damaged, no ONNX file, or in several files") from error
    given, wanted = session.get_inputs(), session.get_outputs()[0].name
    if len(given) != 1 or len(given[0].shape) != 4:
        raise UnavailableError(f"features {name!r}: {path} takes {len(given)} inputs; one of [n, C, H, W] is expected")
    fixed = given[0].shape[0] if isinstance(given[0].shape[0], int) else None

    def run(x: Tensor) -> Tensor:
        parts = x.split(fixed) if fixed else (x,)
        found = [session.run([wanted], {given[0].name: part.contiguous().numpy()})[0] for part in parts]
        return torch.cat([torch.from_numpy(part) for part in found])

    return run
