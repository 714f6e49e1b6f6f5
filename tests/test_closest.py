"""The pictures of the pairs closest to training images: written, shown, and kept back where patients must not be seen."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from bench.closest import write_closest
from bench.metrics.memorization import ClosestPairs
from bench.report.closest import draw_closest
from bench.report.figures import style
from bench.report.page import write_report
from bench.report.results import read_results
from bench.report.tables import further_table, main_table

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)


def pairs(seed: int, least: float, n: int = 8, shape: tuple[int, ...] = (1, 24, 24)) -> ClosestPairs:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, n, *shape), dtype=np.uint8)
    return ClosestPairs(images[0], images[1], np.linspace(least, 0.9, n), 0.45)


@pytest.fixture
def folder(tmp_path):
    path = fixture.write_results(tmp_path / "results", seeds={"vae": 2})
    for run in (path / "runs").iterdir():
        if run.name.startswith(("vae-", "training_copy-")):
            write_closest(run, pairs(0, 0.0 if run.name.startswith("training") else 0.3 + 0.1 * ("seed1" in run.name)))
    return path


def test_a_picture_for_each_generator_with_pairs(folder):
    with style():
        pictures = {picture.name: picture for picture in draw_closest(read_results(folder))}
    assert set(pictures) == {"closest_vae", "closest_training_copy"}
    assert "seed 0, of 2 the nearest to copying" in pictures["closest_vae"].caption
    assert "2 of these 8 below 0.45" in pictures["closest_vae"].alt


def test_the_report_shows_them(folder):
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert 'id="closest"' in page
    assert page.count("Closest to training images:") >= 2
    assert (folder / "figures" / "closest_vae.png").is_file()


def test_patient_images_are_kept_back(tmp_path):
    """Even where an older run of the suite, which allowed them, left files."""
    folder = fixture.write_results(tmp_path / "results", patient_images=False)
    for run in (folder / "runs").iterdir():
        write_closest(run, pairs(0, 0.3))
    write_report(folder)
    assert 'id="closest"' not in (folder / "report.html").read_text()
    assert not list((folder / "figures").glob("closest_*"))


def test_files_are_whole_and_go_when_they_must(tmp_path):
    written = pairs(3, 0.1, shape=(3, 8, 9))
    write_closest(tmp_path, written)
    with np.load(tmp_path / "closest.npz") as archive:
        assert np.array_equal(archive["generated"], written.generated)
        assert float(archive["threshold"]) == 0.45
    write_closest(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_the_worst_pairs_of_several_draws_are_joined():
    one, other = pairs(0, 0.2, 4), pairs(1, 0.1, 4)
    joined = one.joined(other, 4)
    assert joined.ratios == pytest.approx(np.sort(np.concatenate([one.ratios, other.ratios]))[:4])
    assert np.array_equal(joined.generated[0], other.generated[0])
    assert np.array_equal(joined.training[1], one.training[0])
    assert one.joined(None, 4) is one


def test_columns_say_what_belongs_to_a_measures_name(tmp_path):
    import json

    folder = fixture.write_results(tmp_path / "results")
    more = {
        "frechet_distance_infinity": ("domain", 1.5, "n times 0.5, 0.625, 0.75, 1 in 2 orders"),
        "ms_ssim_diversity": ("", 0.42, "3 scales"),
    }
    for path in (folder / "runs").glob("*/evaluation-*.json"):
        record = json.loads(path.read_text())
        for measure, (features, mean, about) in more.items():
            row = {"class": "all", "features": features, "measure": measure, "mean": mean, "std": 0.1, "draws": 20}
            record["scores"].append(row | {"n_real": 280, "n_generated": 280, "about": about})
        path.write_text(json.dumps(record))
    results = read_results(folder)
    titles = [column.title for column in main_table(results).columns]
    assert titles.index("FD∞@280 ↓") - titles.index("FD@280 ↓") in (1, 2), (
        "beside it, or beside its deviation over seeds"
    )
    (column,) = (column for column in further_table(results).columns if column.title.startswith("MS-SSIM"))
    assert "3 scales" in column.detail
    assert "real data 0.42" in column.detail
