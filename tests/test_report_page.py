"""The page as people meet it: methods to paste, looks that last, contrast, and a real browser that opens it from disk."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest

from bench.report.cost import pareto
from bench.report.figures import COLOURS, GREYS, looks
from bench.report.methods import methods
from bench.report.page import write_report
from bench.report.results import read_results

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
assert _spec
assert _spec.loader
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
PARTS = (
    "results", "methods", "warnings", "pairs", "classes", "samples", "latent", "learning", "cost", "controls", "protocol",
    "failures",
)  # fmt: skip
THREE = {"vae": 3, "cvae": 3, "dcgan": 3, "wgan_gp": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with everything that a report can show, and its report."""
    path = fixture.write_results(tmp_path_factory.mktemp("page") / "example", progress=True, recognition=True)
    fixture.add_interpolations(path)
    write_report(path)
    return path


# ---- methods


def test_methods_say_what_was_done(folder: Path) -> None:
    text = (folder / "methods.txt").read_text(encoding="utf-8")
    for said in (
        "4,000 grey-scale images of 24 × 24 pixels",
        "simulated and show no patients",
        "2,400 training, 600 validation and 1,000 test images by subject",
        "vae (Kingma & Welling 2014)",
        "60,000 training images",
        "from 1 to 2 random seeds",
        "2 of these 6 trainings did not finish",
        "20 independent sets of images",
        "280 test images and as many generated ones (70 per class)",
        "63 dimensions, held-out accuracy 0.97",
        "Fréchet distance (Heusel 2017)",
        "200 bootstrap resamples of test subjects and over training seeds",
        "No ranking is given",
        "training_copy, mean_image and gaussian serve as controls",
        "data 0011223344556677, split 8899aabbccddeeff",
    ):
        assert said in text, said
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "4,000 grey-scale images" in page
    assert "inception" not in text.lower()  # it could not be had, so nothing was done with it


def test_methods_follow_the_results(tmp_path: Path) -> None:
    path = fixture.write_results(
        tmp_path / "x", seeds=THREE, endings={}, simulated=False, distance={"vae": 9.0, "cvae": 3.0}
    )
    text = " ".join(methods(read_results(path)))
    assert "from 3 random seeds" in text
    assert "p-values adjusted over all pairs (Holm, 5%)" in text
    assert "simulated" not in text
    assert "floor" not in text
    assert "did not finish" not in text


# ---- looks


def test_a_row_looks_the_same_in_every_report(tmp_path: Path) -> None:
    alone = looks(read_results(fixture.write_results(tmp_path / "a", distance={"dcgan": 3.0})))
    among = looks(
        read_results(fixture.write_results(tmp_path / "b", distance={"mine": 2.0, **fixture.DISTANCE, "ours": 1.0}))
    )
    other = looks(read_results(fixture.write_results(tmp_path / "c", distance={"ours": 1.0, "mine": 2.0})))
    assert alone["dcgan"] == among["dcgan"]
    assert {name: among[name][0] for name in other} == {name: other[name][0] for name in other}
    assert among["gaussian"][0] in GREYS
    assert among["mine"][0] in COLOURS
    assert len(set(among.values())) == len(among)


def test_many_rows_are_told_apart(tmp_path: Path) -> None:
    names = [f"row{number}" for number in range(40)]
    found = looks(read_results(fixture.write_results(tmp_path / "a", distance=dict.fromkeys(names, 1.0))))
    assert len(set(found.values())) == 40


def test_the_palette_is_told_apart_by_colour_blind_people() -> None:
    """Simulated dichromats (Viénot 1999, as matrices on linear RGB) see every pair of the first eight colours differ."""
    protan = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    deutan = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    linear = np.array([[_linear(c) for c in _rgb(colour)] for colour in COLOURS[:8]])
    for matrix in (np.eye(3), protan, deutan):
        seen = (linear @ matrix.T).clip(0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen, axis=-1)[~np.eye(len(seen), dtype=bool)]
        assert apart.min() > 0.1


# ---- quality against cost


def test_pareto_front_of_known_points() -> None:
    assert pareto([(3, 1.0), (1, 5.0), (2, 5.0), (2, 4.0), (4, 2.0), (1, 6.0)]) == [(1, 5.0), (2, 4.0), (3, 1.0)]
    assert pareto([(1, 1.0), (1, 1.0)]) == [(1, 1.0)]
    assert pareto([]) == []


# ---- the page's parts


def test_the_page_has_every_part(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    for part in PARTS:
        assert f'<section id="{part}">' in text, part
    for name in ("ranking", "quality_cost", "progress", "losses", "distances_by_class", "interpolations_cvae"):
        assert (folder / "figures" / f"{name}.svg").read_bytes().startswith(b"<?xml")
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_walks_are_hidden_where_they_may_show_patients(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x", patient_images=False)
    fixture.add_interpolations(path, rows=("cvae", "gaussian"))
    write_report(path)
    names = {file.stem for file in (path / "figures").glob("interpolations_*")}
    assert names == {"interpolations_cvae"}  # a control may hold patients


def test_old_runs_have_no_walks(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x")
    write_report(path)
    assert 'id="latent"' not in (path / "report.html").read_text(encoding="utf-8")


# ---- accessibility


def test_text_stands_out_from_its_ground(folder: Path) -> None:
    """Every colour of text against every ground it stands on: at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    style = re.search(r"<style>(.*?)</style>", (folder / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert style
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", style[1]))
    known = {f"var(--{name})": value for name, value in colours.items()} | {"#fff": "#ffffff"}
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", style[1])
    pairs = {(text, "#ffffff") for text in colours.values() if text not in (colours["line"], colours["wash"])}
    for _, body in rules:
        ground = re.search(r"background:\s*([^;]+)", body)
        text = re.search(r"(?<![-\w])color:\s*([^;]+)", body)
        if ground:
            on = known.get(ground[1].strip(), ground[1].strip())
            pairs.add((known.get(text[1].strip(), text[1].strip()) if text else colours["ink"], on))
            pairs |= {(colours[name], on) for name in ("soft", "accent") if on == colours["wash"]}
    assert len(pairs) > 6
    for text, ground in pairs:
        assert contrast(text, ground) >= 4.5, (text, ground)


def test_contrast_of_known_pairs() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_the_page_names_its_language_and_regions(folder: Path) -> None:
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    document: Any = parser.parse((folder / "report.html").read_text(encoding="utf-8"))
    assert document.get("lang") == "en"
    assert document.find("head/title").text
    assert [len(list(document.iter(tag))) for tag in ("main", "header", "nav", "h1")] == [1, 1, 1, 1]
    assert all(head.get("scope") in ("col", "row", "rowgroup") for head in document.iter("th"))
    assert all(len(image.get("alt")) > 20 for image in document.iter("img"))
    assert all(node.get("aria-label") for node in document.iter() if node.get("role") == "region")


def contrast(text: str, ground: str) -> float:
    """The ratio of relative luminances (WCAG 2.2)."""
    high, low = sorted((_luminance(text), _luminance(ground)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    return float(np.dot([0.2126, 0.7152, 0.0722], [_linear(value) for value in _rgb(colour)]))


def _rgb(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


# ---- a real browser


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_browser_opens_the_page_from_disk(folder: Path) -> None:
    """No message on the console, no request beyond the page itself, every picture there, nothing wider than the page."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    asked: list[str] = []
    said: list[str] = []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((folder / "report.html").as_uri())
        page.wait_for_load_state("networkidle")
        widths = page.eval_on_selector_all("img", "images => images.map(image => image.complete && image.naturalWidth)")
        sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        anchors = page.eval_on_selector_all(
            "nav a", "links => links.filter(a => !document.querySelector(a.hash)).length"
        )
        printed = page.pdf(format="A4", landscape=True)
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", (folder / "report.html").as_uri()))] == []
    assert len(widths) > 8
    assert all(width and width > 50 for width in widths)
    assert sideways == 0
    assert anchors == 0
    assert printed.startswith(b"%PDF")
