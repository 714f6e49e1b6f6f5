r"""LPIPS, a distance of two images that was fitted to what people see (Zhang et al. 2018, arXiv 1801.03924), on VGG-16.

    d(x, y) = sum over layers l of mean over positions of  w_l . (f_l(x) - f_l(y))^2,   f_l scaled to length 1 at each place

The network knows photographs; on medical images d says how alike two images look to it, not to a radiologist. Its weights
are half a gigabyte and need permission of nobody, but they are not fetched in silence: put both files where torch keeps
what it downloads, or name their folder. They are read as plain tensors only.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.errors import UnavailableError
from bench.metrics.features import three_channels
from bench.metrics.networks import read_tensors
from bench.metrics.statistics import Array
from bench.metrics.weights import doubt, sha256

Images = NDArray[np.uint8]

VARIABLE = "BENCH_LPIPS_WEIGHTS"
VGG16 = "vgg16-397923af.pth"
"""torchvision's weights: https://download.pytorch.org/models/vgg16-397923af.pth"""
LINEAR = "weights-vgg16-lpips.pth"
"""The layers' weights, version 0.1: https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"""
ENDS = (4, 9, 16, 23, 30)
"""Where VGG-16's features are cut: after the last ReLU of each block."""
# what the authors subtract and divide by, of pixels in [-1, 1]
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_CHUNK = 16


class LPIPS:
    """LPIPS of image pairs; lower is more alike, 0 for equal images, seldom above 1.

    Args:
        folder: with the two files of weights; else the environment's BENCH_LPIPS_WEIGHTS, else torch's own.
        device: where the network runs.

    Raises:
        UnavailableError: a file is not there, damaged or another network's.
    """

    def __init__(self, *, folder: str | Path | None = None, device: torch.device | str = "cpu") -> None:
        from torchvision.models import vgg16

        named = folder or os.environ.get(VARIABLE)
        home = Path(named).expanduser() if named else Path(torch.hub.get_dir()) / "checkpoints"
        state = {key: value for key, value in _read(home / VGG16).items() if key.startswith("features.")}
        linear = _read(home / LINEAR)
        with torch.device("meta"):
            network = vgg16(weights=None).features
        try:
            network.load_state_dict({key.removeprefix("features."): value for key, value in state.items()}, assign=True)
            weights = [linear[f"lin{index}.model.1.weight"].flatten() for index in range(len(ENDS))]
        except (RuntimeError, KeyError) as error:
            first = str(error).splitlines()[0]
            raise UnavailableError(f"LPIPS: the files in {home} hold another network's weights ({first})") from None
        self.doubt = doubt("vgg16", sha256(home / VGG16))
        """What must stand beside every number on these weights; '' for the published ones."""
        self._device = torch.device(device)
        self._network: nn.Sequential = network.eval().requires_grad_(False).to(self._device)
        self._weights = [weight.float().to(self._device) for weight in weights]

    def pairs(self, *, first: Images, second: Images) -> Array:
        """Return the distance of each pair of images, uint8 [n, C, H, W], shape [n]; grey is repeated to 3 channels.

        Raises:
            ValueError: different shapes, or another dtype.
            UnavailableError: neither one nor three channels.
        """
        if first.shape != second.shape or first.ndim != 4 or first.dtype != np.uint8 or second.dtype != np.uint8:
            raise ValueError(
                f"expected two sets of uint8 images [n, C, H, W], got {list(first.shape)} and {list(second.shape)}"
            )
        found = []
        for start in range(0, len(first), _CHUNK):
            one, other = (self._layers(side[start : start + _CHUNK]) for side in (first, second))
            parts = [
                ((a - b) ** 2 * weight[:, None, None]).sum(dim=1).mean(dim=(1, 2))
                for a, b, weight in zip(one, other, self._weights, strict=True)
            ]
            found.append(torch.stack(parts).sum(dim=0).double().cpu().numpy())
        return np.concatenate(found) if found else np.empty(0)

    def _layers(self, images: Images) -> list[Float[Tensor, "n c h w"]]:
        """Return the five blocks' outputs, of length 1 at each place."""
        x = three_channels(torch.from_numpy(np.array(images)).to(self._device)).float() / 127.5 - 1
        shift, scale = (torch.tensor(values, device=self._device)[:, None, None] for values in (_SHIFT, _SCALE))
        found, start = [], 0
        with torch.inference_mode():
            x = (x - shift) / scale
            for end in ENDS:
                x = self._network[start:end](x)
                found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
                start = end
        return found


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UnavailableError(
            f"LPIPS needs {VGG16} (https://download.pytorch.org/models) and {LINEAR} "
            f"(https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0); there is no {path.name} in {path.parent}: "
            f"put both there, or name their folder with {VARIABLE}"
        )
    return read_tensors(path, f"put LPIPS's {path.name} there anew")
