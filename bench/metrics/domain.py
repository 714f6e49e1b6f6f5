"""Features of the data's own domain: small networks trained on the training split alone.

Features of photographs see little of what tells medical images apart, so a few small networks learn from the training
images instead: their classes, and how an image was spoilt (turned, blurred, noised, bent in grey level), which needs no
labels and makes the features see quality. Cross-fitted by subject: each network leaves out one fold of the training
subjects; its accuracy there, on people it has never seen, is printed beside the numbers, and its features are scaled
there. No validation or test image is ever used, and nothing generated.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import save
from torch import Tensor, nn

from bench.errors import InputError, UnavailableError
from bench.metrics.features import FeatureExtractor, Images
from bench.metrics.side_by_side import side_by_side
from bench.seeds import derive, forked, numpy_rng, torch_rng

SIDE = 64
"""Longer side that images are reduced to."""
NETWORKS = 4
WIDTH = 8
"""Features per network. 16 told faults apart no better (scanner phantom), and n of 70 a class exceeds 2 d only so."""
STEPS = 450
BATCH = 64
LEARNING_RATE = 8e-3
SHIFT = 8
"""Whole pixels that training images are moved by at most: without it, networks learn the few training subjects by heart
(scanner phantom: one network's accuracy on other subjects was 0.71 without and 0.90 with it)."""
FAULT_WEIGHT = 5.0
"""Of the squared error of strengths in the loss, which is far below the entropies beside it."""
FAULTS = ("blur", "noise", "gamma")
"""Regressed faults; each strength lies in [0, 1], gamma's in [-1, 1], 0 where the fault is absent."""
_FORMAT = "medgenbench domain features 1"


class _Network(nn.Module):
    """Three convolutions, pooled mean and deviation, and an embedding of `WIDTH` numbers, read by one head per task."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, size in ((channels, 16, 5), (16, 32, 3), (32, 64, 3)):
            layers += [nn.Conv2d(before, after, size, 2, size // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.pooled = nn.BatchNorm1d(2 * 64)
        self.embed = nn.Linear(2 * 64, WIDTH)
        self.label = nn.Linear(WIDTH, num_classes)
        self.turn = nn.Linear(WIDTH, 4)
        self.fault = nn.Linear(WIDTH, len(FAULTS))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Embed images in [0, 1]."""
        found = self.body(images * 2 - 1).flatten(2)
        spread = (found.var(dim=2, correction=0) + 1e-4).sqrt()  # kept off 0, where the root has no slope
        return self.embed(self.pooled(torch.cat([found.mean(dim=2), spread], dim=1)))


class _Task(NamedTuple):
    """One batch and everything that was done to it."""

    images: Float[Tensor, "n c h w"]
    labels: Tensor
    turns: Tensor
    """Of the spoilt half."""
    faults: Float[Tensor, "n faults"]

    def to(self, device: torch.device) -> _Task:
        """Move everything."""
        return _Task(*(part.to(device) for part in self))


class _Held(NamedTuple):
    """What a network reaches on the subjects it was not trained on."""

    label: float
    turn: float
    faults: NDArray[np.float64]
    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]
    """Of the features, for their scale."""


class DomainFeatures(FeatureExtractor):
    """32 numbers from small networks trained on the training split, for labels and for how images were spoilt.

    Made by `fit` or read by `load`. Features are standardised by the left-out training images, so that each has about
    mean 0 and deviation 1 on real images: a Fréchet distance of 32 is one deviation off in each.
    """

    name: ClassVar[str] = "domain"
    classifies: ClassVar[bool] = True
    version: ClassVar[str] = "1"
    batch_size: ClassVar[int] = 128

    def __init__(
        self, tensors: dict[str, Tensor], record: dict[str, Any], *, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(device=device)
        self._tensors, self._record = tensors, record
        self._networks = []
        for index in range(record["networks"]):
            with torch.device("meta"):  # no weights are drawn: torch's global state stays as it is
                network = _Network(record["channels"], record["num_classes"])
            prefix = f"{index}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            network.load_state_dict(own, assign=True)
            self._networks.append(
                network.to(self.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
            )
        self._mean, self._std = tensors["mean"].to(self.device), tensors["std"].to(self.device)
        self.dimensions = len(tensors["mean"])
        self.has_logits = record["num_classes"] > 1
        height, width = record["size"]
        self.rule = (
            f"channels as they are, resized to {height}x{width} (bilinear, antialiased) where another size comes, pixels "
            f"in [-1, 1]; embeddings of {record['networks']} networks, each number standardised on left-out training images"
        )

    @property
    def details(self) -> dict[str, Any]:
        """Held-out accuracies, what the networks were trained on and how."""
        return super().details | self._record

    @property
    def backend(self) -> str:
        """Name, version and a hash of every weight."""
        digest = hashlib.sha256()
        for key in sorted(self._tensors):
            digest.update(key.encode() + self._tensors[key].numpy().tobytes())
        return f"{super().backend}-{digest.hexdigest()[:16]}"

    @classmethod
    def fit(
        cls,
        images: Images,
        labels: ArrayLike,
        subjects: ArrayLike,
        *,
        num_classes: int,
        seed: int,
        threads: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Train the networks on the training split. The same seed and packages give the same bits on the CPU.

        Networks are trained beside each other, each by one thread: their steps are too small to be shared among threads,
        and the result does not depend on how many there are.

        Args:
            images: uint8 [n, C, H, W] of the training split and nothing else.
            labels: class of each image, shape [n].
            subjects: subject of each image, shape [n].
            num_classes: 1 leaves the label task out, and there are no logits.
            seed: root of all randomness.
            threads: how many networks are trained at once; torch's number of threads if left out.
            device: where to train.

        Raises:
            InputError: fewer than two subjects, or arrays of different lengths.
        """
        classes, people = np.asarray(labels, dtype=np.int64), np.asarray(subjects)
        if not len(images) == len(classes) == len(people):
            raise InputError(f"{len(images)} images, {len(classes)} labels and {len(people)} subjects don't match")
        folds = _folds(classes, people, seed)
        channels, height, width = images.shape[1:]
        scale = min(1.0, SIDE / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        pixels = _resized(torch.from_numpy(np.array(images)), size)
        place = torch.device(device)
        parts = []
        for index in range(int(folds.max()) + 1):
            stream = derive(seed, "domain", index)
            with forked(stream, "weights"):
                network = _Network(channels, num_classes).to(place)
            parts.append(_Part(network, pixels, classes, folds != index, stream, place))
        held = side_by_side(_Part.fit, parts, device=place, threads=threads)
        tensors = {
            f"{index}.{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for index, part in enumerate(parts)
            for key, value in part.network.state_dict().items()
        }
        tensors |= {"mean": torch.cat([one.mean for one in held]), "std": torch.cat([one.std for one in held])}
        faults = np.mean([one.faults for one in held], axis=0)
        record = {
            "networks": len(held),
            "channels": channels,
            "num_classes": num_classes,
            "size": list(size),
            "images": len(images),
            "subjects": len(np.unique(people)),
            "images_seen_per_network": STEPS * BATCH,
            "seed": seed,
            "held_out_accuracy": round(float(np.mean([one.label for one in held])), 4) if num_classes > 1 else None,
            "held_out_rotation_accuracy": round(float(np.mean([one.turn for one in held])), 4),
            "held_out_r2": {name: round(float(value), 4) for name, value in zip(FAULTS, faults, strict=True)},
        }
        return cls(tensors, record, device=device)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file that holds the weights, with the record as JSON in its header; atomic."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = save(self._tensors, metadata={"format": _FORMAT, "record": json.dumps(self._record)})
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote.

        Raises:
            UnavailableError: there is no such file, or it is damaged or something else.
        """
        try:
            with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"not written as {_FORMAT!r}")
            return cls(tensors, json.loads(metadata["record"]), device=device)
        except (OSError, safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise UnavailableError(
                f"domain features can't be read from {path}: {error}; remove it to fit anew"
            ) from error

    def _extract(self, images: UInt8[Tensor, "n c h w"]) -> tuple[Tensor, Tensor | None]:
        if images.shape[1] != self._record["channels"]:
            raise ValueError(
                f"images of {images.shape[1]} channels; these features were fitted on {self._record['channels']}"
            )
        height, width = self._record["size"]
        x = _resized(images, (height, width))
        embedded = [network(x) for network in self._networks]
        features = (torch.cat(embedded, dim=1) - self._mean) / self._std
        if not self.has_logits:
            return features, None
        scores = [network.label(e).log_softmax(dim=1) for network, e in zip(self._networks, embedded, strict=True)]
        return features, torch.stack(scores).logsumexp(dim=0) - math.log(len(scores))

    def _check_shape(self) -> tuple[int, int, int]:
        height, width = self._record["size"]
        return self._record["channels"], height, width


def _resized(images: UInt8[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c h w"]:
    """Scale to [0, 1] and to a size; an image that has it already is not touched."""
    x = images.float() / 255
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", antialias=True)


def _folds(labels: NDArray[np.int64], subjects: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Give each image its subject's fold; the subjects of each class are dealt out in turn, so folds are alike."""
    names, owner = np.unique(subjects, return_inverse=True)
    if len(names) < 2:
        raise InputError("domain features need images of two or more subjects in the training split")
    order = numpy_rng(seed, "domain folds").permutation(len(names))
    first_label = np.array([labels[owner == index][0] for index in order])
    order = order[np.argsort(first_label, kind="stable")]
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % min(NETWORKS, len(names))
    return fold[owner]


@dataclass(frozen=True)
class _Part:
    """One network and the training subjects it sees."""

    network: _Network
    pixels: Float[Tensor, "n c h w"]
    labels: NDArray[np.int64]
    seen: NDArray[np.bool_]
    seed: int
    device: torch.device

    def fit(self) -> _Held:
        """Train the network and look at it through the images it has not seen."""
        self._train()
        return self._examine()

    def _train(self) -> None:
        """Every class is drawn equally often, so rare ones count."""
        network = self.network.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.2)
        chooser, rng = numpy_rng(self.seed, "batches"), torch_rng(self.seed, "faults")
        of_class = [np.flatnonzero(self.seen & (self.labels == label)) for label in np.unique(self.labels[self.seen])]
        for _ in range(STEPS):
            drawn = chooser.integers(len(of_class), size=BATCH)
            chosen = np.array([of_class[which][chooser.integers(len(of_class[which]))] for which in drawn])
            images = _shifted(self.pixels[chosen], chooser)
            task = _spoil(images, torch.from_numpy(self.labels[chosen]), rng).to(self.device)
            clean = BATCH - len(task.turns)
            embedded = network(task.images)
            loss = F.cross_entropy(network.turn(embedded[clean:]), task.turns)
            loss = loss + FAULT_WEIGHT * F.mse_loss(network.fault(embedded), task.faults)
            if network.label.out_features > 1:
                loss = loss + F.cross_entropy(network.label(embedded[:clean]), task.labels[:clean])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval()

    @torch.no_grad()
    def _examine(self) -> _Held:
        """Accuracy as the mean over classes, and the share of each fault's variance that is explained."""
        left_out = np.flatnonzero(~self.seen)
        whole, truth = self.pixels[left_out], torch.from_numpy(self.labels[left_out])
        task = _spoil(whole, truth, torch_rng(self.seed, "examination"))
        clean = len(whole) // 2
        embedded, spoilt = self._embed(whole), self._embed(task.images[clean:])
        guessed = self.network.label(embedded).argmax(dim=1).cpu()
        right = [(guessed[truth == label] == label).float().mean().item() for label in truth.unique()]
        turned = self.network.turn(spoilt).argmax(dim=1).cpu() == task.turns
        target, strengths = task.faults[clean:], self.network.fault(spoilt).cpu()
        spread = (target - target.mean(dim=0)).square().sum(dim=0).clamp_min(1e-9)
        unexplained = (strengths - target).square().sum(dim=0) / spread
        return _Held(
            label=float(np.mean(right)),
            turn=turned.float().mean().item(),
            faults=1 - unexplained.double().numpy(),
            mean=embedded.mean(dim=0).cpu(),
            std=embedded.std(dim=0, correction=0).clamp_min(1e-6).cpu(),
        )

    def _embed(self, pixels: Tensor) -> Tensor:
        parts = pixels.split(DomainFeatures.batch_size)
        return torch.cat([self.network(part.to(self.device)) for part in parts])


def _spoil(images: Float[Tensor, "n c h w"], labels: Tensor, rng: torch.Generator) -> _Task:
    """Leave the first half of a batch as it is and spoil the second; drawn and done on the CPU.

    Classes are learnt from whole images only, since what spoils an image may be what tells a class (a scanner's blur).
    """
    clean = len(images) // 2
    whole, x = images[:clean], images[clean:]
    n = len(x)
    square = x.shape[2] == x.shape[3]
    turns = torch.randint(4, (n,), generator=rng) if square else 2 * torch.randint(2, (n,), generator=rng)
    strengths = torch.rand(n, len(FAULTS), generator=rng)
    strengths[:, 2] = 2 * strengths[:, 2] - 1
    strengths *= torch.rand(n, len(FAULTS), generator=rng) < 0.5
    blur, noise, gamma = (column.view(-1, 1, 1, 1) for column in strengths.T)
    x = torch.cat([part.rot90(int(turn), dims=(2, 3)) for part, turn in zip(x.split(1), turns, strict=True)])
    x = x + blur * (_blurred(x) - x)
    x = x.clamp_min(1e-3) ** torch.exp2(gamma)
    x = (x + 0.1 * noise * torch.randn(x.shape, generator=rng)).clamp(0, 1)
    return _Task(torch.cat([whole, x]), labels, turns, torch.cat([torch.zeros(clean, len(FAULTS)), strengths]))


def _shifted(images: Float[Tensor, "n c h w"], chooser: np.random.Generator) -> Float[Tensor, "n c h w"]:
    """Move each image by whole pixels (resampling would blur, which may tell classes); borders are repeated."""
    height, width = images.shape[2:]
    most = max(1, SHIFT * min(height, width) // SIDE)
    x = F.pad(images, (most, most, most, most), mode="replicate")
    corners = chooser.integers(2 * most + 1, size=(len(images), 2)).tolist()
    return torch.stack(
        [one[:, top : top + height, left : left + width] for one, (top, left) in zip(x, corners, strict=True)]
    )


def _blurred(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Blur by a Gaussian of 1.5 pixels; the borders are repeated."""
    weights = torch.exp(-0.5 * (torch.arange(-4, 5) / 1.5) ** 2)
    weights = (weights / weights.sum()).view(1, 1, 1, 9)
    channels = images.shape[1]
    x = F.pad(images, (4, 4, 4, 4), mode="replicate")
    x = F.conv2d(x, weights.expand(channels, 1, 1, 9), groups=channels)
    return F.conv2d(x, weights.transpose(2, 3).expand(channels, 1, 9, 1), groups=channels)
