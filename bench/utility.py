"""Utility within a suite: classifiers of real images alone once, then each conditional generator against them.

Which images are trained on and what is kept; how classifiers are trained and scored is `bench.metrics.utility`. Real images
alone are read once for a suite: their predictions lie with the reference, and every row is compared with the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.errors import BenchError
from bench.evaluate import ALL, reference_file
from bench.metrics.classification import Estimate, resampled
from bench.metrics.statistics import interval, mean_std
from bench.metrics.utility import (
    RULE,
    Labelled,
    Training,
    predictions,
    utility_scores,
)
from bench.registry import SOURCES
from bench.seeds import derive, numpy_rng
from bench.store import digest, read_json, write_json, write_with
from bench.suite import EvaluationSpec, Suite

GROUP = "utility"
SECONDS_PER_IMAGE = 0.45e-3
"""One image of 64x64 in one step of one classifier on one core."""

Make = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Wanted labels -> uint8 images [n, C, H, W] and their labels; may return fewer."""
Found = tuple[list[dict[str, Any]], dict[str, list[float]]]
"""Rows and replicates, as `Scorer.score` gives them."""


def asked(suite: Suite) -> bool:
    """Whether the suite asks for utility."""
    return GROUP in suite.evaluation.measures


def estimated_seconds(spec: EvaluationSpec, shape: tuple[int, int, int], threads: int) -> float:
    """Estimate what one row takes on this many cores of a CPU, sampling left out."""
    rounds = -(-spec.utility.classifiers // max(1, threads))
    return 2 * rounds * spec.utility.images_seen * SECONDS_PER_IMAGE * max(1.0, shape[1] * shape[2] / 64**2)


def wanted_labels(suite: Suite, data: ImageDataset, split: Split) -> np.ndarray:
    """The labels of the generated images that classifiers are trained on, class by class."""
    counts = np.bincount(data.labels[split.train], minlength=data.num_classes)
    if suite.evaluation.utility.samples is not None:
        counts = np.where(counts > 0, suite.evaluation.utility.samples, 0)
    return np.repeat(np.arange(data.num_classes), counts)


@dataclass(frozen=True)
class Utility:
    """The utility of one suite's generators, as its jobs measure it.

    Args:
        folder: the suite's results.
        reference_id: of its real side.
        suite: resolved.
        data: the images.
        split: who is trained on and who is tested on.
        device: where classifiers are trained.
        emit: is told what happens.
    """

    folder: Path
    reference_id: str
    suite: Suite
    data: ImageDataset
    split: Split
    device: torch.device
    emit: Callable[..., None]

    def prepare(self) -> None:
        """Train classifiers on real images alone, keep what they say of the test images, and tell it in reference.json.

        Does nothing where the suite doesn't ask for it; where the data have one class only, the record says so.
        """
        if not asked(self.suite):
            return
        path = self.folder / "reference.json"
        record = read_json(path) or {}
        if len(np.unique(self._real.labels)) < 2:
            reason = "the data have one class, and a classifier needs two"
            self.emit("warning", text=f"utility is left out: {reason}")
            write_json(path, {**record, "utility": {"status": "not applicable", "reason": reason}})
            return
        if not self._file.exists():
            self.emit("phase", phase="utility of real images", fraction=0.0)
            found = self._predict(real=self._real)
            write_with(self._file, lambda stream: np.save(stream, found))
        scores = resampled(
            self._test_labels,
            self.data.subjects[self.split.test],
            np.load(self._file),
            self.suite.evaluation.bootstrap,
            derive(self.split.seed, GROUP),
        )
        facts = {
            **self.suite.evaluation.utility.model_dump(mode="json"),
            "status": "ok",
            "rule": RULE,
            "n_real": len(self.split.train),
            "n_generated": len(wanted_labels(self.suite, self.data, self.split)),
            "n_test": len(self.split.test),
            "real": {name: _told(estimate) for name, estimate in scores.items()},
        }
        write_json(path, {**record, "utility": facts})

    def score(self, make: Make) -> Found:
        """Train on what is made, alone and beside real images, and score both on the test images.

        Returns:
            Rows and replicates; none where utility is not asked for or doesn't apply to the data.

        Raises:
            BenchError: the real side was not prepared.
        """
        known = (read_json(self.folder / "reference.json") or {}).get("utility") or {}
        if not asked(self.suite) or known.get("status") == "not applicable":
            return [], {}
        if not self._file.exists():
            raise BenchError("the utility of real images alone was not measured; run the suite again")
        self.emit("phase", phase="utility: images", fraction=0.0)
        generated = Labelled(*make(wanted_labels(self.suite, self.data, self.split)))
        self.emit("phase", phase="utility: generated alone", fraction=0.2)
        alone = self._predict(generated=generated)
        self.emit("phase", phase="utility: real and generated", fraction=0.6)
        both = self._predict(real=self._real, generated=generated)
        found = utility_scores(
            labels=self._test_labels,
            subjects=self.data.subjects[self.split.test],
            real=np.load(self._file),
            generated=alone,
            both=both,
            replicates=self.suite.evaluation.bootstrap,
            seed=derive(self.split.seed, GROUP),
        )
        rows = [
            {"class": ALL, "features": "", "measure": name, **_told(estimate), "draws": len(estimate.values)}
            | {"n_real": len(self.split.test), "n_generated": len(generated.labels), "flag": ""}
            for name, estimate in found.items()
        ]
        return rows, {f"{ALL}//{name}": estimate.replicates.tolist() for name, estimate in found.items()}

    def floor(self, name: str) -> Make:
        """Real images in place of generated ones: what a generator without fault would bring.

        The floor of validation images has as many as there are, the fresh one as many as are wanted.
        """

        def make(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            counts = np.bincount(labels, minlength=self.data.num_classes)
            if name == "floor_fresh":
                options = dict(self.suite.data)
                source_type = SOURCES.get(options.pop("source"))
                source = source_type(source_type.Options.model_validate(options))
                images, owners, _ = source.fresh(int(counts.max()), derive(self.split.seed, "fresh", GROUP))
                chosen = np.concatenate([np.flatnonzero(owners == c)[:count] for c, count in enumerate(counts)])
                return images[chosen], owners[chosen]
            rng = numpy_rng(self.split.seed, "floor", GROUP)
            held = self.data.labels[self.split.validation]
            of_class = [rng.permutation(self.split.validation[held == c])[:count] for c, count in enumerate(counts)]
            chosen = np.concatenate(of_class)
            return self.data.bytes(chosen), self.data.labels[chosen]

        return make

    @cached_property
    def _real(self) -> Labelled:
        return Labelled(self.data.bytes(self.split.train), self.data.labels[self.split.train])

    @property
    def _test_labels(self) -> np.ndarray:
        return self.data.labels[self.split.test]

    @property
    def _file(self) -> Path:
        """What classifiers of real images alone say: it depends on neither the ratio nor the number of generated images."""
        known = self.suite.evaluation.utility.model_dump(mode="json", exclude={"ratio", "samples"})
        return reference_file(self.folder, self.reference_id) / f"utility-{digest(known)}.npy"

    def _predict(self, *, real: Labelled | None = None, generated: Labelled | None = None) -> np.ndarray:
        spec = self.suite.evaluation.utility
        seed = derive(self.split.seed, GROUP)
        return predictions(
            real=real,
            generated=generated,
            test=self.data.bytes(self.split.test),
            num_classes=self.data.num_classes,
            training=Training(spec.classifiers, spec.images_seen, spec.ratio, seed),
            device=self.device,
        )


def _told(estimate: Estimate) -> dict[str, Any]:
    mean, std = mean_std(estimate.values)
    low = high = None
    if len(estimate.replicates) > 1:
        low, high = interval(mean, estimate.replicates)
    return {"mean": mean, "std": std, "lower": low, "upper": high, "values": estimate.values.tolist()}
