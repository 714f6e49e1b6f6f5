"""Utility within a suite: what is trained on, what is kept, controls on the phantom, the report, the command line."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.controls import MeanImage, TrainingCopy
from bench.data.phantom import ScannerPhantom
from bench.data.splits import make_split
from bench.errors import BenchError, InputError
from bench.metrics.classification import classification_scores
from bench.metrics.records import GROUPS, MEASURES
from bench.metrics.utility import Labelled, Training, predictions
from bench.model import Hyperparameters
from bench.report.page import write_report
from bench.report.results import Key, read_results
from bench.report.tables import further_table, lines
from bench.report.utility import helps, utility_tables
from bench.sampling import generate
from bench.store import read_json, write_json
from bench.suite import EvaluationSpec, Suite, load_suite
from bench.utility import Utility, estimated_seconds, wanted_labels

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
assert _spec
assert _spec.loader
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

PHANTOM = {"source": "scanner_phantom", "image_size": [32, 32], "subjects": 96, "slices": 4, "proportions": "balanced"}
CPU = torch.device("cpu")


def suite(**evaluation):
    evaluation = {"measures": ["frechet_distance", "utility"], "bootstrap": 30, **evaluation}
    return Suite.model_validate(
        {"name": "small", "data": PHANTOM, "generators": ["training_copy"], "evaluation": evaluation}
    )


# --- what a suite may ask for -------------------------------------------------------------------------------------------


def test_utility_is_measured_only_where_it_is_asked_for(tmp_path):
    assert "utility" in GROUPS
    assert "utility" not in EvaluationSpec().measures
    assert len(GROUPS["utility"]) == 18
    assert {MEASURES[name].better for name in GROUPS["utility"]} == {"higher"}
    text = "name: x\ndata: {source: scanner_phantom}\ngenerators: [cvae]\nevaluation: {utility: {clasifiers: 3}}\n"
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(InputError, match=r"s.yaml:4: .*unknown key 'clasifiers'; did you mean 'classifiers'"):
        load_suite(tmp_path / "s.yaml")
    with pytest.raises(InputError, match=r"evaluation.utility.classifiers: .* greater than or equal to 2"):
        load_suite(tmp_path / "s.yaml", ["evaluation.utility={classifiers: 1}"])


def test_the_estimate_grows_with_what_is_trained():
    spec = suite(utility={"classifiers": 4, "images_seen": 10_000}).evaluation
    one = estimated_seconds(spec, (1, 64, 64), threads=1)
    assert one == pytest.approx(2 * estimated_seconds(spec, (1, 64, 64), threads=2))
    assert estimated_seconds(spec, (1, 128, 128), threads=1) == pytest.approx(4 * one)


# --- on the phantom -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """A small phantom with its split, utility prepared, and the events that were told."""
    folder = tmp_path_factory.mktemp("results")
    options = {key: value for key, value in PHANTOM.items() if key != "source"}
    source = ScannerPhantom(ScannerPhantom.Options.model_validate(options))
    data = source.prepare(tmp_path_factory.mktemp("data"))
    split = make_split(data.labels, data.subjects, fractions=(0.5, 0.25, 0.25), class_names=data.class_names)
    told = []
    asked = suite(utility={"classifiers": 2, "images_seen": 4000})
    utility = Utility(folder, "abc", asked, data, split, CPU, lambda kind, **values: told.append((kind, values)))
    write_json(folder / "reference.json", {"schema": 1, "reference_id": "abc"})
    with pytest.raises(BenchError, match="run the suite again"):
        utility.score(utility.floor("floor_validation"))
    utility.prepare()
    return utility, told


def fitted(family, utility):
    data, train = utility.data, utility.split.train
    model = family(data.shape, data.num_classes, Hyperparameters())
    model.fit_direct(data.floats(train), torch.from_numpy(data.labels[train]), torch.Generator())
    return lambda labels: (generate(model, labels, 0, "utility", device=CPU), labels)


def means(found):
    return {row["measure"]: row["mean"] for row in found[0]}


def trained_on(utility, make):
    """Balanced accuracy on real test images after training on what is made alone."""
    data, split = utility.data, utility.split
    found = predictions(
        generated=Labelled(*make(wanted_labels(utility.suite, data, split))),
        test=data.bytes(split.test),
        num_classes=data.num_classes,
        training=Training(classifiers=2, images_seen=4000),
    )
    scores = [classification_scores(labels=data.labels[split.test], probabilities=one) for one in found]
    return float(np.mean([one["balanced_accuracy"] for one in scores]))


def test_real_images_alone_are_trained_on_once_and_told(phantom):
    utility, told = phantom
    (file,) = utility.folder.glob("runs/reference-abc/utility-*.npy")
    record = read_json(utility.folder / "reference.json")
    assert record["reference_id"] == "abc"
    facts = record["utility"]
    assert (facts["status"], facts["n_real"], facts["n_test"]) == (
        "ok",
        len(utility.split.train),
        len(utility.split.test),
    )
    real = facts["real"]["balanced_accuracy"]
    assert real["mean"] > 0.5  # of four classes
    assert real["lower"] < real["mean"] < real["upper"]
    before, count = file.stat().st_mtime_ns, len(told)
    utility.prepare()
    more = replace(utility, suite=suite(utility={"classifiers": 2, "images_seen": 4000, "ratio": 3.0}))
    more.prepare()  # what is generated changes nothing of it
    assert file.stat().st_mtime_ns == before
    assert len(told) == count
    assert read_json(utility.folder / "reference.json")["utility"]["ratio"] == 3.0
    utility.prepare()


def test_controls_behave(phantom):
    """Copies are worth what real images are, a mean image is worth less, labels that know nothing of the image nothing."""
    utility, _ = phantom
    real = read_json(utility.folder / "reference.json")["utility"]["real"]["balanced_accuracy"]["mean"]
    copies, replicates = found = utility.score(fitted(TrainingCopy, utility))
    assert set(means(found)) == set(GROUPS["utility"])
    assert means(found)["tstr_balanced_accuracy"] == pytest.approx(real, abs=0.15)
    (gain,) = (row for row in copies if row["measure"] == "gain_balanced_accuracy")
    assert gain["lower"] <= 0 <= gain["upper"]
    assert gain["draws"] == 2
    assert (gain["n_real"], gain["n_generated"]) == (len(utility.split.test), len(utility.split.train))
    assert len(replicates["all//gain_balanced_accuracy"]) == 30
    assert trained_on(utility, fitted(MeanImage, utility)) < real - 0.15
    copy = fitted(TrainingCopy, utility)
    # each class has every label equally often: a permutation might by accident tell something, or the contrary
    unrelated = trained_on(utility, lambda labels: (copy(labels)[0], np.arange(len(labels)) % 4))
    assert unrelated == pytest.approx(0.25, abs=0.17)


def test_floors_are_real_images_of_other_subjects(phantom):
    utility, _ = phantom
    wanted = wanted_labels(utility.suite, utility.data, utility.split)
    assert len(wanted) == len(utility.split.train)
    held, labels = utility.floor("floor_validation")(wanted)
    assert len(held) == len(utility.split.validation)
    assert sorted(labels) == sorted(utility.data.labels[utility.split.validation])
    fresh, labels = utility.floor("floor_fresh")(wanted)
    np.testing.assert_array_equal(labels, wanted)
    known = {image.tobytes() for image in utility.data.bytes(np.arange(len(utility.data)))}
    assert not {image.tobytes() for image in fresh} & known


def test_a_number_of_images_may_be_asked_for(phantom):
    utility, _ = phantom
    labels = wanted_labels(suite(utility={"samples": 7}), utility.data, utility.split)
    assert np.bincount(labels).tolist() == [7] * 4


def test_one_class_is_not_applicable_and_nothing_stops(phantom, tmp_path):
    utility, _ = phantom
    told = []
    single = replace(
        utility, folder=tmp_path, data=utility.data.as_one_class(), emit=lambda kind, **v: told.append((kind, v))
    )
    write_json(tmp_path / "reference.json", {"schema": 1})
    single.prepare()
    assert "one class" in told[0][1]["text"]
    assert single.score(lambda labels: pytest.fail("nothing is to be made")) == ([], {})
    silent = replace(utility, suite=suite(measures=["frechet_distance"]))
    assert silent.score(lambda labels: pytest.fail("nothing was asked for")) == ([], {})


# --- the report ---------------------------------------------------------------------------------------------------------

GAINS = {"cvae": (0.05, 0.02, 0.08), "training_copy": (0.001, -0.02, 0.02), "floor_fresh": (0.09, 0.05, 0.12)}


@pytest.fixture
def reported(tmp_path):
    """Results with utility: cVAE helps, copies don't; the VAE is unconditional."""
    folder = fixture.write_results(tmp_path / "suite", seeds={})
    for row in json.loads((folder / "plan.json").read_text())["rows"]:
        path = folder / row["run"] / row["evaluation"]
        if row["generator"] in GAINS:
            mean, lower, upper = GAINS[row["generator"]]
            record = json.loads(path.read_text())
            for name in GROUPS["utility"]:
                shift = 0 if name.startswith("gain") else 0.4
                record["scores"].append(
                    {"class": "all", "features": "", "measure": name, "mean": mean + shift, "std": 0.01, "draws": 3}
                    | {"n_real": 1000, "n_generated": 2400, "lower": lower + shift, "upper": upper + shift}
                    | {"flag": "", "values": [mean + shift] * 3}
                )
            path.write_text(json.dumps(record))
    told = {"mean": 0.44, "std": 0.012, "lower": 0.4, "upper": 0.48, "values": [0.43, 0.44, 0.45]}
    utility = {
        "status": "ok",
        "classifiers": 3,
        "images_seen": 20000,
        "ratio": 1.0,
        "samples": None,
        "rule": "a network",
    }
    utility |= {"n_real": 2400, "n_generated": 2500, "n_test": 1000, "real": {"balanced_accuracy": told}}
    reference = json.loads((folder / "reference.json").read_text())
    (folder / "reference.json").write_text(json.dumps(reference | {"utility": utility}))
    return folder


def test_the_tables_tell_what_helps(reported):
    results = read_results(reported)
    alone, gain = utility_tables(results)
    rows = {row[0].text: [str(cell) for cell in row[1:]] for _, body in gain.sections for row in body}
    assert next(iter(rows)) == "real images alone"
    assert rows["real images alone"][1] == "0.440 ± 0.012 [0.400, 0.480]"
    assert rows["cvae"][1] == "+0.050 ± 0.010 [0.020, 0.080]"
    assert [rows[name][-1] for name in ("cvae", "training_copy", "floor_fresh", "dcgan")] == [
        "yes",
        "not shown",
        "yes",
        "–",
    ]
    first = {row[0].text: [str(cell) for cell in row[1:]] for _, body in alone.sections for row in body}
    assert first["vae"] == ["not applicable: unconditional", *["–"] * 5]
    assert first["cvae"][1] == "0.450 ± 0.010 [0.420, 0.480]"
    notes = " ".join(alone.notes)
    assert "balanced accuracy 0.25 (4 classes)" in notes
    assert "Fewer images than asked for, so repeated more often: " in notes
    assert "cvae (2,400)" in notes
    further = further_table(results)
    assert not [column for column in further.columns if "accuracy" in column.title]
    (cvae,) = (line for line in lines(results) if line.generator == "cvae")
    cvae.numbers[Key("all", "", "gain_balanced_accuracy")] = replace(
        cvae.numbers[Key("all", "", "gain_balanced_accuracy")], lower=-0.3, upper=-0.1
    )
    assert helps(cvae) == "harms"


def test_every_file_of_the_report_has_them(reported):
    write_report(reported)
    for name in ("table.md", "table.html", "table.tex", "report.html"):
        assert "Gain: real plus generated images minus real images alone" in (reported / name).read_text()
    assert 'href="#utility"' in (reported / "report.html").read_text()
    with (reported / "results.csv").open() as file:
        assert {row["measure"] for row in csv.DictReader(file)} >= set(GROUPS["utility"])


def test_results_without_utility_have_no_such_table(tmp_path):
    folder = fixture.write_results(tmp_path / "suite")
    assert utility_tables(read_results(folder)) == []
    reference = json.loads((folder / "reference.json").read_text())
    reference["utility"] = {"status": "not applicable", "reason": "the data have one class"}
    (folder / "reference.json").write_text(json.dumps(reference))
    write_report(folder)
    assert "Not applicable: the data have one class." in (folder / "table.md").read_text()


# --- the command line ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_suite_with_utility_from_the_command_line(tmp_path):
    text = f"""
name: small
data: {json.dumps(PHANTOM)}
split: {{fractions: {{train: 0.5, validation: 0.25, test: 0.25}}}}
generators: [vae, training_copy, {{folder: theirs, label: theirs}}]
budget: {{images_seen: 320}}
progress: {{points: 0}}
evaluation: {{draws: 2, samples_per_draw: 12, few: 10, bootstrap: 20, features: [random],
  measures: [frechet_distance, utility], utility: {{classifiers: 2, images_seen: 2000}}}}
threads: 1
tracking: {{enabled: false}}
"""
    from PIL import Image

    (tmp_path / "suite.yaml").write_text(text)
    for number, name in enumerate(("Gyroscan Intera", "Intera", "Magnetom TrioTim", "Unspecified")):
        (tmp_path / "theirs" / name).mkdir(parents=True)
        for index in range(8):
            Image.new("L", (16, 16), 40 * number + index).save(tmp_path / "theirs" / name / f"{index}.png")

    def run(*more):
        command = [sys.executable, "-m", "bench", "run", "suite.yaml", *more]
        environment = {**os.environ, "BENCH_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return (tmp_path / "results" / "small" / "table.md").read_text()

    table = run()
    assert "not applicable: unconditional" in table
    assert "theirs (32)" in table
    for row in ("floor_validation", "floor_fresh", "training_copy", "theirs"):
        (line,) = (line for line in table.partition("**Gain")[2].splitlines() if line.startswith(f"| {row}"))
        assert line.rstrip("| ").split()[-1] in ("yes", "harms", "shown")
    (file,) = (tmp_path / "results" / "small").glob("runs/reference-*/utility-*.npy")
    before = file.stat().st_mtime_ns
    assert run() == table
    assert run("--set", "evaluation.utility.ratio=2") != table
    assert file.stat().st_mtime_ns == before
