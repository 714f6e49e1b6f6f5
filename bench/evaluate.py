"""The protocol of scoring: which real images, how many generated ones, which draws, which numbers with which interval.

The same for every family, every floor and every class: equal n on both sides, one fixed reference set of test images
spread over all test subjects, fresh generations in every draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.errors import UnavailableError
from bench.metrics.against import RECONSTRUCTIONS, RESAMPLED, FeatureSide, Found, ImageSide, reconstruction_scores
from bench.metrics.features import Extracted, FeatureExtractor
from bench.metrics.lpips import LPIPS
from bench.metrics.memorization import ClosestPairs, Memorization, shortage
from bench.metrics.records import GROUPS, MEASURES
from bench.metrics.statistics import bootstrap_indices, interval, mean_std
from bench.model import GenerativeModel
from bench.seeds import derive, numpy_rng
from bench.suite import EvaluationSpec

ALL = "all"
SHOWN = 8
"""Images per class in sample grids."""
CLOSEST = 8
"""Generated images, the likest to a training image of all draws, that are kept to be looked at."""


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
            (key, name): FeatureSide(real[name].features[positions], self._names)
            for name in extractors
            for key, positions in at.items()
        }
        self._images = {
            key: ImageSide(lambda indices=indices: data.bytes(indices), self._names)  # type: ignore[misc]
            for key, indices in protocol.reference.items()
        }
        self._resamples = {
            key: bootstrap_indices(data.subjects[indices], spec.bootstrap, derive(split.seed, "bootstrap", key))
            for key, indices in protocol.reference.items()
        }
        self._memorization: Memorization | None = None
        self._closest: ClosestPairs | None = None

    @property
    def closest(self) -> ClosestPairs | None:
        """The likest pairs of generated and training image in all draws scored last; None if that was not looked for."""
        return self._closest

    def score(
        self, draw: Draw, *, conditional: bool, emit: Callable[..., None]
    ) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
        """Score `spec.draws` draws.

        Returns:
            Rows of scores (see the results' schema), and of every distance its bootstrap replicates over test subjects,
            keyed 'class/features/measure'. What could not be had is None, and the row's flag says why.
        """
        values: dict[tuple[str, str, str], list[float]] = {}
        reasons: dict[tuple[str, str, str], str] = {}
        counts: dict[str, int] = {}
        replicates: dict[str, list[float]] = {}
        self._closest = None

        def take(key: str, features: str, found: Found) -> None:
            for measure, value in found.values.items():
                values.setdefault((key, features, measure), []).append(value)
            for measure, reason in found.reasons.items():
                reasons.setdefault((key, features, measure), reason)

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
                    seed = derive(self._split.seed, "orders", key, number)
                    found = self._sides[key, name].scores(features, logits, seed=seed)
                    if logits is not None and extractor.classifies and conditional:
                        self._recognised(found, logits, labels[part])
                    take(key, name, found)
                    self._resample(replicates, key, name, features, number)
            for key, part in parts.items():
                owners = None if subjects is None else subjects[part]
                take(key, "", self._image_measures(key, images[part], labels[part], conditional, number, owners))
            emit("phase", phase="scoring", fraction=(number + 1) / self._spec.draws, detail=f"draw {number + 1}")
        rows = [self._row(key, counts[key[0]], found, replicates, reasons.get(key)) for key, found in values.items()]
        return rows + self._too_few(conditional), {
            key: [value if math.isfinite(value) else None for value in found] for key, found in replicates.items()
        }

    def reconstructions(self, model: GenerativeModel, device: torch.device) -> list[dict[str, Any]]:
        """Score how test images come back from encoder and decoder; no rows for families without."""
        if not self._names & {*RECONSTRUCTIONS, "lpips_reconstruction"}:
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
        found, doubts = reconstruction_scores(given=given, returned=returned, names=self._names), {}
        if "lpips_reconstruction" in self._names:
            try:
                lpips = LPIPS(device=device)
                doubts["lpips_reconstruction"] = lpips.doubt
                found.take(["lpips_reconstruction"], lambda: [lpips.pairs(first=given, second=returned).mean()])
            except UnavailableError as error:
                found.values["lpips_reconstruction"] = math.nan
                found.reasons["lpips_reconstruction"] = str(error)
        return [
            self._row((ALL, "", measure), len(indices), [value], {}, found.reasons.get(measure), doubts.get(measure))
            for measure, value in found.values.items()
        ]

    def _recognised(self, found: Found, logits: torch.Tensor, labels: np.ndarray) -> None:
        """Add the share of images whose class the classifier, trained on real ones, reads as it was asked for."""
        if "class_accuracy" in self._names:
            found.take(["class_accuracy"], lambda: [class_accuracy(logits, labels)])

    def _resample(
        self, replicates: dict[str, list[float]], key: str, name: str, features: torch.Tensor, number: int
    ) -> None:
        """Add the replicates that fall to this draw: subjects resampled, generated images of the draw as they are."""
        mine = range(number, self._spec.bootstrap, self._spec.draws)
        for measure in RESAMPLED:
            if measure in self._names and mine:
                kept = replicates.setdefault(f"{key}/{name}/{measure}", [0.0] * self._spec.bootstrap)
                rows = [self._resamples[key][index] for index in mine]
                values = self._sides[key, name].resampled(measure, features, rows)
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
    ) -> Found:
        seed = derive(self._split.seed, "pairs", key, number)
        within = labels if conditional else np.zeros(len(images), np.int64)
        found = self._images[key].scores(images, within, seed=seed)
        if "memorization" in self._names and key == ALL:
            found.take(["memorization", "near_copies"], lambda: self._memorized(images, subjects))
        return found

    def _memorized(self, images: np.ndarray, subjects: np.ndarray | None) -> tuple[float, float]:
        if self._memorization is None:
            self._memorization = Memorization(
                training=self._data.bytes(self._split.train),
                validation=self._data.bytes(self._split.validation),
                validation_subjects=self._data.subjects[self._split.validation],
            )
        result = self._memorization(images, subjects)
        pairs = result.closest(CLOSEST)
        self._closest = ClosestPairs(
            images[[own for own, _ in pairs]],
            self._data.bytes(self._split.train[[other for _, other in pairs]]),
            result.ratios[[own for own, _ in pairs]],
            result.threshold,
        ).joined(self._closest, CLOSEST)
        return result.c_t, result.near_copies

    def _row(
        self,
        key: tuple[str, str, str],
        n_generated: int,
        found: list[float],
        replicates: dict[str, list[float]],
        reason: str | None = None,
        doubt: str | None = None,
    ) -> dict[str, Any]:
        """The row of a number; where it could not be had of every draw there is none, and the flag says why."""
        group, features, measure = key
        bad = sum(not math.isfinite(value) for value in found)
        mean, std = mean_std(found)
        n_real = len(self._protocol.reference[group])
        low = high = None
        if (
            (resampled := replicates.get("/".join(key)))
            and len(resampled) > 1
            and np.isfinite([mean, *resampled]).all()
        ):
            low, high = interval(mean, np.asarray(resampled))
        flags = []
        if bad:
            why = (reason or "no reason is known").replace(",", " ").replace(";", ":")  # flags are parted at both
            of = f" of {bad} of {len(found)} draws" if len(found) > 1 else ""
            flags.append(f"no {MEASURES[measure].title}{of}: {why}")
        if features and n_generated < 2 * self._extractors[features].dimensions:
            flags.append("n < 2d")
        if measure in GROUPS["memorization"]:
            flags += shortage(training=len(self._split.train), validation=len(self._split.validation))
        if doubt := doubt or (self._extractors[features].doubt if features else ""):
            flags.append(doubt)
        if n_generated < n_real:
            flags.append(f"only {n_generated} images")
        return {
            "class": group,
            "features": features,
            "measure": measure,
            "mean": None if bad else mean,
            "std": std if len(found) > 1 and not bad else None,
            "draws": len(found),
            "n_real": n_real,
            "n_generated": n_generated,
            "lower": low,
            "upper": high,
            "flag": "; ".join(flags),
            "about": self._sides[group, features].about(measure) if features else self._images[group].about(measure),
            "values": [value if math.isfinite(value) else None for value in found],
        }

    def _too_few(self, conditional: bool) -> list[dict[str, Any]]:
        """A row per class that is too small, so that nobody wonders where it is."""
        empty = {"mean": None, "std": None, "draws": 0, "n_generated": 0, "lower": None, "upper": None}
        counts = np.bincount(self._data.labels[self._split.test], minlength=self._data.num_classes)
        return [
            {"class": name, "features": features, "measure": "frechet_distance", **empty, "n_real": int(count)}
            | {"flag": "too few", "about": "", "values": []}
            for name, few, count in zip(self._protocol.class_names, self._protocol.few, counts, strict=True)
            if few and conditional and self._data.num_classes > 1
            for features in self._extractors
        ]


def class_accuracy(logits: torch.Tensor, labels: np.ndarray) -> float:
    """Share of images whose largest logit is their label's.

    Raises:
        ValueError: a logit that is not finite: the largest of such would be anything.
    """
    if not torch.isfinite(logits).all():
        raise ValueError("logits: some are not finite")
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
