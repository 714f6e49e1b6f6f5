"""bench init, bench data prepare and bench data show: guesses that are told, suites that load, pictures that are there."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.cli import app
from bench.data.images import ImageFolder
from bench.data.volume_files import find_volumes
from bench.data.volumes import Volumes
from bench.errors import InputError
from bench.guess import guess, suite_name
from bench.suite import load_suite

_spec = importlib.util.spec_from_file_location("volume_fixture", Path(__file__).with_name("volume_fixture.py"))
_fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixture)
phantom, write_nifti = _fixture.phantom, _fixture.write_nifti


def write(path, seed, size=(40, 40), dtype=np.uint8, high=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, high, size)
    Image.fromarray(values.astype(dtype)).save(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def knees(tmp_path):
    """Two roots of class folders, two knees of each patient."""
    for number in range(24):
        for side in "LR":
            root = tmp_path / "knees" / ("test" if number < 12 else "val")
            write(root / str(number % 2) / f"{9000 + number}{side}.png", number * 2 + (side == "R"))
    return tmp_path / "knees"


def bench(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_init_sees_two_roots_and_patients(knees):
    told = bench("init", knees)
    assert "24 subjects for 48 images; 24 have several" in told
    suite = load_suite(knees.parent / "knees.yaml")
    assert suite.data["root"] == (str(knees / "test"), str(knees / "val")) or list(suite.data["root"]) == [
        str(knees / "test"), str(knees / "val")
    ]  # fmt: skip
    assert suite.data["subject_pattern"] == r"^(\d+)"
    assert list(suite.data["classes"]) == ["0", "1"]
    with pytest.raises(InputError, match=r"knees\.yaml: exists already; name another file with --out"):
        CliRunner().invoke(app, ["init", str(knees)], catch_exceptions=False)


def test_show_counts_and_paints(knees, tmp_path):
    first = next((knees / "test" / "0").iterdir())
    (knees / "test" / "0" / "9998L.png").write_bytes(first.read_bytes())
    (knees / "test" / "0" / "9999R.png").write_bytes(b"no image")
    bench("init", knees)
    shown = bench("data", "show", "knees.yaml", "--set", "data.max_skipped_fraction=0.5", "--out", tmp_path / "seen")
    assert "duplicates: 1 pairs, 1 exact" in shown
    assert "test/0/9999R.png: can't be read" in shown
    assert "49 (25)" in shown, "all images and subjects"
    found = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert found == ["contact_sheet.png", "duplicates.csv", "duplicates.png", "histograms.png", "skipped.csv"]
    for name in ("contact_sheet.png", "histograms.png"):
        with Image.open(tmp_path / "seen" / name) as image:
            assert image.convert("L").getextrema()[0] < 50, "something is drawn"
    hidden = ["--set", "data.max_skipped_fraction=0.5", "--set", "patient_images=false", "--out", tmp_path / "hidden"]
    bench("data", "show", "knees.yaml", *hidden)
    assert sorted(p.name for p in (tmp_path / "hidden").iterdir()) == [
        "duplicates.csv",
        "histograms.png",
        "skipped.csv",
    ]


def test_prepare(knees):
    bench("init", knees)
    assert "48 images (1, 32, 32) of 2 classes, 0 left out" in bench("data", "prepare", "knees.yaml")


@pytest.mark.parametrize(
    ("names", "pattern", "subjects"),
    [
        ([f"person{n}_virus_{k}.png" for n in range(9) for k in range(2)], r"person", 9),
        ([f"NORMAL2-IM-0{n}-0001-000{k}.png" for n in range(9) for k in range(2)], r"IM-", 9),
        ([f"IXI{n:03d}-Guys-{k}.png" for n in range(9) for k in range(2)], r"ixi", 9),
        ([f"scan_{n}.png" for n in range(9)], None, 0),
        ([f"{n}.png" for n in range(9)], None, 0),
        ([f"1_{n}.png" for n in range(9)], None, 0),
        ([f"person1_{n}.png" for n in range(4)] + ["other.png"], None, 0),
    ],
)
def test_subjects_are_guessed_or_not_and_that_is_told(tmp_path, names, pattern, subjects):
    for number, name in enumerate(names):
        write(tmp_path / "set" / "ab"[number % 2] / name, number)
    text, _ = guess(tmp_path / "set")
    (tmp_path / "set.yaml").write_text(text)
    found = load_suite(tmp_path / "set.yaml").data["subject_pattern"]
    if pattern is None:
        assert found is None
        assert "every image is a subject of its own" in text
    else:
        assert pattern in found
        assert f"guessed, check it: {subjects} subjects for {len(names)} images" in text


def test_depth_colour_and_shape_are_told(tmp_path):
    for number in range(6):
        write(tmp_path / "deep" / "a" / f"x{number}.tif", number, dtype=np.uint16, high=4096)
        size = (40, 80) if number % 2 else (80, 40)
        write(tmp_path / "colour" / f"x{number}.png", number, (*size, 3))
    deep, _ = guess(tmp_path / "deep")
    assert "intensity: global" in deep
    assert "so their type tells no" in deep
    colour, _ = guess(tmp_path / "colour")
    for part in ("channels: 3", "fit: pad", "no folders: one class", "image_size: [64, 64]"):
        assert part in colour
    for name, text in (("deep", deep), ("colour", colour)):
        (tmp_path / f"{name}.yaml").write_text(text)
        options = dict(load_suite(tmp_path / f"{name}.yaml").data)
        assert options.pop("source") == "images"
        assert len(ImageFolder(ImageFolder.Options.model_validate(options)).manifest()) == 6


def test_arrays_are_seen(tmp_path):
    (tmp_path / "arrays").mkdir()
    images, labels = np.random.default_rng(0).integers(0, 256, (8, 28, 28), dtype=np.uint8), np.arange(8) % 2
    parts = {
        f"{part}_{what}": value
        for part in ("train", "val", "test")
        for what, value in (("images", images), ("labels", labels))
    }
    np.savez(tmp_path / "arrays" / "breast.npz", **parts)
    text, told = guess(tmp_path / "arrays")
    (tmp_path / "suite.yaml").write_text(text)
    suite = load_suite(tmp_path / "suite.yaml")
    assert (suite.source, suite.split.by) == ("npz", "official")
    assert told == ["source npz: breast.npz, parts train, val, test"]


def test_nothing_to_guess(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no images \(PNG, JPEG, TIFF, DICOM\), volumes"):
        guess(tmp_path / "empty")
    with pytest.raises(InputError, match="there is no such folder"):
        guess(tmp_path / "nowhere")


def test_a_folder_of_any_name_names_a_suite(tmp_path):
    assert suite_name(tmp_path / "My data (v2)") == "My_data_v2"
    assert suite_name(tmp_path / "Ärzte") == "rzte"


@pytest.mark.parametrize(
    ("names", "lines", "subjects"),
    [
        (
            ["hh/IXI012-HH-1211_T1.nii.gz", "st/sub-01_T1w.nii.gz"],
            ["grid: mni", "# 6 NIfTI files by class: hh 3, st 3"],
            6,
        ),
        (
            ["IXI012-HH-1211-T1.nii.gz", "IXI013-Guys-7-T1.nii.gz"],
            ["layout: ixi", "grid: mni", "by class: HH 3, Guys 3"],
            6,
        ),
        (["a/knee1_1.nii", "b/knee2_1.nii"], ["grid: native", "none seen"], 6),
        (["a/p1.nii", "a/p2.nii"], ["grid: native"], 6),
        (["a/patient1-t2.nii", "b/patient2-t2.nii"], ["grid: native"], 6),
        (["a/patient1-left.nii", "a/patient1-right.nii"], ["patient", "3 subjects for 6 volumes; 3 have several"], 3),
    ],
)
def test_volumes_are_guessed_by_their_names(tmp_path, names, lines, subjects):
    """Two names, and these again with two other numbers."""
    for copy in range(3):
        for name in names:
            number = str(int(re.search(r"\d+", name)[0]) + 10 * copy).zfill(len(re.search(r"\d+", name)[0]))
            path = tmp_path / "set" / re.sub(r"\d+", number, name, count=1)
            write_nifti(path, phantom((24, 24, 20), seed=copy))
    text, _ = guess(tmp_path / "set")
    for line in lines:
        assert line in text
    text = text.replace("registration: affine", "registration: none")  # which the phantoms are no brains for
    (tmp_path / "set.yaml").write_text(text)
    options = dict(load_suite(tmp_path / "set.yaml").data)
    assert options.pop("source") == "volumes"
    items = find_volumes(Volumes.Options(**options))
    assert len({item.subject for item in items}) == subjects
    assert len(items) == 6
    assert not any(item.fault for item in items)


def test_neighbouring_slices_of_a_subject_are_counted_and_not_listed(tmp_path):
    for label in "ab":
        for number in range(3):
            seed = 10 * ord(label) + number
            write_nifti(tmp_path / "set" / label / f"p{number}{label}.nii", phantom(seed=seed))
    copied = tmp_path / "set" / "b" / "p9b.nii"
    copied.write_bytes((tmp_path / "set" / "a" / "p0a.nii").read_bytes())
    bench("init", tmp_path / "set")
    shown = bench("data", "show", "set.yaml", "--out", tmp_path / "seen")
    assert re.search(r"\d+ are nearly the same images of one subject: duplicates.csv names them", shown)
    listed = re.findall(r"^  (\S+)-slice\d+ \(.* = (\S+)-slice\d+", shown, re.M)
    assert ("a/p0a.nii", "b/p9b.nii") in listed
    assert all(first != second for first, second in listed)
