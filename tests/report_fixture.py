"""A small made-up results folder in the harness's format, for tests of the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bench.metrics.records import MEASURES

CLASSES = ("Gyroscan Intera", "Intera", "Magnetom TrioTim", "Unspecified")
DISTANCE = {
    "floor_validation": 2.1,
    "floor_fresh": 1.9,
    "vae": 31.0,
    "cvae": 14.0,
    "dcgan": 22.0,
    "wgan_gp": 18.0,
    "training_copy": 2.4,
    "mean_image": 240.0,
    "gaussian": 45.0,
}
ROLES = {"floor_validation": "floor", "floor_fresh": "floor"} | dict.fromkeys(
    ("training_copy", "mean_image", "gaussian"), "control"
)
FAMILIES = ("vae", "cvae", "dcgan", "wgan_gp")
SEEDS = {"vae": 2, "cvae": 2}
ENDINGS = {
    "dcgan": ("diverged", "diverged at step 812: the discriminator's loss is not finite"),
    "wgan_gp": ("failed", "out of memory: 3.1 GiB asked for, 2.0 GiB free"),
}
ENVIRONMENT = {
    "processor": "Example CPU 3000",
    "gpu": None,
    "threads": 2,
    "python": "3.11.9",
    "torch": "2.13.0",
    "medgenbench": "0.1.0",
    "platform": "Linux-6.1-x86_64",
}


PROGRESS_REAL = {"domain/frechet_distance": 0.75, "domain/inception_score": 3.1, "random/frechet_distance": 0.04}


def write_results(
    folder: Path,
    *,
    classes: tuple[str, ...] = CLASSES,
    distance: Mapping[str, float] = DISTANCE,
    seeds: Mapping[str, int] = SEEDS,
    endings: Mapping[str, tuple[str, str]] = ENDINGS,
    pending: tuple[str, ...] = (),
    stamp: str | None = None,
    simulated: bool = True,
    patient_images: bool = True,
    side: int = 24,
    spread: float = 0.4,
    external: tuple[str, ...] = (),
    per_class: tuple[str, ...] = (),
    presets: Mapping[str, str] = MappingProxyType({}),
    progress: bool = False,
    recognition: bool = False,
    reported: tuple[Mapping[str, Any], ...] = (),
) -> Path:
    """Write a results folder: two floors, four families (one failed, one diverged) and three controls; return it.

    Args:
        external: rows that are images made elsewhere (of those in `distance`).
        per_class: families with one model per class.
        presets: family -> the source's hyper-parameters it used.
        progress: give the families scores on the way, and the reference the real-data line.
        recognition: give conditional rows and floors their class accuracy, and the reference that of real images.
        reported: what the suite quotes from sources.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for generator in distance:
        for seed in range(seeds.get(generator, 1)):
            run = f"runs/{generator}-seed{seed}-0123456789ab"
            role = "external" if generator in external else ROLES.get(generator, "family")
            rows.append(
                {"generator": generator, "role": role, "seed": seed, "run": run, "evaluation": "evaluation-ab12.json"}
            )
            if generator not in pending:
                ending = endings.get(generator, ("finished", None))
                _write_run(folder / run, generator, seed, distance[generator], ending, classes, rng, side, spread)
                result = folder / run / "result.json"
                if generator in external:
                    made = {"images": 1234, "path_name": "their images", "rule": "read as 8 bits"}
                    head = {"role": "external", "family": "external", "hyperparameters": {}, "policy": {}, "costs": {}}
                    _update(result, {**head, "images_seen": None, "external": made})
                elif role == "family":
                    policy = {"weights": "last", "unconditional": "per_class", "precision": "bfloat16"}
                    _update(
                        result,
                        {"preset": presets.get(generator)} | ({"policy": policy} if generator in per_class else {}),
                    )
                    if progress:
                        _progress(folder / run / "progress.csv", distance[generator] + 0.6 * seed)
                if recognition and (folder / run / "evaluation-ab12.json").exists():
                    _recognise(folder / run / "evaluation-ab12.json", distance[generator], classes)
    _json(folder / "plan.json", {"schema": 1, "suite": "example", "stamp": stamp, "rows": rows})
    reference = _reference(classes, simulated, side)
    if progress:
        reference["progress"] = {"points": 10, "n": 240, "real": PROGRESS_REAL}
    if recognition:
        reference["recognition"] = {"domain": {"all": 0.93} | {name: 0.9 + i / 100 for i, name in enumerate(classes)}}
    _json(folder / "reference.json", reference)
    suite: dict[str, Any] = {"name": "example", "patient_images": patient_images, "budget": {"images_seen": 60000}}
    if reported:
        suite["reported"] = list(reported)
    _json(folder / "suite.json", suite)
    text = f"name: example\npatient_images: {str(patient_images).lower()}\nbudget: {{images_seen: 60000}}\n"
    (folder / "suite.yaml").write_text(text)
    if patient_images:
        labels = np.repeat(np.arange(len(classes)), 8)
        np.savez_compressed(folder / "real.npz", images=_images(labels, rng, side, 0.03), labels=labels)
    return folder


def _write_run(
    folder: Path,
    generator: str,
    seed: int,
    distance: float,
    ending: tuple[str, str | None],
    classes: tuple[str, ...],
    rng: np.random.Generator,
    side: int,
    spread: float,
) -> None:
    folder.mkdir(parents=True)
    status, reason = ending
    role = ROLES.get(generator, "family")
    trained = role == "family"
    conditional = generator not in ("vae", "gaussian", "mean_image")
    head = {"schema": 1, "train_id": "0123456789ab", "generator": generator, "seed": seed}
    result: dict[str, Any] = {
        **head,
        "family": "floor" if role == "floor" else generator,
        "role": role,
        "status": status,
        "reason": reason,
        "hyperparameters": {"batch_size": 64, "latent_dim": 64, "learning_rate": 3e-4} if trained else {},
        "conditional": conditional,
        "policy": {"weights": "ema 0.999" if generator == "cvae" else "last", "batch_norm": "evaluation"},
        "images_seen": 60000 if trained else 0,
        "environment": ENVIRONMENT,
    }
    if role != "floor":
        result["costs"] = {
            "training_seconds": distance * 7 + seed if trained else 0.02 * distance,
            "seconds_per_1000_samples": 0.4 + distance / 20,
            "peak_memory_bytes": 400 * 2**20 + distance * 2**20,
            "parameters": 1_234_567 if trained else 0,
        }
    _json(folder / "result.json", result)
    if trained:
        _losses(folder / "losses.csv", rng, diverged=status == "diverged")
    if status != "finished":
        return
    scores, replicates = _scores(generator, distance + 0.6 * seed, conditional, classes, rng, spread)
    _json(
        folder / "evaluation-ab12.json",
        {**head, "eval_id": "ab12", "status": "finished", "reason": None, "scores": scores, "replicates": replicates},
    )
    labels = np.repeat(np.arange(len(classes)), 8)
    noise = {"mean_image": 0.0, "training_copy": 0.03}.get(generator, 0.06)
    np.savez_compressed(folder / "samples.npz", images=_images(labels, rng, side, noise), labels=labels)


def _scores(
    generator: str,
    distance: float,
    conditional: bool,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    spread: float,
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    scores: list[dict[str, Any]] = []
    replicates: dict[str, list[float]] = {}
    share = 1 / (1 + distance / 20)
    copies = generator == "training_copy"
    numbers = {
        "frechet_distance": (distance, spread),
        "kernel_distance": (distance / 300, spread / 300),
        "precision": (0.9 * share, 0.02),
        "recall": (0.0 if generator == "mean_image" else 0.85 * share, 0.02),
        "density": (1.0 * share, 0.03),
        "coverage": (0.95 * share, 0.02),
        "memorization": (-21.0 if copies else 1.5, 0.8),
        "near_copies": (1.0 if copies else 0.011, 0.002),
        "ssim_diversity": (0.21, 0.004),
    }
    for label in ("all", *classes) if conditional else ("all",):
        few = label == classes[-1]
        n = 280 if label == "all" else 24 if few else 70
        for measure, (mean, std) in numbers.items():
            if label != "all" and measure != "frechet_distance":
                continue
            mean = mean * (1 if label == "all" else 1.3 + 0.2 * classes.index(label))
            values = rng.normal(mean, std, 20)
            features = "" if measure == "ssim_diversity" else "domain"
            flag = "too few" if few else "n < 2d" if measure == "frechet_distance" and n < 126 else ""
            entry = {"class": label, "features": features, "measure": measure, "n_real": n, "flag": flag}
            if few:  # a row without a number, so that nobody wonders where the class is
                empty = {"mean": None, "std": None, "draws": 0, "n_generated": 0, "lower": None, "upper": None}
                scores.append({**entry, **empty, "values": []})
                continue
            distance_like = measure in ("frechet_distance", "kernel_distance")
            half = 3 * std if distance_like else None
            ends = {"lower": mean - half, "upper": mean + half} if half else {"lower": None, "upper": None}
            entry |= {"mean": mean, "std": std, "draws": 20, "n_generated": n, **ends}
            scores.append({**entry, "values": [float(value) for value in values]})
            if half is None:
                continue
            key = f"{label}/{features}/{measure}"
            replicates[key] = [float(value) for value in rng.normal(mean, half / 2, 200)]
    return scores, replicates


def _progress(path: Path, distance: float) -> None:
    """Scores at ten points of 60,000 images that fall to the final distance: k tenths give distance * 10 / k."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["images_seen", "class", "features", "measure", "value", "n"])
        for point in range(1, 11):
            values = {"frechet_distance": distance * 10 / point, "inception_score": 3 - 1 / point}
            for measure, value in values.items():
                writer.writerow([point * 6000, "all", "domain", measure, value, 240])
            writer.writerow([point * 6000, "all", "random", "frechet_distance", distance / 10 / point, 240])


def _recognise(path: Path, distance: float, classes: tuple[str, ...]) -> None:
    """Add the class accuracy to an evaluation that has scores by class; the smallest class has none."""
    record = json.loads(path.read_text())
    labels = [name for name in ("all", *classes[:-1]) if any(score["class"] == name for score in record["scores"])]
    if len(labels) == 1:
        return
    for place, name in enumerate(labels):
        mean = 0.95 / (1 + distance / 60) - place / 100
        entry = {"class": name, "features": "domain", "measure": "class_accuracy", "mean": mean, "std": 0.012}
        counts = {"draws": 20, "n_real": 70, "n_generated": 70, "lower": None, "upper": None, "flag": "", "values": []}
        record["scores"].append({**entry, **counts})
    _json(path, record)


def _losses(path: Path, rng: np.random.Generator, *, diverged: bool) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "images_seen", "split", "name", "value"])
        for step in range(0, 900, 2):
            for name, level in (("loss", 40.0), ("reconstruction", 30.0), ("kl", 10.0)):
                value = level * (0.3 + np.exp(-step / 150)) + rng.normal(0, 0.5)
                value = float("nan") if diverged and step > 800 else value
                writer.writerow([step, step * 64, "training", name, value])
            if step % 100 == 0:
                writer.writerow([step, step * 64, "validation", "loss", 42.0 * (0.32 + np.exp(-step / 150))])


def _reference(classes: tuple[str, ...], simulated: bool, side: int) -> dict[str, Any]:
    return {
        "schema": 1,
        "reference_id": "feedbeef0123",
        "data": {
            "title": "scanner phantom (simulated)" if simulated else "hospital set",
            "simulated": simulated,
            "fingerprint": "0011223344556677",
            "n": 4000,
            "shape": [1, side, side],
            "skipped": 0,
            "class_names": list(classes),
        },
        "split": {
            "by": "subject", "seed": 0, "hash": "8899aabbccddeeff", "leaking_subjects": 0,
            "train": 2400, "validation": 600, "test": 1000,
        },
        "classes": [
            {"name": name, "train": 600, "validation": 150, "test": 24 if last else 325,
             "subjects_test": 3 if last else 33, "n": 24 if last else 70, "few": last}
            for name in classes
            for last in [name == classes[-1]]
        ],
        "protocol": {
            "draws": 20, "samples_per_draw": 200, "n_class": 70, "n_all": 280, "replicates": 200,
            "measures": ["frechet_distance", "kernel_distance", "precision_recall", "ssim", "memorization"],
        },
        "features": {
            "domain": {"status": "ok", "dimensions": 63, "rule": "one channel, 64 × 64", "version": "1",
                       "details": {"held_out_accuracy": 0.974, "seeds": 3}},
            "inception": {"status": "unavailable", "reason": "weights could not be downloaded"},
        },
    }  # fmt: skip


def _images(labels: np.ndarray, rng: np.random.Generator, side: int, noise: float) -> np.ndarray:
    """Discs with an inner disc, brighter by class: uint8 [n, 1, side, side]."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    images = np.zeros((len(labels), 1, side, side))
    for index, label in enumerate(labels):
        a, b = 0.7 + rng.normal(0, noise), 0.85 + rng.normal(0, noise)
        images[index, 0] = (0.35 + 0.1 * label) * ((x / a) ** 2 + (y / b) ** 2 < 1) + 0.2 * (x**2 + y**2 < 0.1 + noise)
    images += rng.normal(0, noise, images.shape)
    return np.rint(255 * images.clip(0, 1)).astype(np.uint8)


def _update(path: Path, changes: Mapping[str, Any]) -> None:
    _json(path, json.loads(path.read_text()) | changes)


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def widen(folder: Path, features: tuple[str, ...] = ("random", "inception")) -> None:
    """Give results every measure there is, and these features besides the domain's, with as many classes."""
    rng = np.random.default_rng(2)
    for path in folder.glob("runs/*/evaluation-*.json"):
        record = json.loads(path.read_text())
        every = [score for score in record["scores"] if score["class"] == "all"]
        known = {score["measure"] for score in every}
        like = next(score for score in every if score["measure"] == "precision")
        made = [{**like, "measure": measure} for measure in MEASURES if measure not in known]
        about = {"frechet_distance_infinity": "n times 0.5, 0.625, 0.75, 1 in 2 orders"}
        scores = [{**score, "about": about.get(score["measure"], "")} for score in [*record["scores"], *made]]
        for name in features:
            scores += [
                {**score, "features": name, "mean": score["mean"] and score["mean"] * float(rng.uniform(10, 1000))}
                for score in scores
                if score["features"] == "domain"
            ]
        _json(path, {**record, "scores": scores})
    reference = json.loads((folder / "reference.json").read_text())
    reference["features"] |= {name: {**reference["features"]["domain"], "dimensions": 2048} for name in features}
    _json(folder / "reference.json", reference)


def add_interpolations(folder: Path, rows: tuple[str, ...] = ("cvae", "vae"), steps: int = 8) -> None:
    """Give rows walks through latent space: one for each class, or four without classes."""
    plan = json.loads((folder / "plan.json").read_text())
    labels = np.arange(len(json.loads((folder / "reference.json").read_text())["classes"]))
    for row in plan["rows"]:
        if row["generator"] in rows:
            images = _images(labels.repeat(steps), np.random.default_rng(1), 24, 0.02)
            shown = (
                labels if json.loads((folder / row["run"] / "result.json").read_text())["conditional"] else labels * 0
            )
            np.savez_compressed(
                folder / row["run"] / "interpolations.npz",
                images=images.reshape(len(labels), steps, *images.shape[1:]),
                labels=shown,
            )
