"""Figures of a report: box plots, learning curves, sample grids; as SVG and PNG bytes. And how all figures look.

Every generator has one colour and one marker throughout. Drawn on figures of their own, so that neither pyplot's list
of figures nor the user's settings are touched; matplotlib and seaborn are imported when something is drawn. Where
patient images must not be shown, nothing that may be one is drawn.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from bench.metrics.records import MEASURES
from bench.report.results import ALL, Images, Key, Results, Run
from bench.report.tables import COMPETING, SHORT, Line, first_distance, lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow and black, then Tol's muted: told apart with every kind of colour vision.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#332288", "#117733", "#AA4499",
)  # fmt: skip
GREYS = ("#555555", "#888888", "#AAAAAA")
MARKERS = "osD^vPXh<>"
FLOOR = "#222222"
INK = "#333333"
PER_CLASS = 8
"""Images of a class in a block of a grid."""
MAX_ROWS = 16
"""Classes in a grid."""
BLOCKS = 150
"""Points of a learning curve; more steps are averaged."""
DPI = 110
SHIPPED = (
    "vae", "cvae", "logcosh_cvae", "gan", "dcgan", "wgan_gp", "vae_gan", "ddim", "gmvae", "hvae", "vqvae", "cgan",
    "vae_gan_knee", "cyclegan", "training_copy", "mean_image", "gaussian",
)  # fmt: skip
"""Rows whose colours are given out in this order; a row of any other name has the one that its name hashes to."""


@dataclass(frozen=True)
class Picture:
    """A figure as files: `name` has no extension; `alt` says in words what is to be seen."""

    name: str
    title: str
    caption: str
    alt: str
    svg: bytes
    png: bytes


def draw_all(results: Results) -> list[Picture]:
    """Draw every figure that the results allow."""
    with style():
        pictures = [draw_distances(results), draw_losses(results)]
        real = results.real()
        pictures += [draw_samples(results, line, real) for line in lines(results)]
    return [picture for picture in pictures if picture]


def looks(results: Results) -> dict[str, tuple[str, str]]:
    """Colour and marker of every generator: families coloured, controls grey, floors dark.

    The colour is a function of the row's name alone, and so the same in every figure of every report. Names that share
    one are told apart by their markers, which depend on the other rows.
    """
    chosen: dict[str, tuple[str, str]] = {}
    roles = {run.generator: run.role for run in (*results.runs, *results.translators)}
    for generator in sorted(roles, key=lambda name: (_place(name), name)):
        role = roles[generator]
        colours = {"control": GREYS, "floor": (FLOOR,)}.get(role, COLOURS)
        # a family with its default values, beside the tuned one, has the family's colour and another marker
        place = _place(generator.removesuffix("_default") if role == "default" else generator)
        place -= SHIPPED.index("training_copy") if role == "control" else 0
        colour = colours[place % len(colours)]
        free = (MARKERS[(place + step) % len(MARKERS)] for step in range(len(MARKERS)))
        marker = next((mark for mark in free if (colour, mark) not in chosen.values()), MARKERS[0])
        chosen[generator] = colour, marker
    return chosen


def _place(name: str) -> int:
    """Where a name stands in the order of looks: shipped rows first, any other by a hash that never changes."""
    if name in SHIPPED:
        return SHIPPED.index(name)
    return len(SHIPPED) + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


# ---- the 20 distances by class


def draw_distances(results: Results) -> Picture | None:
    """Box plots of the distances of all draws: a panel per class, a row per generator, a box per training seed."""
    first, look = first_distance(results), looks(results)
    if first is None:
        return None
    labels = [ALL, *results.class_names]
    measured = [line for line in lines(results) if any(_values(run, first) for run in line.runs)]
    shown = [line for line in measured if line.role in COMPETING] or [line for line in measured if line.role != "floor"]
    panels = [name for name in labels if any(_values(r, first._replace(label=name)) for m in shown for r in m.runs)]
    if not shown or not panels:
        return None
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(results, 11.5, rows * (0.9 + 0.3 * len(shown)))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    floors, short = "", SHORT[first.measure]
    for axes, label in zip(grid.flat, panels, strict=False):
        key = first._replace(label=label)
        floors = floor_lines(axes, results, key, vertical=True) or floors
        for row, line in enumerate(shown):
            runs = [run for run in line.runs if _values(run, key)]
            for place, run in enumerate(runs):
                height = 0.7 / len(runs)
                middle = row + (place - (len(runs) - 1) / 2) * height
                _box(axes, np.array(_values(run, key)), middle, height * 0.85, look[line.generator][0])
            if not runs and not line.conditional:
                axes.text(0.02, row, "no classes", transform=axes.get_yaxis_transform(), va="center", color="#777777")
        axes.set_title(plain("all classes" if label == ALL else label))
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    axes = grid.flat[0]
    axes.set_yticks(range(len(shown)), [plain(line.generator) for line in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    low, high = axes.dataLim.intervalx
    if low > 0 and high > 10 * low:
        logarithmic(axes, "x")
    for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel(f"{short} ({first.features}, vs test)")
        axes.tick_params(labelbottom=True)
    pooled = {line.generator: [value for run in line.runs for value in _values(run, first)] for line in shown}
    told = ", ".join(f"{name} {np.median(values):.4g}" for name, values in pooled.items() if values)
    draws = results.protocol.get("draws", "")
    return finished_picture(
        figure,
        "distances_by_class",
        "Distances by class",
        f"{short} ({first.features}, vs test) of the {draws} draws: box from the first to the third quartile, line at "
        "the median, whiskers to the farthest draw within 1.5 box lengths; a box for each training seed. "
        f"{floors}Classes have fewer images than all together: compare within a panel. Controls are in the table.",
        f"Box plots of the {MEASURES[first.measure].title}, a panel per class. Medians over all classes: {told}.",
    )


def _values(run: Run, key: Key) -> list[float]:
    score = run.scores.get(key) if run.finished else None
    return [value for value in score.draw_values if math.isfinite(value)] if score else []


def _box(axes: Axes, values: np.ndarray, middle: float, height: float, colour: str) -> None:
    """Draw a horizontal box by hand: the library's own call for it changes its arguments between releases."""
    low, centre, high = np.quantile(values, [0.25, 0.5, 0.75])
    reach = 1.5 * (high - low)
    inside = values[(values >= low - reach) & (values <= high + reach)]
    outside = values[(values < low - reach) | (values > high + reach)]
    axes.hlines(middle, inside.min(), inside.max(), color=colour, linewidth=1.2)
    axes.barh(middle, high - low, height, left=low, facecolor=colour, edgecolor=colour, alpha=0.55)
    axes.vlines(centre, middle - height / 2, middle + height / 2, color=colour, linewidth=2)
    axes.plot(outside, np.full(len(outside), middle), ".", color=colour, markersize=3)


def floor_lines(axes: Axes, results: Results, key: Key, *, vertical: bool, least: float = -math.inf) -> str:
    """Draw every floor as a line, dashed in its own way, with its interval as a band; return what they are."""
    styles = {"--": "dashed", ":": "dotted", "-.": "dash-dotted"}
    told = []
    draw, band = (axes.axvline, axes.axvspan) if vertical else (axes.axhline, axes.axhspan)
    for index, line in enumerate(line for line in lines(results) if line.role == "floor"):
        number = line.numbers.get(key)
        if number is None or not math.isfinite(number.mean):
            continue
        style = list(styles)[index % len(styles)]
        draw(number.mean, color=FLOOR, linewidth=1, linestyle=style, label=line.generator)
        told.append(f"{styles[style]} {line.generator}")
        if number.lower is not None and number.upper is not None:
            band(max(number.lower, least), number.upper, color=FLOOR, alpha=0.06, linewidth=0)
    return f"Floors, real against real, with their 95 % intervals: {', '.join(told)}. " if told else ""


def logarithmic_from(values: Iterable[float]) -> float:
    """Where a logarithmic axis of these values begins, so that no interval leads to 0; -inf where it should be linear."""
    known = list(values)
    least = min(known, default=0.0)
    return least / 3 if least > 0 and max(known) > 20 * least else -math.inf


def logarithmic(axes: Axes, direction: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, its ticks plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    (axes.set_xscale if direction == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if direction == "x" else axes.yaxis
    low, high = axis.get_data_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1, 3) if high < 1000 * low else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


# ---- learning curves


def draw_losses(results: Results) -> Picture | None:
    """Training and validation losses: a panel per generator, all its seeds."""
    records = [(line, [(run, run.losses()) for run in line.runs]) for line in lines(results)]
    records = [(line, pairs) for line, pairs in records if any(len(frame) for _, frame in pairs)]
    if not records:
        return None
    look = looks(results)
    columns = 4 if len(records) % 4 == 0 or len(records) > 9 else min(3, len(records))
    rows = math.ceil(len(records) / columns)
    figure = new_figure(results, 11.5, 2.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (line, pairs) in zip(grid.flat, records, strict=False):
        _curves(axes, [frame for _, frame in pairs if len(frame)], look[line.generator][0])
        state = "" if line.status == "finished" else f" ({line.status})"
        axes.set_title(plain(line.generator) + state)
        axes.set_xlabel("images seen (thousands)")
    for axes in list(grid.flat)[len(records) :]:
        axes.set_visible(False)
    names = ", ".join(line.generator for line, _ in records)
    return finished_picture(
        figure,
        "losses",
        "Learning curves",
        "Losses in training (coloured, a shade for each term) and on validation subjects (dark, dashed), means of at "
        f"most {BLOCKS} blocks of steps, a line for each training seed. Different families have no common scale.",
        f"Learning curves of {names}.",
    )


def _curves(axes: Axes, frames: Sequence[pd.DataFrame], colour: str) -> None:
    """Draw one generator's losses; logarithmic where they are positive and span a factor of 30."""
    everything = pd.concat(frames)
    terms = list(dict.fromkeys(everything.loc[everything["split"] == "training", "name"]))
    for number, frame in enumerate(frames):
        for (split, name), part in frame.groupby(["split", "name"], sort=False):
            part = _blocks(part)
            training = split == "training"
            shade = 1 - 0.55 * terms.index(name) / max(1, len(terms) - 1) if training and len(terms) > 1 else 1.0
            axes.plot(
                part["images_seen"] / 1000,
                part["value"],
                color=colour if training else INK,
                alpha=shade,
                linewidth=1.3,
                linestyle="-" if training else (0, (4, 2)),
                label=plain(f"{name}{'' if training else ' (validation)'}") if number == 0 else None,
            )
    finite = everything.loc[np.isfinite(everything["value"]), "value"]
    if len(finite) and finite.min() > 0 and finite.max() > 30 * finite.min():
        logarithmic(axes, "y")
    axes.legend(fontsize=7.5, frameon=False, handlelength=1.6)


def _blocks(part: pd.DataFrame) -> pd.DataFrame:
    """Average a long record in equal blocks; values that are not finite stay as gaps."""
    part = part.loc[:, ["images_seen", "value"]].replace([np.inf, -np.inf], np.nan)
    if len(part) <= BLOCKS:
        return part
    block = np.arange(len(part)) * BLOCKS // len(part)
    return part.groupby(block).mean()


# ---- samples


def draw_samples(results: Results, line: Line, real: Images | None) -> Picture | None:
    """The first images of the first draw beside real test images, a row per class; one block if there are no classes.

    Without leave to show patient images the real block is missing, and so are whole grids that may hold patients:
    controls (they are made of training images), images made elsewhere, and what the memorisation check has caught.
    """
    if line.role == "floor" or line in withheld(results):
        return None
    run = next((run for run in line.runs if run.finished), None)
    samples = run.samples() if run else None
    if samples is None or not len(samples.pixels):
        return None
    names = results.class_names[:MAX_ROWS]
    blocks = [("real test images", real), (f"{line.generator}", samples)] if real is not None else [("", samples)]
    if line.conditional:
        tiles = [[_of_class(images, index) for index in range(len(names))] for _, images in blocks]
    else:
        rows = min(3, max(1, len(names)))
        tiles = [[_spread(images)[r * PER_CLASS : (r + 1) * PER_CLASS] for r in range(rows)] for _, images in blocks]
    figure = _grid(results, tiles, [title for title, _ in blocks], list(names) if line.conditional else [])
    sides = f"Left: real test images. Right: {line.generator}" if real is not None else line.generator
    chosen = "the first of draw 1, not selected"
    rows_are = "a row for each class" if line.conditional else "unconditional, so without classes"
    more = f" (the first {MAX_ROWS} of {len(results.class_names)})" if len(results.class_names) > MAX_ROWS else ""
    return finished_picture(
        figure,
        f"samples_{slug(line.generator)}",
        f"Samples of {line.generator}",
        f"{sides}: {chosen}; {rows_are}{more if line.conditional else ''}.",
        f"Grid of images made by {line.generator}{' beside real test images' if real is not None else ''}, {rows_are}.",
    )


def withheld(results: Results) -> list[Line]:
    """The generators whose images must not be shown, since they may be patients."""
    made = [line for line in lines(results) if line.finished and line.role != "floor"]
    hidden = ("control", "external")  # nobody knows what lies in a folder made elsewhere
    return [] if results.patient_images else [line for line in made if line.role in hidden or line.copies]


def slug(name: str) -> str:
    """Make a name safe as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "unnamed"


def _of_class(images: Images | None, label: int) -> np.ndarray:
    assert images is not None
    return images.pixels[images.labels == label][:PER_CLASS]


def _spread(images: Images | None) -> np.ndarray:
    """Take images evenly over the archive, which may be sorted by class."""
    assert images is not None
    count = min(len(images.pixels), 3 * PER_CLASS)
    return images.pixels[np.arange(count) * len(images.pixels) // count]


def _grid(results: Results, tiles: Sequence[Sequence[np.ndarray]], titles: Sequence[str], names: list[str]) -> Figure:
    """Lay blocks of image rows side by side, one pixel of the montage on one pixel of the figure."""
    height, width = tile_size(next(row for block in tiles for row in block if len(row)).shape[-2:])
    montages = [montage(block, height, width) for block in tiles]
    left = 12 + (10 + 9 * max(map(len, names)) if names else 0)
    gap, top, bottom = 18, 26 if any(titles) else 6, 22
    full_width = left + sum(m.shape[1] for m in montages) + gap * (len(montages) - 1) + 8
    full_height = top + montages[0].shape[0] + bottom
    figure = new_figure(results, full_width / DPI, full_height / DPI, constrained=False)
    x = left
    for index, (sheet, title) in enumerate(zip(montages, titles, strict=True)):
        h, w = sheet.shape[:2]
        axes = figure.add_axes((x / full_width, bottom / full_height, w / full_width, h / full_height))
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_title(plain(title), loc="left", fontsize=10)
        if index == 0 and names:
            axes.set_yticks([(row + 0.5) * h / len(names) for row in range(len(names))], [plain(n) for n in names])
            axes.tick_params(length=0)
        x += w + gap
    return figure


def tile_size(size: tuple[int, ...]) -> tuple[int, int]:
    """Small images are enlarged by a whole factor, large ones reduced to 96."""
    height, width = size
    if max(height, width) > 96:
        return max(1, round(height * 96 / max(size))), max(1, round(width * 96 / max(size)))
    factor = max(1, 64 // max(height, width))
    return height * factor, width * factor


def montage(rows: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Set rows of images [n, C, H, W] on white, two pixels apart: uint8 [rows, columns] or [rows, columns, 3]."""
    from PIL import Image

    colour = any(len(row) and row.shape[1] >= 3 for row in rows)
    shape = (len(rows) * (height + 2), PER_CLASS * (width + 2), *((3,) if colour else ()))
    canvas = np.full(shape, 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, pixels in enumerate(row[:PER_CLASS]):
            array = np.moveaxis(pixels[:3], 0, -1) if colour and pixels.shape[0] >= 3 else pixels[0]
            resample = Image.Resampling.NEAREST if height >= array.shape[0] else Image.Resampling.LANCZOS
            tile = np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize((width, height), resample))
            tile = np.repeat(tile[..., None], 3, axis=-1) if colour and tile.ndim == 2 else tile
            y, x = r * (height + 2) + 1, c * (width + 2) + 1
            canvas[y : y + height, x : x + width] = tile
    return canvas


# ---- style and files


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Our settings for the time of drawing, then the user's again."""
    import matplotlib as mpl
    import seaborn as sns

    ours = {
        **sns.axes_style("whitegrid"),
        **sns.plotting_context("paper", font_scale=1.05),
        "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same letters everywhere
        "svg.fonttype": "none",  # text stays text: small, searchable
        "svg.hashsalt": "medgenbench",  # equal figures give equal bytes
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#BBBBBB",
        "grid.color": "#E6E6E6",
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": DPI,
        "savefig.dpi": DPI,
    }
    with mpl.rc_context(ours):
        yield


def new_figure(results: Results, width: float, height: float, *, constrained: bool = True) -> Figure:
    """A figure that pyplot doesn't know, with the data named at its foot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if constrained else None)
    foot = results.data_label + (f" – {results.stamp.upper()}" if results.stamp else "")
    text = figure.text(0.995, 4 / (height * DPI), plain(foot), ha="right", va="bottom", fontsize=7, color="#777777")
    text.set_in_layout(False)
    if constrained:
        layout = figure.get_layout_engine()
        assert layout is not None
        layout.set(rect=(0, 14 / (height * DPI), 1, 1 - 14 / (height * DPI)))  # type: ignore[call-arg]
    return figure


def finished_picture(figure: Figure, name: str, title: str, caption: str, alt: str) -> Picture:
    """Save a figure as SVG and PNG, equal bytes for equal figures."""
    files = {}
    for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        files[kind] = buffer.getvalue()
    return Picture(name, title, caption, alt, files["svg"], files["png"])


def plain(text: str) -> str:
    """Keep names from being read as formulas."""
    return text.replace("$", r"\$")
