"""The benchmark of the benchmark through the command line: a small version of suites/controls.yaml, and what was committed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bench.report.fault_claims import FAULTS
from bench.report.faults import asked, fault_lines, fault_of, sight
from bench.report.results import read_results
from bench.report.verdict import checks

ROOT = Path(__file__).parent.parent
SUITE = """
name: faults
data: {source: scanner_phantom, image_size: [48, 48], subjects: 480, proportions: balanced, slices: 2}
split: {by: subject, fractions: {train: 0.5, validation: 0.25, test: 0.25}, seed: 0}
generators: [held_out, training_copy, one_mode, missing_classes, shuffled_labels, blur]
budget: {images_seen: 1}
progress: {points: 0}
evaluation: {draws: 4, samples_per_draw: 30, few: 20, bootstrap: 0, features: [domain, random]}
tracking: {enabled: false}
threads: 1
"""
DISTANCES = {"frechet_distance", "kernel_distance"}
MANIFOLD = {"precision", "recall", "density", "coverage"}


def test_the_shipped_suite_has_every_fault():
    suite = YAML(typ="safe").load(ROOT / "suites" / "controls.yaml")
    assert set(suite["generators"]) == set(FAULTS)
    assert "measures" not in suite["evaluation"], "left out: every measure"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("controls")
    (cwd / "suite.yaml").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "suite.yaml", "--workers", "2"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=3000,
        env={**os.environ, "BENCH_CACHE": str(cwd / "cache"), "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "results" / "faults"


@pytest.fixture(scope="module")
def seen(finished):
    """Fault -> the measures that see it on some features."""
    results = read_results(finished)
    rows = asked(results)
    return {
        fault_of(line): {row.name for row in rows if (found := sight(results, line, row)) and found.seen}
        for line in fault_lines(results)
    }


@pytest.mark.slow
def test_nothing_is_seen_where_nothing_is_wrong(seen):
    assert seen["held_out"] == set()


@pytest.mark.slow
def test_copies_are_seen_by_memorisation_only(seen):
    assert {"memorization", "near_copies"} <= seen["training_copy"]
    assert not seen["training_copy"] & (DISTANCES | MANIFOLD | {f"{name} by class" for name in DISTANCES | MANIFOLD})
    for name in set(seen) - {"training_copy"}:
        assert "memorization" not in seen[name], name


@pytest.mark.slow
def test_each_fault_is_seen_by_those_who_must(seen):
    assert {"recall", "coverage"} <= seen["one_mode"]
    assert "precision" not in seen["one_mode"]
    assert {"recall", "coverage", "frechet_distance", "frechet_distance by class"} <= seen["missing_classes"]
    assert "precision" not in seen["missing_classes"]
    assert {"precision", "frechet_distance"} <= seen["blur"]
    assert {"class_accuracy", "frechet_distance by class"} <= seen["shuffled_labels"]
    assert not seen["shuffled_labels"] & (DISTANCES | MANIFOLD), "the set as a whole is as it should be"


@pytest.mark.slow
def test_the_report_shows_and_judges_it(finished):
    assert "Measure × fault" in (finished / "table.md").read_text()
    assert '<table class="faults">' in (finished / "report.html").read_text()
    judged = {check.name: check.ok for check in checks(read_results(finished))}
    assert {name: judged[name] for name in FAULTS if name in judged} == {
        name: True for name in FAULTS if name in judged
    }
    assert len(judged) == 8, "six controls and two floors"


@pytest.fixture(scope="module")
def committed():
    """(section, measure) -> fault -> cell, of the committed table."""
    lines = (ROOT / "results" / "reference" / "controls" / "table.md").read_text(encoding="utf-8").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("**Measure × fault"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 :]]
    heads, found, by_class = rows[0][1:], {}, False
    for row in rows[2:]:
        if len(row) < 2:
            break
        if row[0].startswith("**"):
            by_class = row[0].startswith("**By class")
            continue
        found[by_class, row[0]] = dict(zip(heads, row[1:], strict=True))
    return found


def test_the_committed_table_shows_what_the_field_says_and_marks_where_it_is_wrong(committed):
    assert {fault.replace("_", " ") for fault in FAULTS} == set(next(iter(committed.values())))
    for (by_class, measure), row in committed.items():
        assert not row["held out"].startswith("↓"), measure
        copied = measure in ("C_T", "Near copies")
        assert row["training copy"].startswith("↓") is copied, measure
        assert not copied or not any(row[f].startswith("↓") for f in row if "copy" not in f), measure
        if measure.startswith(("Recall", "Coverage")):
            assert all(row[f].startswith("↓") for f in ("one mode", "few images")), measure
            assert by_class or row["missing classes"].startswith("↓"), measure
        if not by_class and measure.startswith("Precision"):
            assert all(row[f].startswith("↓") for f in ("blur", "low resolution", "noise")), measure
            assert row["one mode"] == row["missing classes"] == "–", measure
        if not by_class and measure.startswith("FD"):
            assert row["shuffled labels"] == "–", measure
    assert committed[True, "FD (domain)"]["shuffled labels"].startswith("↓")
    assert committed[True, "FD (radiomics)"]["shuffled labels"].startswith("↓")
    assert committed[False, "Class acc. (domain)"]["shuffled labels"].startswith("↓")
    texture = [measure for by_class, measure in committed if not by_class and "(radiomics)" in measure]
    assert len(texture) >= 8
    for measure in texture:
        assert committed[False, measure]["blur"].startswith("↓"), measure
        assert committed[False, measure]["upside down"] == committed[False, measure]["mirrored"] == "–", measure
    for measure in ("KL of intensities", "JS of intensities"):
        assert committed[False, measure]["intensity"].startswith("↓"), measure
        assert committed[False, measure]["swapped halves"] == "–", measure
    assert committed[False, "Precision (domain)"]["outliers"] == "–†", "said to see it, and does not: see the docs"
