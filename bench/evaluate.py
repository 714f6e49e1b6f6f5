"""The protocol of scoring: which real images, how many generated ones, which draws, which numbers with which interval.

The same for every family, every floor and every class: equal n on both sides, one fixed reference set of test images
spread over all test subjects, fresh generations in every draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.metrics.features import Extracted, FeatureExtractor
from bench.metrics.frechet import FrechetReference
from bench.metrics.inception_score import inception_score
from bench.metrics.kernel import KernelReference
from bench.metrics.manifold import ManifoldReference
from bench.metrics.memorization import Memorization
from bench.metrics.records import GROUPS
from bench.metrics.similarity import mse_pairs, ssim_diversity, ssim_pairs
from bench.metrics.statistics import bootstrap_indices, interval, mean_std
from bench.model import GenerativeModel
from bench.seeds import derive, numpy_rng
from bench.suite import EvaluationSpec

ALL = "all"
SHOWN = 8
"""Images per class in sample grids."""
DIVERSITY_PAIRS = 200

RESAMPLED = ("frechet_distance", "kernel_distance")
"""Measures whose interval is bootstrapped over test subjects."""


class Drawn(NamedTuple):
    """One draw's images."""

    images: np.ndarray
    """uint8 [n, C, H, W]."""
    labels: np.ndarray
    """[n]."""
    subjects: np.ndarray | None = None
    """[n], where the images are real ones."""
    extracted: Mapping[str, Extracted] | None = None
    """What each extractor gives for them, where that is known already."""


Draw = Callable[[int], tuple[Any, ...]]
"""Number of the draw -> the fields of `Drawn`; the last ones may be left out."""


@dataclass(frozen=True)
class Protocol:
    """Who is compared with whom."""

    class_names: tuple[str, ...]
    few: tuple[bool, ...]
    """Classes with too few test images for scores of their own."""
    n_class: int
    """Images per class and side; 0 if every class is too small."""
    shares: tuple[int, ...]
    """Images of each class in the set 'all': the test split's proportions."""
    reference: Mapping[str, np.ndarray]
    """Set ('all' or a class's name) -> indices of its test images."""

    @property
    def n_all(self) -> int:
        """Images per side of the set 'all'."""
        return sum(self.shares)

    @property
    def union(self) -> np.ndarray:
        """Every test image that is compared with, sorted."""
        return np.unique(np.concatenate(list(self.reference.values())))

    def labels(self, conditional: bool) -> np.ndarray:
        """The labels one draw asks for: enough for 'all' and for every class, in fixed order."""
        counts = self.shares if not conditional else [max(s, self._own(c)) for c, s in enumerate(self.shares)]
        return np.repeat(np.arange(len(counts)), counts)

    def parts(self, labels: np.ndarray, conditional: bool) -> dict[str, np.ndarray]:
        """Set -> positions among a draw's images; an unconditional family has 'all' only."""
        if not conditional:
            return {ALL: np.arange(len(labels))}
        of_class = [np.flatnonzero(labels == index) for index in range(len(self.shares))]
        parts = {ALL: np.concatenate([own[:share] for own, share in zip(of_class, self.shares, strict=True)])}
        for index, name in enumerate(self.class_names):
            if self._own(index):
                parts[name] = of_class[index][: self.n_class]
        return parts

    def shown(self) -> int:
        """How many images of each class a sample grid shows."""
        return max(1, min([SHOWN, *(count for count in self.labels_per_class() if count)]))

    def labels_per_class(self) -> list[int]:
        """Images of each class in a conditional draw."""
        return np.bincount(self.labels(True), minlength=len(self.shares)).tolist()

    def _own(self, index: int) -> int:
        return 0 if self.few[index] or len(self.class_names) == 1 else self.n_class


def make_protocol(data: ImageDataset, split: Split, spec: EvaluationSpec) -> Protocol:
    """Choose n and the reference sets by the suite's rule; depends on data, split and rule alone."""
    test_labels = data.labels[split.test]
    counts = np.bincount(test_labels, minlength=data.num_classes)
    enough = [int(count) for count in counts if count >= spec.few]
    n_class = min([spec.samples_per_draw, *enough]) if enough else 0
    wanted = n_class * len(enough) if enough else spec.samples_per_draw
    shares = _proportional(counts, min(wanted, len(split.test)))
    seed = derive(split.seed, "reference")
    of_class = [
        spread(split.test[test_labels == index], data.subjects, seed, name)
        for index, name in enumerate(data.class_names)
    ]
    reference = {ALL: np.sort(np.concatenate([own[:share] for own, share in zip(of_class, shares, strict=True)]))}
    few = tuple(bool(count < spec.few) for count in counts)
    if data.num_classes > 1:
        for index, name in enumerate(data.class_names):
            if not few[index]:
                reference[name] = np.sort(of_class[index][:n_class])
    return Protocol(data.class_names, few, n_class, tuple(shares), reference)


def _proportional(counts: np.ndarray, total: int) -> list[int]:
    """Split `total` in the proportions of `counts`, largest remainders first; never more than a count."""
    exact = counts * (total / max(1, counts.sum()))
    shares = np.floor(exact).astype(int)
    for index in np.argsort(-(exact - shares), kind="stable")[: total - shares.sum()]:
        shares[index] += 1
    return [int(share) for share in np.minimum(shares, counts)]


def spread(indices: np.ndarray, subjects: np.ndarray, seed: int, name: str) -> np.ndarray:
    """Order images so that every subject gives its first before any gives its second: n images show most subjects."""
    rng = numpy_rng(seed, name)
    shuffled = rng.permutation(indices)
    turn: dict[str, int] = {}
    turns = []
    for index in shuffled:
        subject = str(subjects[index])
        turns.append(turn.get(subject, 0))
        turn[subject] = turns[-1] + 1
    return shuffled[np.argsort(turns, kind="stable")]


class _Side:
    """The real side of one set in one feature space."""

    def __init__(self, features: torch.Tensor) -> None:
        self.distances: dict[str, FrechetReference | KernelReference] = {
            "frechet_distance": FrechetReference(features),
            "kernel_distance": KernelReference(features),
        }
        self.manifold = ManifoldReference(features)


class Scorer:
    """Scores sets of images against the real side; the real side's work is done once.

    Args:
        data: the images.
        split: who is test, training and validation.
        protocol: from `make_protocol`.
        spec: the suite's evaluation.
        extractors: features by name.
        real: what the extractors gave for `protocol.union`, by name.
    """

    def __init__(
        self,
        data: ImageDataset,
        split: Split,
        protocol: Protocol,
        spec: EvaluationSpec,
        extractors: Mapping[str, FeatureExtractor],
        real: Mapping[str, Extracted],
    ) -> None:
        self._data, self._split, self._protocol, self._spec = data, split, protocol, spec
        self._extractors = extractors
        self._names = {name for group in spec.measures for name in GROUPS[group]}
        union = protocol.union
        at = {key: torch.from_numpy(np.searchsorted(union, indices)) for key, indices in protocol.reference.items()}
        self._sides = {
            (key, name): _Side(real[name].features[positions]) for name in extractors for key, positions in at.items()
        }
        self._resamples = {
            key: bootstrap_indices(data.subjects[indices], spec.bootstrap, derive(split.seed, "bootstrap", key))
            for key, indices in protocol.reference.items()
        }
        self._memorization: Memorization | None = None

    def score(
        self, draw: Draw, *, conditional: bool, emit: Callable[..., None]
    ) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
        """Score `spec.draws` draws.

        Returns:
            Rows of scores (see the results' schema), and for every Fréchet distance its bootstrap replicates over test
            subjects, keyed 'class/features/measure'.
        """
        values: dict[tuple[str, str, str], list[float]] = {}
        counts: dict[str, int] = {}
        replicates: dict[str, list[float]] = {}
        for number in range(self._spec.draws):
            images, labels, subjects, known = Drawn(*draw(number))
            parts = self._protocol.parts(labels, conditional)
            counts = {key: len(part) for key, part in parts.items()}
            for name, extractor in self._extractors.items():
                extracted = known[name] if known else extractor(images)
                for key, part in parts.items():
                    chosen = torch.from_numpy(part)
                    features = extracted.features[chosen]
                    logits = None if extracted.logits is None else extracted.logits[chosen]
                    found = self._feature_measures(key, name, features, logits)
                    if logits is not None and extractor.classifies and conditional:
                        found |= self._recognised(logits, labels[part])
                    for measure, value in found.items():
                        values.setdefault((key, name, measure), []).append(value)
                    self._resample(replicates, key, name, features, number)
            for key, part in parts.items():
                owners = None if subjects is None else subjects[part]
                found = self._image_measures(key, images[part], labels[part], conditional, number, owners)
                for measure, value in found.items():
                    values.setdefault((key, "", measure), []).append(value)
            emit("phase", phase="scoring", fraction=(number + 1) / self._spec.draws, detail=f"draw {number + 1}")
        rows = [self._row(key, counts[key[0]], found, replicates) for key, found in values.items()]
        return rows + self._too_few(conditional), replicates

    def reconstructions(self, model: GenerativeModel, device: torch.device) -> list[dict[str, Any]]:
        """Score how test images come back from encoder and decoder; no rows for families without."""
        if "ssim_reconstruction" not in self._names:
            return []
        indices = self._protocol.reference[ALL]
        given = self._data.bytes(indices)
        back = []
        for part in np.array_split(indices, -(-len(indices) // 100)):
            labels = torch.from_numpy(self._data.labels[part]).to(device)
            with torch.no_grad():
                images = model.reconstruct(self._data.floats(part).to(device), labels)
            if images is None:
                return []
            back.append((images.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        returned = np.concatenate(back)
        found = {
            "ssim_reconstruction": float(ssim_pairs(first=given, second=returned).mean()),
            "mse_reconstruction": float(mse_pairs(first=given, second=returned).mean()),
        }
        return [self._row((ALL, "", measure), len(indices), [value], {}) for measure, value in found.items()]

    def _feature_measures(
        self, key: str, name: str, features: torch.Tensor, logits: torch.Tensor | None
    ) -> dict[str, float]:
        side = self._sides[key, name]
        found = {measure: side.distances[measure].distance(features) for measure in RESAMPLED if measure in self._names}
        if "inception_score" in self._names and logits is not None:
            found["inception_score"] = inception_score(logits=logits)[0]
        if "precision" in self._names:
            found.update(side.manifold.scores(features))
        return found

    def _recognised(self, logits: torch.Tensor, labels: np.ndarray) -> dict[str, float]:
        """Share of images whose class the classifier, which was trained on real ones, reads as it was asked for."""
        if "class_accuracy" not in self._names:
            return {}
        return {"class_accuracy": class_accuracy(logits, labels)}

    def _resample(
        self, replicates: dict[str, list[float]], key: str, name: str, features: torch.Tensor, number: int
    ) -> None:
        """Add the replicates that fall to this draw: subjects resampled, generated images of the draw as they are."""
        mine = range(number, self._spec.bootstrap, self._spec.draws)
        for measure in RESAMPLED:
            if measure in self._names and mine:
                kept = replicates.setdefault(f"{key}/{name}/{measure}", [0.0] * self._spec.bootstrap)
                rows = [self._resamples[key][index] for index in mine]
                values = self._sides[key, name].distances[measure].resampled(features, rows)
                for index, value in zip(mine, values.tolist(), strict=True):
                    kept[index] = value

    def _image_measures(
        self,
        key: str,
        images: np.ndarray,
        labels: np.ndarray,
        conditional: bool,
        number: int,
        subjects: np.ndarray | None,
    ) -> dict[str, float]:
        found: dict[str, float] = {}
        if "ssim_diversity" in self._names:
            seed = derive(self._split.seed, "pairs", key, number)
            within = labels if conditional else np.zeros(len(images), np.int64)
            found["ssim_diversity"] = ssim_diversity(images=images, labels=within, pairs=DIVERSITY_PAIRS, seed=seed)
        if "memorization" in self._names and key == ALL:
            if self._memorization is None:
                self._memorization = Memorization(
                    training=self._data.bytes(self._split.train),
                    validation=self._data.bytes(self._split.validation),
                    validation_subjects=self._data.subjects[self._split.validation],
                )
            result = self._memorization(images, subjects)
            found["memorization"], found["near_copies"] = result.c_t, result.near_copies
        return found

    def _row(
        self, key: tuple[str, str, str], n_generated: int, found: list[float], replicates: dict[str, list[float]]
    ) -> dict[str, Any]:
        group, features, measure = key
        mean, std = mean_std(found)
        n_real = len(self._protocol.reference[group])
        low = high = None
        if (resampled := replicates.get("/".join(key))) and len(resampled) > 1:
            low, high = interval(mean, np.asarray(resampled))
        flags = []
        if features and n_generated < 2 * self._extractors[features].dimensions:
            flags.append("n < 2d")
        if n_generated < n_real:
            flags.append(f"only {n_generated} images")
        return {
            "class": group,
            "features": features,
            "measure": measure,
            "mean": mean,
            "std": std if len(found) > 1 else None,
            "draws": len(found),
            "n_real": n_real,
            "n_generated": n_generated,
            "lower": low,
            "upper": high,
            "flag": "; ".join(flags),
            "values": found,
        }

    def _too_few(self, conditional: bool) -> list[dict[str, Any]]:
        """A row per class that is too small, so that nobody wonders where it is."""
        empty = {"mean": None, "std": None, "draws": 0, "n_generated": 0, "lower": None, "upper": None}
        counts = np.bincount(self._data.labels[self._split.test], minlength=self._data.num_classes)
        return [
            {"class": name, "features": features, "measure": "frechet_distance", **empty, "n_real": int(count)}
            | {"flag": "too few", "values": []}
            for name, few, count in zip(self._protocol.class_names, self._protocol.few, counts, strict=True)
            if few and conditional and self._data.num_classes > 1
            for features in self._extractors
        ]


def class_accuracy(logits: torch.Tensor, labels: np.ndarray) -> float:
    """Share of images whose largest logit is their label's."""
    return float((logits.argmax(1).numpy() == labels).mean())


def class_records(data: ImageDataset, split: Split, protocol: Protocol) -> list[dict[str, Any]]:
    """What a reader wants to know of every class."""
    sides = {side: data.labels[getattr(split, side)] for side in ("train", "validation", "test")}
    return [
        {
            "name": name,
            **{side: int((labels == index).sum()) for side, labels in sides.items()},
            "subjects_test": len(set(data.subjects[split.test][sides["test"] == index].tolist())),
            "n": 0 if protocol.few[index] else protocol.n_class,
            "few": protocol.few[index],
        }
        for index, name in enumerate(data.class_names)
    ]


def reference_file(folder: Path, reference_id: str) -> Path:
    """Where the extractors and the real side's features of one protocol lie."""
    return folder / "runs" / f"reference-{reference_id}"
