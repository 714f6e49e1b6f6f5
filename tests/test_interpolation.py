"""Walks through latent space: their ends are draws, their label stays, and what has no latents has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import model as contract
from bench.interpolation import FILE, ROWS, STEPS, interpolations, spherical, write_interpolations
from bench.model import GenerativeModel
from bench.per_class import PerClass

CPU = torch.device("cpu")


class Plain(GenerativeModel):
    """Images of one grey level, the first latent's, and the label in the corner."""

    family = "vae"
    source = "none 2000"
    conditioning = "optional"

    class Hyperparameters(contract.Hyperparameters):
        """Whether labels are heeded."""

        conditional: bool = True

    def latents(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, 6, generator=rng)

    def from_latents(self, z: Tensor, labels: Tensor) -> Tensor:
        images = torch.sigmoid(z[:, :1, None, None]).repeat(1, *self.shape).contiguous()
        images[:, 0, 0, 0] = labels / 255
        return images

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        return self.from_latents(self.latents(len(labels), rng), labels)


class Blind(Plain):
    """Draws without latents."""

    def latents(self, n: int, rng: torch.Generator) -> None:
        return None


def build(family: type[GenerativeModel] = Plain, conditional: bool = True) -> GenerativeModel:
    return family((1, 8, 8), 3, family.Hyperparameters(conditional=conditional))  # type: ignore[call-arg]


def test_the_great_circle_keeps_ends_and_norms() -> None:
    first, last = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(0)).unbind(0)
    last = last * (first.norm(dim=1) / last.norm(dim=1))[:, None]
    assert torch.allclose(spherical(first, last, 0.0), first, atol=1e-6)
    assert torch.allclose(spherical(first, last, 1.0), last, atol=1e-6)
    for share in (0.25, 0.5, 0.9):
        assert torch.allclose(spherical(first, last, share).norm(dim=1), first.norm(dim=1), rtol=1e-6)
    assert torch.allclose(spherical(first, 2 * first, 0.5), 1.5 * first)  # parallel: a straight line
    quarter = spherical(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    assert torch.allclose(quarter, torch.full((1, 2), 0.5**0.5))


def test_walks_are_repeatable_and_keep_their_label() -> None:
    labels = np.array([0, 1, 2])
    walks = interpolations(build(), labels, 7, CPU)
    assert walks is not None
    assert walks.shape == (3, STEPS, 1, 8, 8)
    assert walks.dtype == np.uint8
    assert (walks[..., 0, 0, 0] == labels[:, None]).all()
    assert len(np.unique(walks[0, :, 0, 4, 4])) > 2
    assert (walks == interpolations(build(), labels, 7, CPU)).all()
    assert not (walks == interpolations(build(), labels, 8, CPU)).all()


def test_one_model_per_class_walks_in_each(tmp_path: Path) -> None:
    model = PerClass(Plain, (1, 8, 8), 3, Plain.Hyperparameters(conditional=False))
    walks = interpolations(model, np.array([0, 1, 2]), 7, CPU)
    assert walks is not None
    assert walks.shape == (3, STEPS, 1, 8, 8)


def test_files_of_families_with_and_without_latents(tmp_path: Path) -> None:
    write_interpolations(tmp_path, build(), 0, CPU)
    with np.load(tmp_path / FILE) as archive:
        assert archive["labels"].tolist() == [0, 1, 2]
    write_interpolations(tmp_path, build(conditional=False), 0, CPU)
    with np.load(tmp_path / FILE) as archive:
        assert archive["images"].shape[0] == ROWS
    write_interpolations(tmp_path, build(Blind), 0, CPU)
    assert not (tmp_path / FILE).exists()
