"""Scoring of translators: real test images of other classes, turned into each class, against that class's test images.

Sources and references are both test images, of different classes; where a subject has images of several classes, a source
never comes from a subject whose own image of the target class is possible to be compared with it: such pairs are left out.
The same images untranslated are scored beside: a translation must beat them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.errors import BenchError, NotFiniteError
from bench.evaluate import ALL, Draw, Protocol, Scorer
from bench.metrics.similarity import ssim_pairs
from bench.model import Translator
from bench.sampling import CHUNK
from bench.seeds import Name, numpy_rng, torch_rng


def translate(
    model: Translator,
    images: torch.Tensor,
    source: np.ndarray,
    target: np.ndarray,
    seed: int,
    *names: Name,
    device: torch.device,
) -> np.ndarray:
    """Translate images [n, C, H, W] in [0, 1] in chunks and quantise them to 8 bits.

    Raises:
        NotFiniteError: values that are not finite.
        BenchError: another shape, or values outside [0, 1].
    """
    chunks = []
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        a, b = (torch.from_numpy(np.asarray(side[part], dtype=np.int64)).to(device) for side in (source, target))
        with torch.no_grad():
            found = model.translate(images[part].to(device), a, b, torch_rng(seed, *names, start)).float()
        if found.shape != images[part].shape:
            raise BenchError(f"translate returned shape {tuple(found.shape)} for {tuple(images[part].shape)}")
        if not bool(torch.isfinite(found).all()):
            raise NotFiniteError("translate returned values that are not finite")
        if float(found.min()) < -1e-3 or float(found.max()) > 1 + 1e-3:
            raise BenchError(f"translate returned values in [{float(found.min()):g}, {float(found.max()):g}]")
        chunks.append((found.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(chunks)


def sources(data: ImageDataset, split: Split, target: np.ndarray, number: int) -> np.ndarray:
    """Choose for each target class a test image of another class and of a subject without test images of the target."""
    rng = numpy_rng(split.seed, "translation", number)
    labels, subjects = data.labels[split.test], data.subjects[split.test]
    chosen = np.empty(len(target), np.int64)
    for label in np.unique(target):
        own = set(subjects[labels == label].tolist())
        possible = split.test[(labels != label) & ~np.isin(subjects, list(own))]
        if not len(possible):  # every subject has every class: then other classes must do
            possible = split.test[labels != label]
        wanted = np.flatnonzero(target == label)
        rounds = -(-len(wanted) // len(possible))
        chosen[wanted] = np.concatenate([rng.permutation(possible) for _ in range(rounds)])[: len(wanted)]
    return chosen


def evaluate_translator(
    model: Translator,
    scorer: Scorer,
    protocol: Protocol,
    data: ImageDataset,
    split: Split,
    seed: int,
    device: torch.device,
    emit: Callable[..., None],
) -> tuple[list[dict[str, Any]], dict[str, list[Any]], dict[str, Any]]:
    """Score translated and untranslated images.

    Returns:
        Rows and replicates as `Scorer.score` gives them, and what only translators have: 'untranslated', rows of the
        source images as they are, and 'kept', the mean SSIM between source and translation of the first draw by class.
    """
    wanted = protocol.labels(True)

    def untranslated(number: int) -> tuple[np.ndarray, np.ndarray, None]:
        return data.bytes(sources(data, split, wanted, number)), wanted, None

    translated = translated_draw(model, data, split, wanted, seed, device)
    rows, replicates = scorer.score(translated, conditional=True, emit=emit)
    plain, _ = scorer.score(untranslated, conditional=True, emit=emit)
    similarity = ssim_pairs(first=untranslated(0)[0], second=translated(0)[0])
    kept = {ALL: float(similarity.mean())}
    for label in np.unique(wanted):
        kept[data.class_names[label]] = float(similarity[wanted == label].mean())
    return rows, replicates, {"untranslated": plain, "kept": kept}


def translated_draw(
    model: Translator, data: ImageDataset, split: Split, wanted: np.ndarray, seed: int, device: torch.device
) -> Draw:
    """Return the draws of translated images."""

    def draw(number: int) -> tuple[np.ndarray, np.ndarray, None]:
        chosen = sources(data, split, wanted, number)
        images = data.floats(chosen)
        return translate(model, images, data.labels[chosen], wanted, seed, "draw", number, device=device), wanted, None

    return draw


def pairs_shown(
    model: Translator, data: ImageDataset, split: Split, seed: int, device: torch.device, columns: int = 8
) -> np.ndarray:
    """Return a sheet of images [rows * columns, C, H, W]: for each target class a row of sources above their translations."""
    rows = []
    for label in range(data.num_classes):
        target = np.full(columns, label)
        chosen = sources(data, split, target, 0)
        rows += [
            data.bytes(chosen),
            translate(model, data.floats(chosen), data.labels[chosen], target, seed, "shown", device=device),
        ]
    return np.concatenate(rows)
