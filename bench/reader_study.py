"""A blinded reader study: real test images and generated ones, shuffled under neutral names, with a sheet for the answers.

What is handed to readers lies in one folder; which image is which lies beside it, in a file that stays behind. Both kinds
go the same way to their file: 8 bits, the same size, PNG without metadata, one fixed time stamp. Real images are of
people, so nothing is exported where the suite keeps patient images back.
"""

from __future__ import annotations

import base64
import csv
import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.errors import InputError
from bench.external import load_external
from bench.model import Translator
from bench.sampling import generate, load_model
from bench.seeds import numpy_rng
from bench.store import read_json, write_bytes

if TYPE_CHECKING:
    from PIL import Image

SHEET = ("image", "real or generated", "confidence 1 to 5", "remarks")
KEY = ("image", "truth", "class", "source")
STAMP = 946_684_800
"""The time of every exported file: 1 January 2000."""
LEAST_PIXELS = 256
"""Images are printed as they are in the file, and shown at least this wide on the sheet."""


def key_path(out: Path) -> Path:
    """Where the answers lie: beside the folder that is handed out, never in it."""
    return out.with_name(f"{out.name}-answers.csv")


def export_study(run: Path, out: Path, *, n: int, seed: int) -> Path:
    """Write `n` images, half real and half generated, a sheet (CSV and HTML) and, outside of the folder, the answers.

    Args:
        run: folder of a finished training, or of images made elsewhere, in a results folder.
        out: new or empty folder.
        n: even number of images.
        seed: of the choice and the order; another seed gives another study.

    Returns:
        The file with the answers.

    Raises:
        InputError: patient images must not be shown; no finished run; too few images; `out` or the answers exist.
    """
    results = run.resolve().parent.parent
    suite, job = read_json(results / "suite.json"), read_json(run / "job.json")
    if suite is None or job is None or not (results / "split.json").is_file():
        raise InputError(f"{run}: no run of a suite here; name a folder below results/SUITE/runs")
    if not suite.get("patient_images", True):
        raise InputError(f"{results}: the suite says patient_images: false, so no real image may leave it")
    if n < 2 or n % 2:
        raise InputError(f"--n {n}: give an even number, half of them real")
    key = key_path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose another --out")
    if key.exists():
        raise InputError(f"{key}: these answers exist; choose another --out")
    real, labels, data, result = _real(run, results, job, n // 2, seed)
    made, made_labels = _generated(run, result, labels, seed)
    rng = numpy_rng(seed, "reader study", "order")
    order = rng.permutation(n)
    images = np.concatenate([real, made])[order]
    truth = np.repeat(["real", "generated"], n // 2)[order]
    classes = np.concatenate([labels, made_labels])[order]
    names = [f"{number:0{max(3, len(str(n)))}d}.png" for number in range(1, n + 1)]
    pictures = [_picture(image) for image in images]
    for name, content in zip(names, pictures, strict=True):
        write_bytes(out / "images" / name, content)
    write_bytes(out / "sheet.csv", _table(SHEET, [(name, "", "", "") for name in names]))
    write_bytes(out / "sheet.html", _sheet(names, pictures).encode())
    for file in [*(out / "images").iterdir(), *out.glob("sheet.*")]:
        os.utime(file, (STAMP, STAMP))
    known = [data.class_names[label] if label >= 0 else "" for label in classes]
    sources = ["test split" if kind == "real" else str(result["generator"]) for kind in truth]
    write_bytes(key, _table(KEY, list(zip(names, truth, known, sources, strict=True))))
    return key


def _real(
    run: Path, results: Path, job: dict[str, Any], count: int, seed: int
) -> tuple[np.ndarray, np.ndarray, ImageDataset, dict[str, Any]]:
    """Choose test images, the classes in turn and a subject as seldom as possible."""
    folder = Path(job["data"])
    if not folder.is_dir():
        raise InputError(
            f"{folder}: the prepared images are gone; bench data prepare, or bench check, makes them again"
        )
    data = ImageDataset.open(folder)
    reference = read_json(results / "reference.json") or {}
    if reference.get("data", {}).get("fingerprint") != data.fingerprint:
        raise InputError(f"{folder}: these are no longer the images of {results}: their fingerprint differs")
    split = Split.from_json(read_json(results / "split.json"))  # type: ignore[arg-type]
    test = np.asarray(split.test)
    if count > len(test):
        raise InputError(f"--n {2 * count}: the test split has {len(test)} images, so {2 * len(test)} at most")
    rng = numpy_rng(seed, "reader study", "real")
    waiting = [
        list(_spread(data, own, rng))
        for label in range(data.num_classes)
        if len(own := test[data.labels[test] == label])
    ]
    chosen: list[int] = []
    while len(chosen) < count:
        for own in waiting:
            if own and len(chosen) < count:
                chosen.append(own.pop(0))
    indices = np.array(chosen)
    result = read_json(run / "result.json") or {}
    return data.bytes(indices), np.asarray(data.labels[indices]), data, result


def _spread(data: ImageDataset, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Order images at random so that every subject comes once before any comes again."""
    shuffled = rng.permutation(indices)
    turn: dict[Any, int] = {}
    turns = []
    for subject in np.asarray(data.subjects)[shuffled].tolist():
        turns.append(turn.get(subject, 0))
        turn[subject] = turns[-1] + 1
    return shuffled[np.argsort(turns, kind="stable")]


def _generated(run: Path, result: dict[str, Any], labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw fresh images of the same classes, or take some of those made elsewhere; return them with labels, -1 for none."""
    none = np.full(len(labels), -1)
    if result.get("role") == "external":
        external = load_external(run)
        images, drawn = external.draw(labels, seed, 0)
        if len(images) < len(labels):
            raise InputError(
                f"{run}: {len(images)} images made elsewhere of these classes, {len(labels)} needed; lower --n"
            )
        return images, drawn if external.conditional else none
    model, result = load_model(run, torch.device("cpu"))
    if isinstance(model, Translator):
        raise InputError(f"{run}: {result['generator']} translates images and draws none; name another run")
    images = generate(model, labels, int(result["seed"]), "reader study", seed, device=torch.device("cpu"))
    return images, labels if model.conditional else none


def _picture(image: np.ndarray) -> bytes:
    """PNG of uint8 [C, H, W] with nothing in it but pixels."""
    from PIL import Image

    picture: Image.Image = Image.fromarray(
        image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return stream.getvalue().encode()


def _sheet(names: Sequence[str], pictures: Sequence[bytes]) -> str:
    """One page to print: each image with boxes to tick; nothing in it tells the kinds apart."""
    parts = []
    for name, content in zip(names, pictures, strict=True):
        number = escape(name.removesuffix(".png"))
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        parts.append(
            f'<li><h2>Image {number}</h2><img src="{source}" alt="Image {number} of the study" width="{LEAST_PIXELS}">'
            "<p>☐ real &nbsp; ☐ generated</p><p>Confidence: ☐ 1 ☐ 2 ☐ 3 ☐ 4 ☐ 5</p><p>Remarks: ____________________</p></li>"
        )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Reader study</title><style>\n'
        "body { font: 11pt/1.4 system-ui, sans-serif; color: #1d2430; background: #fff; margin: 2rem; }\n"
        "ol { list-style: none; padding: 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); }\n"
        "li { break-inside: avoid; margin: 0 0 1.2rem; } h2 { font-size: 1rem; margin: 0; } p { margin: .2rem 0; }\n"
        "img { display: block; image-rendering: pixelated; height: auto; }\n</style></head><body>\n<h1>Reader study</h1>\n"
        f"<p>{len(names)} images, some real and some generated by a computer, in random order. Judge each alone, in the order "
        "given, without going back. Confidence: 1 is a guess, 5 is certain.</p>\n"
        f"<p>Reader: ____________________ &nbsp; Date: ____________</p>\n<ol>\n{chr(10).join(parts)}\n</ol>\n</body></html>\n"
    )
