"""`bench data show`: what a suite's data are, as a table, lines and pictures. Trains and scores nothing."""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from bench.data.dataset import CHUNK, ImageDataset
from bench.data.duplicates import Pair
from bench.data.splits import PARTS
from bench.divide import crossing, remarks, sides_of
from bench.prepared import Prepared
from bench.store import write_bytes, write_with

LISTED = 10
"""Lines of duplicates and of files left out that are printed; all stand in the CSV files."""
SHEET = 10
"""Images of each class on the contact sheet."""
BINS = 64


def counts_table(prepared: Prepared) -> Table:
    """Images (and subjects) of every class in every part."""
    data, split = prepared.data, prepared.split
    title = (
        f"{data.title}: {len(data):,} images {data.shape}, {len(set(data.subjects.tolist())):,} subjects; by {split.by}"
    )
    table = Table(title=title, header_style="bold", caption="images (subjects)")
    for head in ("class", *PARTS, "all"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for label, name in enumerate((*data.class_names, "all") if data.num_classes > 1 else data.class_names):
        row = []
        for own in (*split.parts().values(), np.arange(len(data))):
            chosen = own if label == data.num_classes else own[data.labels[own] == label]
            row.append(f"{len(chosen):,} ({len(set(data.subjects[chosen].tolist())):,})")
        table.add_row(name, *row)
    return table


def duplicate_lines(prepared: Prepared) -> list[str]:
    """Remarks on the split, and the first pairs of repeated images, those across its borders first."""
    lines = [f"warning: {note}" for note in remarks(prepared.data, prepared.split, prepared.duplicates)]
    if prepared.data.simulated:
        return [*lines, "duplicates: not sought, the images are simulated"]
    borders = set(crossing(prepared.split, prepared.duplicates))
    exact = sum(pair.exact for pair in prepared.duplicates)
    lines.append(
        f"duplicates: {len(prepared.duplicates)} pairs, {exact} exact; {len(borders)} on two sides of the split"
    )
    subjects = prepared.data.subjects
    own = [p for p in prepared.duplicates if not p.exact and subjects[p.first] == subjects[p.second]]
    if own:  # neighbouring slices are: nothing to look at one by one
        lines.append(f"  {len(own)} are nearly the same images of one subject: duplicates.csv names them")
    ordered = sorted(set(prepared.duplicates) - set(own), key=lambda pair: (pair not in borders, pair[:2]))
    for pair in ordered[:LISTED]:
        row = _duplicate(prepared, pair)
        lines.append(f"  {row['first']} ({row['first_part']}) = {row['second']} ({row['second_part']}), {row['how']}")
    return lines


def skipped_lines(prepared: Prepared) -> list[str]:
    """How many images were left out, by reason, and the first of them."""
    skipped = prepared.data.skipped
    reasons = Counter(reason for _, reason in skipped)
    lines = [f"left out: {len(skipped)} images"] + [
        f"  {count} {reason}" for reason, count in reasons.most_common(LISTED)
    ]
    return lines + [f"  {name}: {reason}" for name, reason in skipped[:LISTED]]


def write_pictures(prepared: Prepared, out: Path) -> list[Path]:
    """Write histograms, contact sheet, pairs and tables into `out`; no image where the suite keeps patients' images in."""
    written = [_write_csv(out / "skipped.csv", ("name", "reason"), [list(row) for row in prepared.data.skipped])]
    pairs = [_duplicate(prepared, pair) for pair in prepared.duplicates]
    heads = ("first", "first_part", "second", "second_part", "how")
    written.append(_write_csv(out / "duplicates.csv", heads, [[row[head] for head in heads] for row in pairs]))
    written.append(_histograms(prepared, out / "histograms.png"))
    if prepared.suite.patient_images:
        written.append(_sheet(prepared.data, out / "contact_sheet.png"))
        if prepared.duplicates:
            written.append(_pairs(prepared, out / "duplicates.png"))
    return written


def _duplicate(prepared: Prepared, pair: Pair) -> dict[str, str]:
    side = sides_of(prepared.split)
    names = ("train", "validation", "test", "none")
    first, second = (names[side.get(index, 3)] for index in pair[:2])
    how = "exactly" if pair.exact else f"nearly, correlation {pair.correlation:.3f}"
    data = prepared.data
    return {"first": data.names[pair.first], "first_part": first, "second": data.names[pair.second],
            "second_part": second, "how": how}  # fmt: skip


def _write_csv(path: Path, heads: tuple[str, ...], rows: list[list[str]]) -> Path:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([heads, *rows])
    write_bytes(path, stream.getvalue().encode())
    return path


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph", UserWarning
        )  # a class in a script that the font lacks shows as a box
        write_with(path, lambda file: figure.savefig(file, format="png", dpi=100))
    return path


def _histograms(prepared: Prepared, path: Path) -> Path:
    """Share of grey levels by class: they should lie alike, and fill the range."""
    data = prepared.data
    figure, axes = _figure(1, 1, 7, 3.5)
    for label, name in enumerate(data.class_names):
        own = np.flatnonzero(data.labels == label)
        counts = np.zeros(BINS)
        for start in range(0, len(own), CHUNK):
            counts += np.histogram(data.bytes(own[start : start + CHUNK]), bins=BINS, range=(0, 256))[0]
        axes[0, 0].plot((np.arange(BINS) + 0.5) / BINS, counts / max(1, counts.sum()), label=name)
    axes[0, 0].set(xlabel="grey level, 0 black to 1 white", ylabel="share of pixels", yscale="log")
    axes[0, 0].legend(fontsize="small")
    return _save(figure, path)


def _sheet(data: ImageDataset, path: Path) -> Path:
    """A row per class of images at equal distances."""
    figure, axes = _figure(data.num_classes, SHEET, SHEET, 1.15 * data.num_classes)
    for label, name in enumerate(data.class_names):
        own = np.flatnonzero(data.labels == label)
        chosen = own[np.linspace(0, len(own) - 1, min(SHEET, len(own))).astype(int)]
        _row(axes[label], data, chosen, f"{name} ({len(own):,})")
    return _save(figure, path)


def _pairs(prepared: Prepared, path: Path) -> Path:
    """The first pairs side by side."""
    shown = prepared.duplicates[:LISTED]
    figure, axes = _figure(len(shown), 2, 4.5, 2.2 * len(shown))
    for row, pair in zip(axes, shown, strict=True):
        _row(row, prepared.data, np.array(pair[:2]), "")
        for axis, index in zip(row, pair[:2], strict=True):
            axis.set_title(prepared.data.names[index], fontsize=6)
    return _save(figure, path)


def _row(axes: Any, data: ImageDataset, chosen: np.ndarray, title: str) -> None:
    for axis in axes:
        axis.axis("off")
    for axis, image in zip(axes, data.bytes(chosen), strict=False):
        axis.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    axes[0].set_title(title, fontsize=7, loc="left")
