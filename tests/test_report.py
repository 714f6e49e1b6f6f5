"""The report: what it says, what it must never say, and that its files are well-formed and repeatable."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest

from bench.errors import InputError
from bench.report import page, tables
from bench.report.figures import draw_all, looks
from bench.report.page import render_page, write_report
from bench.report.render import to_markdown
from bench.report.results import COLUMNS, read_results, results_frame
from bench.report.tables import (
    class_tables,
    duration,
    first_distance,
    lines,
    main_table,
    number_name,
    summary_table,
    terminal_rows,
)
from bench.report.verdict import checks, conclusion, ranks, warnings

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
assert _spec
assert _spec.loader
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

SCRIPT = "<script>alert(1)</script>"
THREE = {"vae": 3, "cvae": 3, "dcgan": 3, "wgan_gp": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a report."""
    path = fixture.write_results(tmp_path_factory.mktemp("report") / "example")
    write_report(path)
    return path


def parsed(path: Path) -> Any:
    """Parse strictly: any error of form raises."""
    text = path.read_text(encoding="utf-8")
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


# ---- what is said


def test_floor_first_families_by_distance_controls_last(folder: Path) -> None:
    names = [line.generator for line in lines(read_results(folder))]
    assert names == [
        *("floor_validation", "floor_fresh"),
        *("cvae", "vae", "dcgan", "wgan_gp"),
        *("training_copy", "mean_image", "gaussian"),
    ]


def test_a_number_carries_its_protocol(folder: Path) -> None:
    results = read_results(folder)
    first = first_distance(results)
    assert first is not None
    assert str(number_name(results, first)) == "FD@280 (domain, vs test)"
    assert "FD@280 (domain, vs test) sampling std" in summary_table(results).columns


@pytest.mark.parametrize("name", ["table.md", "table.html", "table.tex", "report.html"])
def test_failed_runs_stay_with_their_reason(folder: Path, name: str) -> None:
    text = (folder / name).read_text(encoding="utf-8").replace(r"\_", "_")
    assert "diverged at step 812" in text
    assert "out of memory: 3.1 GiB asked for" in text
    assert "wgan_gp" in text


def test_unavailable_features_are_named_once_and_have_no_column(folder: Path) -> None:
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert text.count("No numbers on inception features: weights could not be downloaded.") == 1
    assert all("inception" not in str(column) for column in main_table(read_results(folder)).columns)
    assert "Features inception were not available" in (folder / "report.html").read_text(encoding="utf-8")


def test_phantom_is_named_in_every_caption(folder: Path) -> None:
    for table in page.all_tables(read_results(folder)):
        assert "phantom" in table.caption


def test_small_classes_are_marked(folder: Path) -> None:
    (table,) = class_tables(read_results(folder))
    heads = [column.title for column in table.columns]
    assert heads == ["Generator", "Gyroscan Intera†", "Intera†", "Magnetom TrioTim†", "Unspecified‡"]
    assert table.columns[1].detail == "FD@70, vs test"
    notes = " ".join(table.notes)
    assert "n < 2d" in notes
    assert "Too few test images for a distance of its own: Unspecified (24)." in notes
    assert table.columns[4].detail == "FD, vs test"
    assert [str(row[4]) for _, rows in table.sections for row in rows] == ["–"] * 9
    assert "Unconditional, so without numbers by class: vae, mean_image, gaussian." in notes


def test_a_table_of_dashes_is_left_out(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x")
    for file in path.glob("runs/*/evaluation-*.json"):
        record = json.loads(file.read_text())
        kept = [score for score in record["scores"] if score["class"] == "all"]
        few = [{**score, "mean": None, "std": None, "lower": None, "upper": None, "values": [], "flag": "too few"}
               for score in record["scores"] if score["class"] != "all"]  # fmt: skip
        file.write_text(json.dumps({**record, "scores": [*kept, *few]}))
    assert class_tables(read_results(path)) == []


def test_what_is_long_stands_below_the_table_and_not_at_its_head(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x")
    for file in path.glob("runs/*/evaluation-*.json"):
        record = json.loads(file.read_text())
        for score in record["scores"]:
            score["about"] = "n times 0.5, 0.625, 0.75, 1 in 2 orders" if score["measure"] == "precision" else ""
        file.write_text(json.dumps(record))
    table = main_table(read_results(path))
    assert not any("orders" in str(column) for column in table.columns)
    assert "Precision@280 (domain, vs test), precision: n times 0.5, 0.625, 0.75, 1 in 2 orders." in table.notes


def test_combined_flags_are_told_apart(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x")
    for file in path.glob("runs/*/evaluation-ab12.json"):
        file.write_text(file.read_text().replace('"too few"', '"too few, n < 2d"'))
    (table,) = class_tables(read_results(path))
    assert table.columns[-1].title == "Unspecified†‡"


def test_deviation_over_seeds_has_a_column_of_its_own(folder: Path, tmp_path: Path) -> None:
    line = next(line for line in lines(read_results(folder)) if line.generator == "cvae")
    first = first_distance(read_results(folder))
    assert first is not None
    number = line.numbers[first]
    assert number.mean == pytest.approx(14.3)
    assert number.training_std == pytest.approx(0.6 / np.sqrt(2))
    assert number.lower is not None
    assert number.upper is not None
    assert number.lower < 14.3 < number.upper
    assert "Seed std" in [column.title for column in main_table(read_results(folder)).columns]
    single = read_results(fixture.write_results(tmp_path / "single", seeds={}))
    assert {row[3].text for _, rows in main_table(single).sections for row in rows} == {"–"}


def test_real_data_stand_beside_the_inception_score(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x")
    for file in path.glob("runs/*/evaluation-ab12.json"):
        record = json.loads(file.read_text())
        for score in record["scores"]:
            score["measure"] = score["measure"].replace("kernel_distance", "inception_score")
            score["mean"] = 1.37 if score["measure"] == "inception_score" else score["mean"]
        file.write_text(json.dumps(record))
    table = tables.further_table(read_results(path))
    assert table is not None
    assert any("real data 1.37" in column.detail for column in table.columns)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": {}}, "No ranking may be named: one training seed per family where three are needed."),
        ({}, "No ranking may be named: two training seeds per family where three are needed."),
        ({"stamp": "not for results", "seeds": THREE}, "Nothing may be concluded: these outputs are stamped"),
        ({"pending": ("vae",), "seeds": THREE}, "Nothing may be concluded yet: 3 of 17 runs are pending."),
        ({"seeds": THREE}, "cvae has the lowest FD@280 (domain, vs test), 14.60 ± 0.40 ["),
        (
            {"seeds": THREE, "spread": 9.0},
            "No single winner of the two families with three or more training seeds: cvae has the lowest FD@280 (domain, "
            "vs test), but can't be told from vae.",
        ),
        ({"endings": dict.fromkeys(fixture.FAMILIES, ("failed", "x"))}, "Nothing may be concluded: no family"),
        ({"endings": {"vae": ("failed", "x"), **fixture.ENDINGS}}, "cvae is the only family that finished"),
    ],
)
def test_conclusion_says_no_more_than_is_allowed(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    results = read_results(fixture.write_results(tmp_path / "x", **options))
    assert said in conclusion(results)


def test_ranks_need_three_seeds_and_are_shared_by_what_is_not_told_apart(folder: Path, tmp_path: Path) -> None:
    assert ranks(read_results(folder)) == {}
    distance = {**fixture.DISTANCE, "dcgan": 15.0}
    endings = {"wgan_gp": ("failed", "out of memory")}
    path = fixture.write_results(tmp_path / "x", seeds=THREE, distance=distance, endings=endings)
    results = read_results(path)
    assert ranks(results) == {"cvae": 1, "dcgan": 1, "vae": 3}
    text = conclusion(results)
    assert "but can't be told from dcgan." in text
    assert "Not ranked: wgan_gp (0 of 3 seeds finished)." in text
    assert main_table(results, ranks(results)).columns[1].title == "Rank"


def test_a_copier_is_no_winner(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x", seeds=THREE)
    for file in path.glob("runs/cvae-*/evaluation-ab12.json"):
        record = json.loads(file.read_text())
        for score in record["scores"]:
            score["mean"] = -9.0 if score["measure"] == "memorization" else score["mean"]
        file.write_text(json.dumps(record))
    results = read_results(path)
    assert conclusion(results).startswith("No winner: cvae has the lowest")
    assert any("caught cvae" in warning for warning in warnings(results))


def test_controls_are_judged(folder: Path, tmp_path: Path) -> None:
    verdicts = {check.name: check.ok for check in checks(read_results(folder))}
    controls = ("floor_validation", "floor_fresh", "training_copy", "mean_image", "gaussian")
    assert verdicts == dict.fromkeys(controls, True)
    distance = {**fixture.DISTANCE, "gaussian": 20.0, "floor_fresh": 25.0}
    worse = {
        check.name: check for check in checks(read_results(fixture.write_results(tmp_path / "x", distance=distance)))
    }
    assert worse["gaussian"].ok is False
    assert "not nearer: vae" in worse["gaussian"].found
    assert worse["floor_fresh"].ok is False


def test_pending_rows_are_shown(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x", pending=tuple(fixture.DISTANCE))
    summary = write_report(path)
    assert summary.pending == len(summary_table(read_results(path))) + 2
    assert set(results_frame(read_results(path))["status"]) == {"pending"}
    assert "cvae (pending)" in (path / "table.md").read_text(encoding="utf-8")
    parsed(path / "report.html")


def test_trained_but_not_evaluated_is_pending(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x")
    next(path.glob("runs/cvae-seed0-*/evaluation-ab12.json")).unlink()
    run = read_results(path).of("cvae")[0]
    assert (run.status, run.reason) == ("pending", "trained, not evaluated yet")
    assert run.costs


def test_failed_evaluation_is_a_failed_row(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x")
    file = next(path.glob("runs/cvae-seed0-*/evaluation-ab12.json"))
    file.write_text(json.dumps({"schema": 1, "status": "failed", "reason": "constant images", "scores": []}))
    run = read_results(path).of("cvae")[0]
    assert (run.status, run.reason) == ("failed", "evaluation: constant images")


# ---- the long form


def test_long_form_has_every_number_in_the_plans_order(folder: Path) -> None:
    frame = results_frame(read_results(folder))
    assert tuple(frame.columns) == (*COLUMNS, "about")
    assert list(dict.fromkeys(frame["generator"])) == list(fixture.DISTANCE)
    costs = frame[(frame["generator"] == "cvae") & (frame["seed"] == 1) & (frame["features"] == "")]
    assert list(costs["measure"])[-4:] == list(tables.COST_ORDER)
    assert set(costs["class"]) == {"all"}
    failed = frame[frame["generator"] == "wgan_gp"]
    assert set(failed["status"]) == {"failed"}


def test_floats_survive_the_csv(folder: Path) -> None:
    with (folder / "results.csv").open(encoding="utf-8") as file:
        head, line = next(file).strip().split(","), next(file).strip().split(",")
    row = dict(zip(head, line, strict=True))
    record = json.loads(next(folder.glob("runs/floor_validation-*/evaluation-ab12.json")).read_text())
    assert float(row["mean"]) == record["scores"][0]["mean"]
    assert float(row["upper"]) == record["scores"][0]["upper"]


def test_distances_by_class_have_a_csv(folder: Path) -> None:
    head, *rows = (folder / "table_by_class.csv").read_text(encoding="utf-8").splitlines()
    assert head.startswith("generator,role,features,class,n,frechet_distance,sampling_std,training_std")
    assert [row.split(",")[0] for row in rows[3::4]] == ["floor_validation", "floor_fresh", "cvae", "training_copy"]


# ---- files


def test_two_writes_give_the_same_bytes(folder: Path) -> None:
    files = {path: path.read_bytes() for path in write_report(folder).files}
    tables.lines.cache_clear()
    assert {path: path.read_bytes() for path in write_report(folder).files} == files
    assert not list(folder.rglob("*.part"))


def test_figures_of_an_earlier_report_are_removed(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x", pending=tuple(fixture.DISTANCE))
    (path / "figures").mkdir()
    (path / "figures" / "samples_old.png").write_bytes(b"x")
    (path / "figures" / "notes.txt").write_bytes(b"the user's own")
    write_report(path)
    assert [file.name for file in (path / "figures").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["report.html", "table.html"])
def test_html_is_well_formed_and_accessible(folder: Path, name: str) -> None:
    document = parsed(folder / name)
    assert all(image.get("alt") and image.get("src").startswith("data:") for image in document.iter("img"))
    assert all(head.get("scope") for head in document.iter("th"))
    assert all(table.find("caption") is not None for table in document.iter("table"))
    levels = [int(node.tag[1]) for node in document.iter() if re.fullmatch("h[1-6]", str(node.tag))]
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert levels.count(1) == (1 if name == "report.html" else 0)
    ids = [node.get("id") for node in document.iter() if node.get("id")]
    assert len(ids) == len(set(ids))
    assert all(link.get("href")[1:] in ids for link in document.iter("a"))


def test_page_asks_nothing_of_the_network(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:|#)|@import|url\(", text)
    assert "<script" not in text
    assert len(text.encode()) < 10_000_000


def test_names_are_escaped(tmp_path: Path) -> None:
    classes = (SCRIPT, "50%_$x$ & co", "a|b", "{\\input{x}}")
    path = fixture.write_results(tmp_path / "x", classes=classes)
    write_report(path)
    for name in ("report.html", "table.html"):
        text = (path / name).read_text(encoding="utf-8")
        assert SCRIPT not in text
        assert "&lt;script&gt;alert(1)" in text
        parsed(path / name)
    assert SCRIPT not in (path / "figures" / "distances_by_class.svg").read_text(encoding="utf-8")
    assert "a\\|b" in (path / "table.md").read_text(encoding="utf-8")


def test_stamp_is_shown(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x", stamp="not for results")
    write_report(path)
    for name in ("report.html", "table.md", "table.tex", "figures/losses.svg"):
        assert "not for results" in (path / name).read_text(encoding="utf-8").lower()


def test_without_leave_no_image_of_a_patient_is_shown(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x", patient_images=False, simulated=False)
    names = [picture.name for picture in draw_all(read_results(path))]
    assert [name for name in names if name.startswith("samples_")] == ["samples_cvae", "samples_vae"]
    assert read_results(path).real() is None
    text = render_page(read_results(path), draw_all(read_results(path)))
    assert "beside real test images" not in text
    assert "since they may hold some: training_copy, mean_image, gaussian." in text
    assert "phantom" not in text


def test_a_real_archive_left_behind_does_not_give_leave(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x")
    (path / "suite.json").write_text(json.dumps({"patient_images": False}))
    assert read_results(path).real() is None


def test_large_grids_are_compressed() -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400), dtype=np.uint8)).save(buffer, "PNG")
    assert len(page._grid_source(buffer.getvalue(), 20_000)) <= 20_000
    assert page._grid_source(buffer.getvalue(), 10**6).startswith("data:image/png")


def test_raw_markdown_is_aligned(folder: Path) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", (folder / "table.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(blocks) == 4
    for block in blocks:
        assert len({len(line) for line in block.splitlines()}) == 1
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_markdown_of_nothing_is_nothing() -> None:
    assert to_markdown([]) == "\n"


# ---- figures


def test_drawing_leaves_matplotlib_as_it_was(folder: Path) -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    pictures = draw_all(read_results(folder))
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    assert [picture.name for picture in pictures[:3]] == ["distances_by_class", "losses", "samples_cvae"]
    assert all(picture.svg.startswith(b"<?xml") and picture.png.startswith(b"\x89PNG") for picture in pictures)


def test_every_generator_has_a_look_of_its_own(folder: Path) -> None:
    chosen = looks(read_results(folder))
    trained = [look for name, look in chosen.items() if not name.startswith("floor")]
    assert len(set(trained)) == len(trained)


# ---- small things


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.048, "0.048 s"), (59.98, "1 min 00 s"), (61.0, "1 min 01 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_terminal_rows_fit(folder: Path) -> None:
    heads, rows = terminal_rows(read_results(folder))
    assert all(len(row) == len(heads) for row in rows)
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    assert sum(widths) + 2 * len(widths) <= 140


def test_a_folder_without_results_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"plan\.json is absent"):
        read_results(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json can't be read"):
        read_results(tmp_path)


def test_a_plan_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    path = fixture.write_results(tmp_path / "x")
    plan = json.loads((path / "plan.json").read_text())
    plan["rows"][0]["run"] = "../elsewhere"
    (path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match="outside"):
        read_results(path)


def test_importing_the_report_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'mlflow', 'matplotlib', 'seaborn', 'sklearn', 'scipy'}"
    code = f"import sys, bench.report.page; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
