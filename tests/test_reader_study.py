"""The reader study: half real and half generated, blind, without traces in the files, and never of hidden patients."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from bench.cli import app
from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.errors import InputError
from bench.reader_study import export_study, key_path
from bench.registry import GENERATORS
from bench.seeds import forked

SHAPE = (1, 16, 16)
N = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cvae that was never trained, in a results folder of 48 bright images of two classes, 24 of them for tests."""
    root = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    pixels = rng.integers(200, 255, (48, *SHAPE), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(48)
    subjects = np.array([f"s{number // 4}" for number in range(48)])
    data = ImageDataset(pixels, labels, ("left", "right"), subjects, tuple(map(str, range(48))), "f" * 16, "t", False)
    data.save(root / "data")
    results = root / "results" / "knees"
    folder = results / "runs" / "cvae-seed0-abc"
    folder.mkdir(parents=True)
    parts = np.split(np.arange(48), [12, 24])
    write(results / "split.json", Split(*parts, "subject", 0, 0).to_json())
    write(results / "suite.json", {"name": "knees", "patient_images": True})
    write(results / "reference.json", {"data": {"fingerprint": "f" * 16}})
    write(folder / "job.json", {"data": str(root / "data"), "run": "elsewhere"})
    family = GENERATORS.get("cvae")
    hyperparameters = family.Hyperparameters(dense_widths=(16,), latent_dim=4)
    with forked(0, "weights"):
        save_file(family(SHAPE, 2, hyperparameters).state_dict(), folder / "checkpoint.safetensors")
    head = {
        "status": "finished",
        "shape": SHAPE,
        "class_names": ["left", "right"],
        "family": "cvae",
        "generator": "cvae",
    }
    write(folder / "result.json", {**head, "seed": 0, "hyperparameters": hyperparameters.model_dump(mode="json")})
    return folder


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_half_are_real_test_images_and_the_answers_lie_apart(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["reader-study", str(run), "--out", str(tmp_path / "out"), "--n", str(N)])
    assert done.exit_code == 0, done.output
    answers = rows(key_path(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "sheet.csv", "sheet.html"]
    kinds = [row["truth"] for row in answers]
    assert kinds.count("real") == kinds.count("generated") == N // 2
    assert kinds != sorted(kinds)
    assert kinds != sorted(kinds, reverse=True)
    for kind in ("real", "generated"):
        classes = [row["class"] for row in answers if row["truth"] == kind]
        assert classes.count("left") == classes.count("right") == N // 4
    shown = {row["image"]: pixels_of(tmp_path / "out" / "images" / row["image"]) for row in answers}
    real = {int(shown[row["image"]][0, 0]) for row in answers if row["truth"] == "real"}
    assert len(real) == N // 2
    assert min(real) >= 24  # the test split
    subjects = {number // 4 for number in real}
    assert len(subjects) == 6  # all six of the test split


def test_nothing_in_the_folder_tells_the_kinds_apart(run: Path, tmp_path: Path) -> None:
    key = export_study(run, tmp_path / "out", n=N, seed=3)
    files = sorted((tmp_path / "out" / "images").iterdir())
    assert [file.name for file in files] == [f"{number:03d}.png" for number in range(1, N + 1)]
    assert len({file.stat().st_mtime for file in files}) == 1
    for file in files:
        content = file.read_bytes()
        for chunk in (b"tEXt", b"iTXt", b"zTXt", b"tIME", b"eXIf", b"pHYs", b"gAMA"):
            assert chunk not in content
        with Image.open(file) as image:
            assert (image.mode, image.size, image.info) == ("L", (16, 16), {})
    page = (tmp_path / "out" / "sheet.html").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(page)
    everything = page + (tmp_path / "out" / "sheet.csv").read_text()
    for telling in ("cvae", "left", "right", "test split", key.name):
        assert telling not in everything.replace("real or generated", "")


def test_the_same_seed_gives_the_same_study_and_another_one_another(run: Path, tmp_path: Path) -> None:
    keys = [export_study(run, tmp_path / name, n=N, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    texts = [key.read_text() for key in keys]
    assert texts[0] == texts[1] != texts[2]
    assert (tmp_path / "a" / "sheet.html").read_bytes() == (tmp_path / "b" / "sheet.html").read_bytes()


def test_images_made_elsewhere_can_be_studied(run: Path, tmp_path: Path) -> None:
    folder = run.parent / "theirs-seed0-abc"
    folder.mkdir()
    pixels = torch.zeros(40, *SHAPE, dtype=torch.uint8).numpy()
    np.savez_compressed(folder / "external.npz", images=pixels, labels=np.arange(40) % 2)
    write(folder / "job.json", json.loads((run / "job.json").read_text()))
    write(folder / "result.json", {"status": "finished", "role": "external", "generator": "theirs"})
    answers = rows(export_study(folder, tmp_path / "out", n=8, seed=0))
    for row in answers:
        dark = not pixels_of(tmp_path / "out" / "images" / row["image"])[1:].any()
        assert dark == (row["truth"] == "generated")
    with pytest.raises(InputError, match="lower --n"):
        np.savez_compressed(folder / "external.npz", images=pixels[:6], labels=np.arange(6) % 2)
        export_study(folder, tmp_path / "more", n=N, seed=0)
    assert not (tmp_path / "more").exists()


def test_hidden_patients_stay_hidden(run: Path, tmp_path: Path) -> None:
    suite = run.parent.parent / "suite.json"
    write(suite, {"name": "knees", "patient_images": False})
    try:
        with pytest.raises(InputError, match="patient_images: false"):
            export_study(run, tmp_path / "out", n=N, seed=0)
    finally:
        write(suite, {"name": "knees", "patient_images": True})
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_never_touched(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="not an empty folder"):
        export_study(run, tmp_path / "out", n=N, seed=0)
    key_path(tmp_path / "other").write_text("answers of readers that are at work")
    with pytest.raises(InputError, match="these answers exist"):
        export_study(run, tmp_path / "other", n=N, seed=0)
    for n, said in ((7, "even number"), (50, "48 at most")):
        with pytest.raises(InputError, match=said):
            export_study(run, tmp_path / "new", n=n, seed=0)
    with pytest.raises(InputError, match="no run of a suite"):
        export_study(tmp_path, tmp_path / "new", n=N, seed=0)
    assert not (tmp_path / "new").exists()
