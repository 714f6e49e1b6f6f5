"""Walks through a family's latent space, from one drawn image to another: does what lies between look like the data?

Only draws of the model are joined, never encodings of real images, so that nothing of a patient is shown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bench.model import GenerativeModel
from bench.sampling import quantised
from bench.seeds import forked, torch_rng
from bench.store import write_with

FILE = "interpolations.npz"
STEPS = 8
"""Images of a walk, both ends included."""
ROWS = 4
"""Walks of a family without classes; with classes there is one for each, of the first `MOST`."""
MOST = 8


def write_interpolations(run: Path, model: GenerativeModel, seed: int, device: torch.device) -> None:
    """Write images (uint8 [walks, steps, C, H, W]) and labels [walks] beside a run; nothing without latents."""
    labels = np.arange(min(model.num_classes, MOST)) if model.conditional else np.zeros(ROWS, np.int64)
    images = interpolations(model, labels, seed, device)
    if images is None:
        (run / FILE).unlink(missing_ok=True)
        return
    write_with(run / FILE, lambda file: np.savez_compressed(file, images=images, labels=labels))


def interpolations(
    model: GenerativeModel, labels: np.ndarray, seed: int, device: torch.device
) -> UInt8[np.ndarray, "n s c h w"] | None:
    """Return a walk of `STEPS` images for each label, which stays the same along it; None without latents.

    Args:
        model: in evaluation mode, on `device`.
        labels: class indices [n].
        seed: root of the stream, of which the walks have a name of their own.
        device: where the model is.

    Raises:
        BenchError: the family returned no images in [0, 1] of its shape.
    """
    lowered = torch.autocast(device.type, torch.bfloat16, enabled=model.sampling_precision == "bfloat16")
    with torch.no_grad(), forked(seed, "interpolation"), lowered:
        ends = model.latents(2 * len(labels), torch_rng(seed, "interpolation"))
        if ends is None:
            return None
        first, last = ends.to(device).chunk(2)
        shares = torch.linspace(0, 1, STEPS).tolist()
        z = torch.stack([spherical(first, last, share) for share in shares], dim=1).flatten(0, 1)
        repeated = torch.from_numpy(np.asarray(labels, dtype=np.int64).repeat(STEPS)).to(device)
        images = model.from_latents(z, repeated)
    whole = quantised(images, (len(z), *model.shape), "from_latents").cpu().numpy()
    return whole.reshape(len(labels), STEPS, *model.shape)


def spherical(first: Float[Tensor, "n ..."], last: Float[Tensor, "n ..."], share: float) -> Float[Tensor, "n ..."]:
    """Go along the great circle: straight lines pass through norms that draws in many dimensions never have.

    Shoemake 1985; for generative models White 2016, https://arxiv.org/abs/1609.04468, section 2. Parallel vectors, which
    have no one circle, are joined by a straight line.
    """
    one, other = (side.flatten(1).double() for side in (first, last))
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=1).clamp(-1, 1)
    angle = torch.arccos(cosine).reshape(-1, *[1] * (first.dim() - 1))
    sine = torch.sin(angle)
    straight = sine < 1e-6
    sine = torch.where(straight, 1.0, sine)
    near = torch.where(straight, 1 - share, torch.sin((1 - share) * angle) / sine)
    far = torch.where(straight, share, torch.sin(share * angle) / sine)
    return (near * first + far * last).to(first.dtype)
