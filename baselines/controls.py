"""Controls: what a table must be able to tell from a good generative model.

Copies of the training set win every distance and must be caught by memorisation; the mean image must lose diversity; the
Gaussian is the linear reference that a network should beat. All are fitted in one call and heed the label; what they
learn lives in buffers, so that they are saved and loaded like any other model. Nothing here is trained by gradients.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from bench import model
from bench.model import GenerativeModel, Shape


class TrainingCopy(GenerativeModel):
    """Copies of training images with the asked label: the cheat that every distance rewards.

    Meehan, Chaudhuri & Dasgupta 2020, A Non-Parametric Test to Detect Data-Copying in Generative Models,
    https://arxiv.org/abs/2004.05675, whose test must catch it. Drawn without replacement within a call; where more are
    asked for than there are, all once before any twice. Kept at 8 bits, the depth at which generated images are scored.
    """

    family: ClassVar[str] = "control"
    source: ClassVar[str] = "Meehan et al. 2020"
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "always"

    images: Tensor
    labels: Tensor

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: model.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        self.register_buffer("images", torch.zeros(0, *shape, dtype=torch.uint8))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def fit_direct(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator) -> None:
        """Keep the images."""
        check_classes(labels, self.num_classes)
        self.images = (images * 255).round().to(torch.uint8)
        self.labels = labels.clone()

    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw one training image per label."""
        chosen = torch.empty(len(labels), dtype=torch.int64)
        for label, count in zip(*(part.tolist() for part in labels.unique(return_counts=True)), strict=True):
            own = torch.nonzero(self.labels == label).squeeze(1).cpu()
            rounds = -(-count // len(own))
            order = torch.cat([torch.randperm(len(own), generator=rng) for _ in range(rounds)])[:count]
            chosen[(labels == label).cpu()] = own[order]
        return self.images[chosen.to(self.images.device)].float() / 255

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("images", "labels"):  # as many as were fitted, which a fresh model can't know
            if (loaded := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(loaded.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class MeanImage(GenerativeModel):
    """The mean training image of the asked label, again and again: perfect on average and without any diversity.

    The degenerate end of mode collapse as in Heusel et al. 2017, https://arxiv.org/abs/1706.08500: the Fréchet distance's
    mean term is small and its covariance term is as large as the data's own variance.
    """

    family: ClassVar[str] = "control"
    source: ClassVar[str] = "Heusel et al. 2017"
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "always"

    mean: Tensor

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: model.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        self.register_buffer("mean", torch.zeros(num_classes, *shape))

    def fit_direct(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator) -> None:
        """Average each class, in float64."""
        check_classes(labels, self.num_classes)
        for label in range(self.num_classes):
            self.mean[label] = images[labels == label].mean(0, dtype=torch.float64)

    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Return the mean image of each label; draws nothing."""
        return self.mean[labels].clamp(0, 1)


class Gaussian(GenerativeModel):
    """Probabilistic principal component analysis, one per class: the linear reference.

    Tipping & Bishop 1999, Probabilistic Principal Component Analysis, https://doi.org/10.1111/1467-9868.00196:
    x ~ N(mean, W W^T + sigma^2 I) by maximum likelihood in closed form, from the truncated singular value decomposition
    of the centred images. A class of n images has at most n - 1 components; what is left of the rank stays 0.
    Departure: samples are clamped to [0, 1], as images must be.
    """

    family: ClassVar[str] = "control"
    source: ClassVar[str] = "Tipping & Bishop 1999"
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "always"

    class Hyperparameters(model.Hyperparameters):
        """The paper leaves the rank to the user."""

        rank: int = Field(64, ge=1, description="principal components per class")

    hyperparameters: Gaussian.Hyperparameters
    mean: Tensor
    W: Tensor
    sigma: Tensor

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: Gaussian.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        pixels = shape[0] * shape[1] * shape[2]
        self.register_buffer("mean", torch.zeros(num_classes, pixels))
        self.register_buffer("W", torch.zeros(num_classes, pixels, hyperparameters.rank))
        self.register_buffer("sigma", torch.zeros(num_classes))

    def fit_direct(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator) -> None:
        """Fit every class on its own."""
        check_classes(labels, self.num_classes)
        for label in range(self.num_classes):
            x = images[labels == label].flatten(1).double()
            mean, W, sigma = probabilistic_pca(x, self.hyperparameters.rank)
            self.mean[label], self.sigma[label] = mean, sigma
            self.W[label].zero_()[:, : W.shape[1]] = W

    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw x = W z + mean + sigma epsilon for each label (eq. 1 and 2), clamped to [0, 1]."""
        z = torch.randn(len(labels), self.W.shape[2], generator=rng).to(self.W)
        epsilon = torch.randn(len(labels), self.W.shape[1], generator=rng).to(self.W)
        x = self.mean[labels] + self.sigma[labels, None] * epsilon
        for label in labels.unique():  # one product per class: W[labels] would be n copies of a large matrix
            x[labels == label] += z[labels == label] @ self.W[label].T
        return x.unflatten(1, self.shape).clamp(0, 1)


def probabilistic_pca(
    x: Float[Tensor, "n d"], rank: int
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d q"], Float[Tensor, ""]]:
    """Return mean, W and sigma of the maximum-likelihood model with q = min(rank, n - 1, d - 1) components.

    W = U_q (Lambda_q - sigma^2 I)^(1/2) (eq. 7 with R = I) and sigma^2 the mean of the d - q discarded eigenvalues of the
    covariance (eq. 8), zeros included where n < d. Eigenvectors come from the smaller of the two Gram matrices; the
    discarded eigenvalues enter only by their sum, which is the trace less the kept ones.
    """
    n, d = x.shape
    mean = x.mean(0)
    q = min(rank, n - 1, d - 1)
    if q < 1:  # a single image
        return mean, x.new_zeros(d, 0), x.new_zeros(())
    centred = (x - mean) / n**0.5
    gram = centred @ centred.T if n < d else centred.T @ centred
    eigenvalues, vectors = torch.linalg.eigh(gram)  # ascending
    eigenvalues, vectors = eigenvalues[-q:].flip(0).clamp(min=0), vectors[:, -q:].flip(1)
    U = centred.T @ vectors / eigenvalues.sqrt().clamp(min=1e-12) if n < d else vectors
    variance = ((gram.trace() - eigenvalues.sum()) / (d - q)).clamp(min=0)
    return mean, U * (eigenvalues - variance).clamp(min=0).sqrt(), variance.sqrt()


def check_classes(labels: Int[Tensor, " n"], num_classes: int) -> None:
    """Raise ValueError if a class has no image: its samples would be made up."""
    empty = [label for label in range(num_classes) if not bool((labels == label).any())]
    if empty:
        raise ValueError(f"no image to fit of class {', '.join(map(str, empty))} (by index)")
