"""From a suite file to the table, through the command line, on small images made here."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COSTS = {"training_seconds", "seconds_per_1000_samples", "peak_memory_bytes"}
SUITE = """
name: shapes
data: {{source: images, root: {root}, image_size: [16, 16], subject_pattern: "^(p[0-9]+)"}}
split: {{fractions: {{train: 0.5, validation: 0.25, test: 0.25}}}}
generators:
  - {{name: cvae, hyperparameters: {{batch_size: 16}}}}
  - {{name: dcgan, hyperparameters: {{batch_size: 16}}}}
  - training_copy
  - mean_image
  - gaussian
budget: {{images_seen: 640}}
evaluation: {{draws: 2, samples_per_draw: 20, few: 12, bootstrap: 20, features: [random, domain]}}
threads: 1
"""


def make_images(root: Path, per_class: int = 80) -> None:
    """Bright bars, upright or level, with noise: two classes that differ; a third one with too few images."""
    rng = np.random.default_rng(0)
    for name, count in (("level", per_class), ("upright", per_class), ("rare", 16)):
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(count):
            image = rng.normal(40, 12, (16, 16))
            at = rng.integers(3, 11)
            image[at : at + 3] += 150
            if name == "upright":
                image = image.T
            if name == "rare":
                image = image[::-1] / 2
            pixels = image.clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"p{number // 2:03d}_{number}.png")


def bench(*arguments, cwd, check=None, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "BENCH_CACHE": str(Path(cwd) / "cache"), "COLUMNS": "160", **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


def scores(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["measure"] not in COSTS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("run")
    make_images(cwd / "images")
    (cwd / "suite.yaml").write_text(SUITE.format(root="images"))
    done = bench("run", "suite.yaml", cwd=cwd, check=0)
    return cwd, done


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_run_leaves_everything_the_design_names(finished):
    cwd, done = finished
    folder = cwd / "results" / "shapes"
    for name in (
        "results.csv",
        "table.csv",
        "table.md",
        "table.html",
        "table.tex",
        "report.html",
        "suite.yaml",
        "split.json",
    ):
        assert (folder / name).stat().st_size > 100, name
    assert (folder / "report.html").stat().st_size < 10_000_000
    runs = sorted(path.name.rsplit("-", 1)[0] for path in (folder / "runs").iterdir())
    assert {"cvae-seed0", "dcgan-seed0", "gaussian-seed0", "mean_image-seed0", "training_copy-seed0"} <= set(runs)
    assert "cvae" in done.stdout
    assert "report.html" in done.stdout
    assert not list(folder.rglob("*.part"))


def test_results_are_complete(finished):
    rows = scores(finished[0] / "results" / "shapes")
    for generator in ("cvae", "dcgan", "training_copy", "mean_image", "gaussian", "floor_validation"):
        found = {
            (row["features"], row["measure"]) for row in rows if row["generator"] == generator and row["class"] == "all"
        }
        for features in ("random", "domain"):
            for measure in ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"):
                assert (features, measure) in found, (generator, features, measure)
        assert ("domain", "inception_score") in found
        assert ("random", "inception_score") not in found, "random features have no logits"
        assert ("", "memorization") in found
    assert ("", "ssim_reconstruction") in {(r["features"], r["measure"]) for r in rows if r["generator"] == "cvae"}
    few = [row for row in rows if row["class"] == "rare" and row["generator"] == "cvae"]
    assert few
    assert all(row["flag"] == "too few" and row["mean"] == "" for row in few)
    sizes = {(r["n_real"], r["n_generated"]) for r in rows if r["class"] == "level" and r["features"] and r["mean"]}
    assert all(real == generated for real, generated in sizes), "equal n on both sides"
    assert not [r for r in rows if r["generator"] == "dcgan" and r["class"] not in ("all",)], (
        "unconditional: no class rows"
    )


def test_controls_come_out_as_they_must(finished):
    rows = [row for row in scores(finished[0] / "results" / "shapes") if row["class"] == "all"]
    value = {(r["generator"], r["features"], r["measure"]): float(r["mean"]) for r in rows if r["mean"]}
    assert value["training_copy", "", "near_copies"] > 0.9
    assert value["floor_validation", "", "near_copies"] < 0.2
    recalls = {g: v for (g, f, m), v in value.items() if f == "random" and m == "recall"}
    assert min(recalls, key=recalls.__getitem__) == "mean_image" or recalls["mean_image"] == min(recalls.values())
    assert value["mean_image", "random", "frechet_distance"] > value["training_copy", "random", "frechet_distance"]


def test_second_run_is_quick_and_changes_nothing(finished):
    cwd, _ = finished
    before = files(cwd / "results")
    started = time.perf_counter()
    done = bench("run", "suite.yaml", cwd=cwd, check=0)
    seconds = time.perf_counter() - started
    assert files(cwd / "results") == before
    assert "already finished" in done.stdout
    assert seconds < 15, "5 s on a quiet machine; the note has the measured figure"


def test_new_draws_train_nothing(finished, tmp_path):
    cwd, _ = finished
    before = files(cwd / "results")
    bench("run", "suite.yaml", "--set", "evaluation.draws=3", cwd=cwd, check=0)
    after = files(cwd / "results")
    checkpoints = [
        name for name in before if name.endswith(("checkpoint.safetensors", "losses.csv", "domain.safetensors"))
    ]
    assert len(checkpoints) >= 11
    assert all(after[name] == before[name] for name in checkpoints)
    assert {row["draws"] for row in scores(cwd / "results" / "shapes") if row["features"] and row["mean"]} == {"3"}
    bench("run", "suite.yaml", cwd=cwd, check=0)
    assert {row["draws"] for row in scores(cwd / "results" / "shapes") if row["features"] and row["mean"]} == {"2"}


def test_same_seed_same_results(finished):
    cwd, _ = finished
    bench("run", "suite.yaml", "--out", "again", "--only", "cvae", "--only", "gaussian", cwd=cwd)
    first = [
        r for r in scores(cwd / "results" / "shapes") if r["generator"] in ("cvae", "gaussian", "floor_validation")
    ]
    second = [r for r in scores(cwd / "again" / "shapes") if r["generator"] in ("cvae", "gaussian", "floor_validation")]
    assert len(first) > 50
    assert first == second


def test_mlflow_has_one_tree(finished):
    cwd, _ = finished
    code = """
import os; os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
from mlflow.tracking import MlflowClient
client = MlflowClient("sqlite:///results/mlflow.db")
runs = client.search_runs([client.get_experiment_by_name("medgenbench").experiment_id])
import json
print(json.dumps([{"id": r.info.run_id, "status": r.info.status, "tags": r.data.tags, "params": r.data.params,
  "metrics": sorted(r.data.metrics), "artifacts": [a.path for a in client.list_artifacts(r.info.run_id)],
  "steps": len(client.get_metric_history(r.info.run_id, "training/loss"))} for r in runs]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=cwd, capture_output=True, text=True, check=True
    )
    runs = json.loads(done.stdout.splitlines()[-1])
    by_level = {
        level: [run for run in runs if run["tags"].get("level") == level] for level in ("suite", "family", "seed")
    }
    assert [len(by_level[level]) for level in ("suite", "family", "seed")] == [1, 5, 5]
    root = by_level["suite"][0]
    assert {"suite.yaml", "split.json", "report.html"} <= set(root["artifacts"])
    assert all(run["tags"]["mlflow.parentRunId"] == root["id"] for run in by_level["family"])
    parents = {run["id"] for run in by_level["family"]}
    assert {run["tags"]["mlflow.parentRunId"] for run in by_level["seed"]} == parents
    assert all(run["status"] == "FINISHED" for run in runs), [(run["tags"], run["status"]) for run in runs]
    cvae = next(run for run in by_level["seed"] if run["tags"]["generator"] == "cvae")
    assert cvae["steps"] > 10, "losses by step"
    assert "frechet_distance/random/all" in cvae["metrics"]
    assert "cost/training_seconds" in cvae["metrics"]
    assert "system/memory_megabytes" in cvae["metrics"]
    assert "samples.png" in cvae["artifacts"]
    assert cvae["params"]["batch_size"] == "16"


def test_report_rebuilds_from_results_alone(finished):
    cwd, _ = finished
    folder = cwd / "results" / "shapes"
    kept = {name: (folder / name).read_bytes() for name in ("results.csv", "table.md", "table.tex")}
    for name in kept:
        (folder / name).unlink()
    bench("report", folder, cwd=cwd, check=0)
    assert {name: (folder / name).read_bytes() for name in kept} == kept


def test_sample_exports_images(finished):
    cwd, _ = finished
    run = next((cwd / "results" / "shapes" / "runs").glob("cvae-seed0-*"))
    bench("sample", run, "--class", "level", "--n", 5, "--out", "out", cwd=cwd, check=0)
    assert len(list((cwd / "out").glob("*.png"))) == 5
    assert np.asarray(Image.open(cwd / "out" / "000000.png")).shape == (16, 16)
    again = bench("sample", run, "--n", 5, "--out", "out", cwd=cwd, check=2)
    assert "not an empty folder" in again.stderr
    wrong = bench("sample", run, "--class", "levle", "--out", "new", cwd=cwd, check=2)
    assert "did you mean 'level'" in wrong.stderr
    dcgan = next((cwd / "results" / "shapes" / "runs").glob("dcgan-seed0-*"))
    refused = bench("sample", dcgan, "--class", "level", "--out", "new", cwd=cwd, check=2)
    assert "unconditional" in refused.stderr
    assert not (cwd / "new").exists()
    missing = bench("sample", cwd, "--out", "new", cwd=cwd, check=2)
    assert "no finished training" in missing.stderr


def test_finished_training_is_scored_again_elsewhere(finished, tmp_path):
    """Another protocol gets results of its own; the training, its scores and its table stay as they are."""
    cwd, _ = finished
    folder = cwd / "results" / "shapes"
    run = next((folder / "runs").glob("cvae-seed0-*"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    change = ["--draws", 3, "--set", "evaluation.samples_per_draw=15"]
    change += ["--set", "evaluation.features=[random, radiomics]"]
    bench("evaluate", run, *change, "--out", tmp_path / "again", cwd=cwd, check=0)
    assert "colour made grey by luma" in (tmp_path / "again" / folder.name / "report.html").read_text(encoding="utf-8")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with (tmp_path / "again" / folder.name / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    mine = [row for row in rows if row["generator"] == "cvae" and row["measure"] == "frechet_distance"]
    assert mine
    assert {row["draws"] for row in mine if row["mean"]} == {"3"}
    done = json.loads(next((tmp_path / "again" / folder.name / "runs").glob("*cvae*/result.json")).read_text())
    assert done["costs"] == json.loads((run / "result.json").read_text())["costs"]
    for options, expected in (
        (["--set", "data.image_size=[32, 32]"], "only evaluation.* can change"),
        (["--out", folder.parent], "holds the run itself"),
        (["--window", 0, 255], "--window: for --real and --generated"),
        (["--features", "radnom"], f"{run}: evaluation.features: unknown feature 'radnom'; did you mean 'random'?"),
    ):
        assert expected in bench("evaluate", run, *options, cwd=cwd, check=2).stderr
    assert "no finished training here" in bench("evaluate", folder, cwd=cwd, check=2).stderr


def test_evaluate_prints_table_and_file(tmp_path):
    """Folders of images, nothing trained: each side with the same two classes."""
    make_images(tmp_path / "images", 40)
    make_images(tmp_path / "theirs", 40)
    arguments = ["--real", "images", "--generated", "theirs"]
    done = bench("evaluate", *arguments, "--out", "out", cwd=tmp_path, check=0)
    assert "Fréchet distance ↓" in " ".join(done.stdout.replace("│", " ").split())
    assert "floor: real halves" in done.stdout
    assert (tmp_path / "out" / "results.csv").exists()
    told = json.loads((tmp_path / "out" / "features.json").read_text())
    assert "resized to 64x64" in told["random"]["rule"]
    assert told["random"]["backend"] == "random-1"
    for wrong, expected in (
        ([], "name either a RUN, or --real and --generated"),
        (arguments[:2], "--generated is missing"),
        ([*arguments, "--features", "radnom"], "random"),
        ([*arguments, "--set", "evaluation.draws=3"], "only evaluation.extractors.NAME.KEY=VALUE can be set"),
    ):
        assert expected in bench("evaluate", *wrong, cwd=tmp_path, check=2).stderr


def test_check_shows_plan_and_writes_nothing(finished):
    cwd, _ = finished
    before = files(cwd / "results")
    done = bench("check", "suite.yaml", "--set", "seeds=[0, 1]", cwd=cwd, check=0)
    assert "finished" in done.stdout
    assert "to train and score" in done.stdout
    assert "minutes" in done.stdout
    assert files(cwd / "results") == before


def test_check_times_every_family_on_images_in_the_order_of_their_classes(tmp_path):
    """More images of the first class than the timed steps need, and a control that must see every class."""
    make_images(tmp_path / "images", 200)
    (tmp_path / "suite.yaml").write_text(SUITE.format(root="images"))
    text = bench("check", "suite.yaml", "--set", "budget.images_seen=200000", cwd=tmp_path, check=0).stdout
    trained = [line for line in text.splitlines() if "cvae seed" in line or "dcgan seed" in line]
    assert len(trained) == 2
    assert not any("about 0 s of training" in line for line in trained), text
    assert "gaussian seed 0" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nowhere.yaml"], "no such suite file"),
        (["run", "suite.yaml", "--set", "data.root=nowhere"], "nowhere"),
        (["run", "suite.yaml", "--set", "generators.0.name=cvea"], "did you mean 'cvae'"),
        (["run", "suite.yaml", "--set", "evaluation.drawz=3"], "did you mean 'draws'"),
        (["run", "suite.yaml", "--set", "name=../up"], "can't be a name"),
        (["run", "suite.yaml", "--only", "cvea"], "did you mean 'cvae'"),
        (["run", "suite.yaml", "--workers", "0"], "--workers"),
        (["run", "suite.yaml", "--out", "suite.yaml"], "can't be written"),
        (["check", "suite.yaml", "--set", "seeds=x"], "seeds"),
        (["report", "nowhere"], "no results"),
        (["list", "generatorz"], "generatorz"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_is_one_message_and_code_2(finished, arguments, expected):
    cwd, _ = finished
    before = files(cwd / "results")
    done = bench(*arguments, cwd=cwd, check=2)
    assert expected in done.stderr
    assert files(cwd / "results") == before
    assert not (cwd / "up").exists()


def test_unreadable_images_beyond_the_share(tmp_path):
    make_images(tmp_path / "images", 40)
    for file in sorted((tmp_path / "images" / "level").iterdir())[:10]:
        file.write_bytes(b"no image")
    (tmp_path / "suite.yaml").write_text(SUITE.format(root="images"))
    done = bench("run", "suite.yaml", cwd=tmp_path, check=2)
    assert "max_skipped_fraction" in done.stderr
    assert not list((tmp_path / "results").rglob("*.json"))


def test_no_write_permission(tmp_path):
    """As root, who may write everywhere, the command gives up its rights once everything is imported."""
    make_images(tmp_path / "images", 20)
    (tmp_path / "suite.yaml").write_text(SUITE.format(root="images"))
    (tmp_path / "results").mkdir(mode=0o500)
    code = (
        "import os, sys; import bench.data.images, bench.display, bench.report.tables, bench.session\n"
        "from pathlib import Path; from bench.suite import load_suite, resolve; resolve(load_suite(Path('suite.yaml')))\n"
        "os.geteuid() or (os.setegid(65534), os.seteuid(65534)); sys.argv = ['bench', 'run', 'suite.yaml']\n"
        "from bench.__main__ import main; main()"
    )
    tmp_path.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "can't be written (Permission denied)" in done.stderr
    assert not list((tmp_path / "results").iterdir())


def test_failed_and_diverged_rows_stand_beside_the_finished(tmp_path):
    make_images(tmp_path / "images", 60)
    package = tmp_path / "site" / "badfamilies"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(BAD_FAMILIES)
    info = tmp_path / "site" / "badfamilies-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: badfamilies\nVersion: 1\n")
    points = "\n".join(
        f"{name} = badfamilies:{name}" for name in ("Raises", "Diverges", "NotFinite", "OutOfRange", "Killed")
    )
    (info / "entry_points.txt").write_text(f"[bench.generators]\n{points}\n")
    suite = SUITE.replace(
        "  - gaussian", "  - Raises\n  - Diverges\n  - NotFinite\n  - OutOfRange\n  - Killed\n  - gaussian"
    )
    suite = suite.replace("features: [random, domain]", "features: [random]")
    suite = suite.replace("  - {{name: dcgan, hyperparameters: {{batch_size: 16}}}}\n", "").replace(
        "  - training_copy\n", ""
    )
    (tmp_path / "suite.yaml").write_text(suite.format(root="images"))
    done = bench("run", "suite.yaml", cwd=tmp_path, check=1, PYTHONPATH=str(tmp_path / "site"))
    assert "Raises seed 0: RuntimeError: on purpose" in done.stdout
    assert "Killed seed 0: the job's process was ended by SIGKILL" in done.stdout
    rows = scores(tmp_path / "results" / "shapes")
    status = {row["generator"]: row["status"] for row in rows}
    assert status["Raises"] == "failed"
    assert status["Diverges"] == "diverged"
    assert status["NotFinite"] == "diverged"
    assert status["OutOfRange"] == "failed"
    for run in (tmp_path / "results" / "shapes" / "runs").glob("*erges-seed0-*"):
        assert (run / "losses.csv").exists()
    assert status["Killed"] == "failed"
    assert status["cvae"] == status["gaussian"] == "finished"
    table = (tmp_path / "results" / "shapes" / "table.md").read_text()
    assert "on purpose" in table
    assert "diverged at step" in table


BAD_FAMILIES = '''
import os, signal, torch
from bench.model import GenerativeModel

class Base(GenerativeModel):
    """A family that goes wrong."""
    family = "vae"
    source = "test"
    def __init__(self, shape, num_classes, hyperparameters):
        super().__init__(shape, num_classes, hyperparameters)
        self.weight = torch.nn.Parameter(torch.zeros(1))
    def training_step(self, images, labels, optimizers, progress, rng):
        return {"loss": self.weight.sum().detach()}
    def sample(self, labels, rng):
        return torch.zeros(len(labels), *self.shape)

class Raises(Base):
    """Raises."""
    def training_step(self, images, labels, optimizers, progress, rng):
        raise RuntimeError("on purpose")

class Diverges(Base):
    """Diverges."""
    def training_step(self, images, labels, optimizers, progress, rng):
        return {"loss": torch.tensor(float("inf"))}

class NotFinite(Base):
    """Finite losses and weights, images that are not."""
    def sample(self, labels, rng):
        return torch.full((len(labels), *self.shape), float("nan"))

class OutOfRange(Base):
    """Samples outside [0, 1]."""
    def sample(self, labels, rng):
        return torch.full((len(labels), *self.shape), 7.0)

class Killed(Base):
    """Dies as if the kernel had killed it."""
    def training_step(self, images, labels, optimizers, progress, rng):
        os.kill(os.getpid(), signal.SIGKILL)
'''


def test_interrupt_continues_where_it_stopped(tmp_path):
    make_images(tmp_path / "images", 60)
    suite = SUITE.replace("images_seen: 640", "images_seen: 200000").replace("[random, domain]", "[random]")
    (tmp_path / "suite.yaml").write_text(suite.format(root="images"))
    environment = {**os.environ, "BENCH_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "run", "suite.yaml"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    waited = time.monotonic() + 120
    while time.monotonic() < waited:
        events = [path.read_text() for path in (tmp_path / "results").rglob("cvae-*/events.jsonl")]
        if any('"progress"' in text for text in events):
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    result = json.loads(next((tmp_path / "results").rglob("cvae-*/result.json")).read_text())
    assert result["status"] == "interrupted"
    assert not list((tmp_path / "results").rglob("*.part"))


def test_help_and_lists_answer_at_once(tmp_path):
    for arguments in (["--help"], ["list"], ["schema"], ["--version"]):
        code = (
            f"import sys; sys.argv = ['bench', *{arguments!r}]\nfrom bench.__main__ import main\n"
            "try: main()\nexcept SystemExit as end: assert not end.code\n"
            "assert not {'torch', 'mlflow', 'pandas', 'seaborn'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)


def test_list_shows_every_kind(tmp_path):
    text = bench("list", cwd=tmp_path, check=0).stdout
    for word in (
        "vae",
        "training_copy",
        "scanner_phantom",
        "images",
        "domain",
        "inception",
        "frechet_distance",
        "Kingma",
    ):
        assert word in text


def test_doctor_names_findings(tmp_path):
    text = bench("doctor", cwd=tmp_path, check=0).stdout
    assert "torch with torchvision" in text
    bad = bench("doctor", cwd=tmp_path, check=1, BENCH_INCEPTION_WEIGHTS="nowhere")
    assert "MEND" in bad.stdout


PIP_INSTALL = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]


def test_a_family_is_added_by_an_entry_point_alone(tmp_path):
    """A package of its own, installed by pip into a folder, appears in the list."""
    source = tmp_path / "otherpackage"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "otherpackage"\nversion = "1"\n'
    )
    (source / "backend.py").write_text(BACKEND)
    target = tmp_path / "target"
    subprocess.run(
        [*PIP_INSTALL, "--target", str(target), str(source)],
        check=True,
        capture_output=True,
    )
    text = bench("list", "generators", cwd=tmp_path, check=0, PYTHONPATH=str(target)).stdout
    assert any(line.split()[:2] == ["other_family", "flow"] and "Somebody 2030" in line for line in text.splitlines())
    assert "other_family" not in bench("list", "generators", cwd=tmp_path, check=0).stdout


BACKEND = '''
import zipfile, pathlib

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "otherpackage-1-py3-none-any.whl"
    files = {
        "otherpackage.py": 'class Other:\\n    """Else."""\\n    family = "flow"\\n    source = "Somebody 2030"\\n',
        "otherpackage-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: otherpackage\\nVersion: 1\\n",
        "otherpackage-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "otherpackage-1.dist-info/entry_points.txt": "[bench.generators]\\nother_family = otherpackage:Other\\n",
    }
    record = "".join(f"{path},,\\n" for path in [*files, "otherpackage-1.dist-info/RECORD"])
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w") as wheel:
        for path, content in {**files, "otherpackage-1.dist-info/RECORD": record}.items():
            wheel.writestr(path, content)
    return name
'''


SMALL = """
name: small
data: {source: images, root: images, image_size: [16, 16]}
generators: [mean_image]
evaluation: {draws: 2, samples_per_draw: 20, few: 10, bootstrap: 20, features: [random]}
progress: {points: 0}
tracking: {enabled: false}
threads: 1
"""


def test_a_floor_of_fewer_images_than_generators_show_and_one_that_cannot_be_written(tmp_path):
    """Six validation images a class, ten test images: the floor is complete; where it fails, code and display say so."""
    make_images(tmp_path / "images", per_class=40)
    shutil.rmtree(tmp_path / "images" / "rare")
    (tmp_path / "suite.yaml").write_text(SMALL)
    bench("run", "suite.yaml", cwd=tmp_path, check=0)
    again = bench("run", "suite.yaml", cwd=tmp_path, check=0)
    assert "real data" not in again.stdout, "it is there, and not done again"

    (floor,) = (tmp_path / "results" / "small" / "runs").glob("floor_validation-*")
    shutil.rmtree(floor)
    floor.write_text("in the way")
    failed = bench("run", "suite.yaml", cwd=tmp_path, check=1)
    assert "real data: failed: " in failed.stdout
    assert str(floor) in failed.stdout.replace("\n", "")
    floor.unlink()
    bench("run", "suite.yaml", cwd=tmp_path, check=0)
