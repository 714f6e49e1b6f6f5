"""The table of translators: images of one class turned into another's, beside the same images left as they are."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import numpy as np

from bench.errors import InputError
from bench.report.figures import Picture, finished_picture, new_figure, slug
from bench.report.results import ALL, COST_ORDER, DAMAGE, REMEDY, Key, Results, Run, Score
from bench.report.tables import NOTHING, SHORT, Cell, Column, Table, cost_text

MEASURES_SHOWN = ("frechet_distance", "class_accuracy", "precision", "recall")


def translator_tables(results: Results) -> list[Table]:
    """Means over the target classes with costs, then the distance to each; none where the suite has no translator."""
    done = [run for run in results.translators if run.finished]
    if not results.translators:
        return []
    return [_main(results, done), *([_by_class(results, done)] if done else [])]


def draw_translations(results: Results) -> list[Picture]:
    """For every translator a sheet: for each target class a row of sources above what became of them.

    None where patient images must not be shown: the sources are some.
    """
    from PIL import Image

    pictures = []
    for name in dict.fromkeys(run.generator for run in results.translators) if results.patient_images else ():
        run = next((run for run in results.translators if run.generator == name and run.finished), None)
        if run is None or run.folder is None or not (run.folder / "samples.png").is_file():
            continue
        try:
            with Image.open(run.folder / "samples.png") as image:
                sheet = np.asarray(image.convert("RGB"))
        except DAMAGE as error:
            raise InputError(f"{run.folder / 'samples.png'}: can't be read as a picture: {error}; {REMEDY}") from None
        figure = new_figure(results, 9, 9 * sheet.shape[0] / sheet.shape[1] + 0.3)
        axes = figure.subplots()
        axes.imshow(sheet, interpolation="nearest")
        axes.set_axis_off()
        order = ", ".join(results.class_names)
        caption = (
            f"Two rows for each target class, in the order {order}: real test images of other classes above, the same "
            f"turned into the target class below. Seed {run.seed}."
        )
        title = f"Translations by {name}"
        pictures.append(finished_picture(figure, f"translations_{slug(name)}", title, caption, title))
    return pictures


def _main(results: Results, done: list[Run]) -> Table:
    keys = [
        key
        for name in results.features
        for measure in MEASURES_SHOWN
        if any((key := Key(ALL, name, measure)) in run.scores for run in done)
    ]
    classes = [name for name in results.class_names if any(key.label == name for run in done for key in run.scores)]
    heads = [Column("Translator"), *(Column(SHORT[key.measure], f"{key.features}, vs test") for key in keys)]
    heads += [Column("SSIM kept ↑", "source against translation"), Column("Training ↓", "wall-clock")]
    rows = []
    if done:
        plain = [_mean(done, key, classes, translated=False) for key in keys]
        rows.append((Cell("not translated"), *plain, Cell("1.000"), Cell(NOTHING)))
    for name in dict.fromkeys(run.generator for run in results.translators):
        runs = [run for run in done if run.generator == name]
        if not runs:
            status = next(run.status for run in results.translators if run.generator == name)
            rows.append((Cell(name, status), *[Cell(NOTHING)] * (len(keys) + 2)))
            continue
        kept = fmean(run.kept.get(ALL, float("nan")) for run in runs)
        seconds = fmean(run.costs.get(COST_ORDER[0], float("nan")) for run in runs)
        cells = [_mean(runs, key, classes, translated=True) for key in keys]
        rows.append((Cell(name), *cells, Cell(f"{kept:.3f}"), Cell(cost_text(COST_ORDER[0], seconds))))
    notes = (
        "Means over the target classes, each with its own reference: the mixture of all would not tell classes apart.",
        "Sources are real test images of other classes, from subjects without test images of the target class where there "
        "are such; the target class's test images are the reference. 'Not translated' are the same sources as they are: a "
        "translation must come nearer. Translators are compared with each other, never with families that draw images.",
    )
    caption = f"Translation between classes on {results.data_label}"
    return Table("translation", caption, tuple(heads), (("", tuple(rows)),), notes)


def _mean(runs: list[Run], key: Key, classes: list[str], *, translated: bool) -> Cell:
    """The mean over target classes, and the mean deviation over draws."""
    found = [
        _scores(run, translated)[own]
        for run in runs
        for own in (key._replace(label=name) for name in classes)
        if own in _scores(run, translated)
    ]
    return _written(found)


def _by_class(results: Results, done: list[Run]) -> Table:
    features = next(iter(results.features))
    keys = [Key(name, features, "frechet_distance") for name in results.class_names]
    keys = [key for key in keys if any(key in run.scores for run in done)]
    rows = [(Cell("not translated"), *(_cell(done, key, translated=False) for key in keys))]
    for name in dict.fromkeys(run.generator for run in done):
        runs = [run for run in done if run.generator == name]
        rows.append((Cell(name), *(_cell(runs, key, translated=True) for key in keys)))
    caption = f"FD by target class ({features}, vs test of that class) of translators; lower is better"
    heads = (Column("Translator"), *(Column(f"to {key.label}") for key in keys))
    return Table("translation-class", caption, heads, (("", tuple(rows)),))


def _cell(runs: list[Run], key: Key, *, translated: bool) -> Cell:
    return _written([_scores(run, translated)[key] for run in runs if key in _scores(run, translated)])


def _written(found: list[Score]) -> Cell:
    if not found:
        return Cell(NOTHING)
    mean, std = fmean(score.mean for score in found), fmean(score.std for score in found)
    digits = 1 if abs(mean) >= 20 else 3 if abs(mean) < 1 else 2
    return Cell(f"{mean:.{digits}f} ± {std:.{digits}f}".replace("-", "−"))


def _scores(run: Run, translated: bool) -> Mapping[Key, Score]:
    return run.scores if translated else run.untranslated
