"""The real side of a suite, done once: extractors fitted and checked, features of the test images, floors.

What is written here is read by every evaluation, so that each real image goes through each extractor once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.errors import BenchError, UnavailableError
from bench.evaluate import SHOWN, Draw, Protocol, class_accuracy, class_records, reference_file, spread
from bench.extractors import build_extractor, state_of
from bench.metrics.features import DomainFeatures, Extracted, FeatureExtractor
from bench.metrics.frechet import FrechetReference
from bench.metrics.inception_score import inception_score
from bench.metrics.weights import sha256
from bench.registry import SOURCES
from bench.seeds import derive, numpy_rng
from bench.spent import SPENT
from bench.store import read_json, write_bytes, write_json, write_with
from bench.suite import Suite


def prepare_reference(
    folder: Path,
    reference_id: str,
    suite: Suite,
    data: ImageDataset,
    split: Split,
    protocol: Protocol,
    device: torch.device,
    emit: Callable[..., None],
) -> dict[str, FeatureExtractor]:
    """Fit and check every extractor, write the real side's features and the record of it, return the extractors.

    An extractor that can't be had is named with its reason, and nothing else stops.

    Raises:
        BenchError: no extractor at all can be had.
    """
    home = reference_file(folder, reference_id)
    known = read_json(folder / "reference.json") or {}
    if known.get("reference_id") == reference_id:  # the protocol's other numbers (draws, measures) may have changed
        record = _record(reference_id, suite, data, split, protocol, known["features"])
        record |= {
            "recognition": known["recognition"],
            "sha256": known.get("sha256", {}),
            "progress": known["progress"] | {"points": suite.progress.points},
        }
        _write_real(folder, suite, data, protocol)
        write_json(folder / "reference.json", record)
        return load_reference(folder, reference_id, suite, device)
    extractors: dict[str, FeatureExtractor] = {}
    states: dict[str, dict[str, Any]] = {}
    for name in suite.evaluation.features:
        emit("phase", phase=f"features {name}", fraction=0.0)
        try:
            extractor = _build(name, home, suite, data, split, device)
            extractor.self_check()
        except UnavailableError as error:
            states[name] = {"status": "unavailable", "reason": str(error)}
            emit("warning", text=f"features {name!r} are left out: {error}")
            continue
        extractors[name] = extractor
        states[name] = state_of(extractor)
    if not extractors:
        raise BenchError("none of the suite's features can be had: " + "; ".join(s["reason"] for s in states.values()))
    tensors = {}
    images = data.bytes(protocol.union)
    for name, extractor in extractors.items():
        emit("phase", phase=f"real images through {name}", fraction=0.0)
        extracted = extractor(images)
        tensors[f"{name}/features"] = extracted.features.cpu().contiguous()
        if extracted.logits is not None:
            tensors[f"{name}/logits"] = extracted.logits.cpu().contiguous()
    facts: dict[str, Any] = {
        "recognition": _recognition(extractors, tensors, data, protocol),
        "progress": _progress_line(extractors, suite, data, split, tensors),
    }
    write_bytes(home / "features.safetensors", save(tensors))
    # `bench.recovery` looks whether they are still what was written: every score rests on them
    facts["sha256"] = {path.name: sha256(path) for path in sorted(home.glob("*.safetensors"))}
    _write_real(folder, suite, data, protocol)
    write_json(folder / "reference.json", {**_record(reference_id, suite, data, split, protocol, states), **facts})
    return extractors


def progress_indices(data: ImageDataset, split: Split, samples: int) -> np.ndarray:
    """The validation images that progress is measured against, every subject's first before any second."""
    return np.sort(spread(split.validation, data.subjects, derive(split.seed, "progress"), "validation")[:samples])


def progress_scores(extracted: Extracted, real: torch.Tensor) -> dict[str, float]:
    """Fréchet distance to real features and, where there are logits, the Inception Score."""
    found = {"frechet_distance": FrechetReference(real).distance(extracted.features)}
    if extracted.logits is not None:
        found["inception_score"] = inception_score(logits=extracted.logits)[0]
    return found


def load_progress(folder: Path, reference_id: str, extractors: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the extractors' features of the validation images that progress is measured against."""
    tensors = load_file(reference_file(folder, reference_id) / "features.safetensors")
    return {name: tensors[f"{name}/progress"] for name in extractors}


def _progress_line(
    extractors: dict[str, FeatureExtractor],
    suite: Suite,
    data: ImageDataset,
    split: Split,
    tensors: dict[str, torch.Tensor],
) -> dict[str, Any]:
    """Take the features of the validation images, and score as many training images against them: the real-data line."""
    held = progress_indices(data, split, suite.progress.samples)
    training = spread(split.train, data.subjects, derive(split.seed, "progress"), "training")[: len(held)]
    line = {}
    for name, extractor in extractors.items():
        tensors[f"{name}/progress"] = extractor(data.bytes(held)).features.cpu().contiguous()
        scores = progress_scores(extractor(data.bytes(np.sort(training))), tensors[f"{name}/progress"])
        line.update({f"{name}/{measure}": value for measure, value in scores.items()})
    return {"points": suite.progress.points, "n": len(held), "real": line}


def _recognition(
    extractors: dict[str, FeatureExtractor], tensors: dict[str, torch.Tensor], data: ImageDataset, protocol: Protocol
) -> dict[str, dict[str, float]]:
    """Accuracy on real test images of every classifier of the data's classes: of the set 'all' and of each class."""
    found: dict[str, dict[str, float]] = {}
    for name, extractor in extractors.items():
        if extractor.classifies and f"{name}/logits" in tensors:
            found[name] = {}
            for key, indices in protocol.reference.items():
                positions = torch.from_numpy(np.searchsorted(protocol.union, indices))
                found[name][key] = class_accuracy(tensors[f"{name}/logits"][positions], data.labels[indices])
    return found


def load_reference(folder: Path, reference_id: str, suite: Suite, device: torch.device) -> dict[str, FeatureExtractor]:
    """Return the extractors that `prepare_reference` found to be there."""
    record = read_json(folder / "reference.json") or {}
    if record.get("reference_id") != reference_id:
        raise BenchError("the real side of this suite was not prepared; run the suite again")
    home = reference_file(folder, reference_id)
    names = [name for name, state in record["features"].items() if state["status"] == "ok"]
    return {name: _build(name, home, suite, None, None, device) for name in names}


def load_real(folder: Path, reference_id: str, extractors: dict[str, FeatureExtractor]) -> dict[str, Extracted]:
    """Return what the extractors gave for the reference images."""
    tensors = load_file(reference_file(folder, reference_id) / "features.safetensors")
    return {name: Extracted(tensors[f"{name}/features"], tensors.get(f"{name}/logits")) for name in extractors}


def _build(
    name: str, home: Path, suite: Suite, data: ImageDataset | None, split: Split | None, device: torch.device
) -> FeatureExtractor:
    """Build an extractor; the domain's is fitted if its file is not there yet."""
    if name == "domain":
        file = home / "domain.safetensors"
        if data is not None and split is not None and not file.exists():
            with SPENT.on("fitting"):
                fitted = DomainFeatures.fit(
                    data.bytes(split.train),
                    data.labels[split.train],
                    data.subjects[split.train],
                    num_classes=data.num_classes,
                    seed=derive(suite.split.seed, "domain"),
                    device=device,
                )
            fitted.save(file)
        return DomainFeatures.load(file, device=device)
    return build_extractor(name, suite.evaluation, device)


def floor_draw(suite: Suite, data: ImageDataset, split: Split, protocol: Protocol) -> Draw:
    """Real validation images as if they were generated: subjects the reference has never seen, the same n."""
    labels = data.labels[split.validation]
    wanted = protocol.labels_per_class()

    def draw(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = numpy_rng(split.seed, "floor", number)
        chosen = [rng.permutation(split.validation[labels == c])[:count] for c, count in enumerate(wanted)]
        indices = np.concatenate(chosen)
        return data.bytes(indices), data.labels[indices], data.subjects[indices]

    return draw


def fresh_draw(suite: Suite, data: ImageDataset, split: Split, protocol: Protocol) -> Draw:
    """Fresh real subjects from the phantom's own process: the exact floor."""
    options = dict(suite.data)
    source_type = SOURCES.get(options.pop("source"))
    source = source_type(source_type.Options.model_validate(options))
    wanted = protocol.labels(True)
    need = max(protocol.labels_per_class())
    with SPENT.on("data"):
        pool, labels, subjects = source.fresh(need * FRESH_POOL, derive(split.seed, "fresh"))
    of_class = [np.flatnonzero(labels == index) for index in range(data.num_classes)]

    def draw(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = numpy_rng(split.seed, "fresh", number)
        counts = np.bincount(wanted, minlength=data.num_classes)
        indices = np.concatenate([rng.permutation(own)[:count] for own, count in zip(of_class, counts, strict=True)])
        return pool[indices], labels[indices], subjects[indices]

    return draw


FRESH_POOL = 3
"""Fresh images per class are drawn once, this many times what one draw takes; draws take from them at random."""


def _write_real(folder: Path, suite: Suite, data: ImageDataset, protocol: Protocol) -> None:
    """Keep a few test images per class for the report's grids, or none if they must not leave."""
    path = folder / "real.npz"
    if not suite.patient_images:
        path.unlink(missing_ok=True)
        return
    labels = data.labels[protocol.union]
    chosen = np.concatenate([protocol.union[labels == index][:SHOWN] for index in range(data.num_classes)])
    write_with(path, lambda file: np.savez_compressed(file, images=data.bytes(chosen), labels=data.labels[chosen]))


def _record(
    reference_id: str,
    suite: Suite,
    data: ImageDataset,
    split: Split,
    protocol: Protocol,
    states: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    spec = suite.evaluation
    return {
        "schema": 1,
        "reference_id": reference_id,
        "data": {
            "title": data.title,
            "simulated": data.simulated,
            "fingerprint": data.fingerprint,
            "n": len(data),
            "shape": list(data.shape),
            "skipped": len(data.skipped),
            "notes": list(data.notes),
            "class_names": list(data.class_names),
        },
        "split": {
            "by": split.by,
            "seed": split.seed,
            "hash": split.hash,
            "leaking_subjects": split.leaking_subjects,
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
        },
        "classes": class_records(data, split, protocol),
        "protocol": {
            "draws": spec.draws,
            "samples_per_draw": spec.samples_per_draw,
            "n_class": protocol.n_class,
            "n_all": protocol.n_all,
            "measures": list(spec.measures),
            "replicates": spec.bootstrap,
        },
        "features": states,
    }
