"""Rows that are no plain family (presets, one model per class, images made elsewhere), precision, progress, recognition."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from bench.errors import InputError
from bench.external import fingerprint, read_external
from bench.fit import Average, Budget, Patience, Watch, fit, stage
from bench.model import GenerativeModel, Plateau
from bench.per_class import PerClass
from bench.plan import resolve_precision
from bench.registry import GENERATORS
from bench.sampling import generate
from bench.seeds import torch_rng
from bench.suite import load_suite, resolve

SUITE = """
name: rows
data: {{source: scanner_phantom, image_size: [16, 16], subjects: 48, slices: 4, proportions: balanced}}
split: {{fractions: {{train: 0.5, validation: 0.25, test: 0.25}}}}
generators: {generators}
budget: {{images_seen: 320}}
progress: {{points: 4, samples: 24}}
evaluation: {{draws: 2, samples_per_draw: 12, few: 10, bootstrap: 10, features: [random, domain]}}
precision: bfloat16
threads: 1
tracking: {{enabled: false}}
"""
CLASSES = ("Gyroscan Intera", "Intera", "Magnetom TrioTim", "Unspecified")


def write(path, generators):
    path.write_text(SUITE.format(generators=json.dumps(generators)))
    return path


def refused(path, generators):
    with pytest.raises(InputError) as error:
        resolve(load_suite(write(path, generators)), path)
    return str(error.value)


def pictures(folder, count, size=(16, 16), seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *size), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return pixels


# --- what a suite may ask for -------------------------------------------------------------------------------------------


def test_a_preset_fills_in_and_overrides_win(tmp_path):
    spec = {"name": "vae_gan", "preset": "chest", "hyperparameters": {"latent_dim": 7}}
    found = resolve(load_suite(write(tmp_path / "s.yaml", [spec]))).generators[0].hyperparameters
    assert (found["hidden"], found["kernel"], found["latent_dim"]) == (2048, 5, 7)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "vae_gan", "preset": "chst"}, "did you mean 'chest'"),
        ({"name": "vae", "preset": "chest"}, "no preset 'chest'"),
        ({"name": "cvae", "unconditional": "per_class"}, "cvae is conditional"),
        ({"name": "dcgan", "unconditional": "per_class", "hyperparameters": {"conditional": True}}, "is conditional"),
        ({"folder": "nowhere", "label": "x"}, "no such folder"),
        ({"folder": ".", "name": "vae", "label": "x"}, "either a generator's name or a folder"),
        ({"folder": "."}, "needs a label"),
        ({"folder": ".", "label": "x", "preset": "chest"}, "takes a label only"),
        ({}, "either a generator's name or a folder"),
    ],
)
def test_what_does_not_fit_is_said_with_its_line(tmp_path, spec, said):
    message = refused(tmp_path / "s.yaml", [spec])
    assert said in message
    assert "s.yaml:5: generators.0" in message
    assert len(message.splitlines()) == 1


def test_the_suites_default_spares_conditional_families(tmp_path):
    path = write(tmp_path / "s.yaml", ["vae", "cvae"])
    suite = resolve(load_suite(path, ["unconditional=per_class"]), path)
    assert [spec.unconditional for spec in suite.generators] == ["per_class", "pooled"]


def test_precision_is_told_before_anything_runs():
    assert resolve_precision("float32", "cpu") == "float32"
    assert resolve_precision("bfloat16", "cpu") == "bfloat16"
    assert resolve_precision("auto", "cpu") in ("float32", "bfloat16")


# --- images made elsewhere ----------------------------------------------------------------------------------------------


def test_a_folder_per_class_is_conditional(tmp_path):
    expected = [pictures(tmp_path / name, 3, seed=index) for index, name in enumerate("ab")]
    external = read_external(tmp_path, ("a", "b"), (1, 16, 16))
    assert external.conditional
    np.testing.assert_array_equal(external.images[:, 0], np.concatenate(expected))
    images, labels = external.draw(np.array([0, 0, 1]), seed=0, number=0)
    assert labels.tolist() == [0, 0, 1]
    assert not np.array_equal(images[0], images[1])
    assert len(external.draw(np.zeros(9, int), seed=0, number=0)[0]) == 3  # never one twice


def test_a_plain_folder_has_no_classes_and_is_brought_to_shape(tmp_path):
    pictures(tmp_path, 4, size=(20, 30))
    external = read_external(tmp_path, ("a", "b"), (3, 16, 24))
    assert not external.conditional
    assert external.images.shape == (4, 3, 16, 24)
    assert external.rule == "read as 8 bits, 4 resized from 20x30 to 16x24 (bicubic, antialiased)"
    assert external.warning is None
    external = read_external(tmp_path, ("a", "b"), (1, 16, 16))
    assert (
        external.warning == "4 images of 20x30 are stretched to 16x16, another aspect ratio: their content is distorted"
    )


def test_what_was_done_to_the_files_is_told(tmp_path):
    pictures(tmp_path, 3)
    external = read_external(tmp_path, ("a",), (1, 16, 16))
    assert (external.rule, external.warning) == ("read as 8 bits", None)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / "zz.png")
    external = read_external(tmp_path, ("a",), (1, 16, 16))
    assert "1 resized from 32x32 to 16x16" in external.rule
    assert "1 turned from colour to grey" in external.rule
    assert external.warning is None


def test_a_table_as_sample_writes_it(tmp_path):
    pictures(tmp_path, 2)
    (tmp_path / "images.csv").write_text("path,label,generator,seed\n000.png,b,x,0\n001.png,a,x,0\n")
    assert read_external(tmp_path, ("a", "b"), (1, 16, 16)).labels.tolist() == [1, 0]


def test_external_files_are_read_as_they_were_stored(tmp_path):
    """Upright as EXIF says; pages and bits that Pillow alone would drop are refused by name."""
    wide = Image.fromarray(np.arange(24 * 16, dtype=np.uint16).reshape(16, 24).clip(0, 255).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    wide.save(tmp_path / "turned.png", exif=turned)
    found = read_external(tmp_path, ("a",), (1, 24, 16))
    assert found.rule == "read as 8 bits"
    np.testing.assert_array_equal(found.images[0, 0], np.rot90(np.asarray(wide), -1))
    wide.save(tmp_path / "pages.tif", save_all=True, append_images=[wide])
    with pytest.raises(InputError, match=r"pages.tif: holds 2 pages"):
        read_external(tmp_path, ("a",), (1, 24, 16))
    (tmp_path / "pages.tif").unlink()
    Image.fromarray(np.full((24, 16), 300, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep.png: more than 8 bits"):
        read_external(tmp_path, ("a",), (1, 24, 16))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no images"),
        (lambda folder: pictures(folder / "a", 2), "no image of class b"),
        (lambda folder: [pictures(folder / name, 2) for name in (".", "a", "b")], "images both here .* and in folders"),
        (lambda folder: [pictures(folder / name, 2) for name in ("a", "bb")], "'bb' is no class of the data"),
        (lambda folder: (folder / "x.png").write_bytes(b"no image"), "x.png: can't be read"),
        (lambda folder: Image.fromarray(np.full((16, 16), 1000, np.uint16)).save(folder / "y.png"), "more than 8 bits"),
        (lambda folder: (folder / "images.csv").write_text("file\nx.png\n"), "no column .path."),
        (lambda folder: (folder / "images.csv").write_text("path,label\nx.png,a\n"), "x.png: can't be read"),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(InputError, match=said) as error:
        read_external(tmp_path, ("a", "b"), (1, 16, 16))
    assert len(str(error.value).splitlines()) == 1


def test_a_changed_file_changes_the_fingerprint(tmp_path):
    pictures(tmp_path, 2)
    before = fingerprint(tmp_path)
    assert before == fingerprint(tmp_path)
    pictures(tmp_path, 1, seed=1)
    assert before != fingerprint(tmp_path)


# --- training -----------------------------------------------------------------------------------------------------------


class Line(GenerativeModel):
    """One number that falls by the learning rate with every step."""

    family, source, mixed_precision = "vae", "here 2026", True

    def __init__(self, shape, num_classes, hyperparameters):
        super().__init__(shape, num_classes, hyperparameters)
        self.value = torch.nn.Parameter(torch.tensor(1.0))
        self.seen, self.types, self.loss = [], set(), 1.0

    @property
    def ema_decay(self):
        return 0.5

    @property
    def plateau(self):
        return self.rule

    rule = None

    def configure_optimizers(self):
        return {"sgd": torch.optim.SGD(self.parameters(), lr=0.1)}

    def training_step(self, images, labels, optimizers, progress, rng):
        self.types.add((images.flatten(1) @ torch.ones(images[0].numel(), 1)).dtype)
        self.value.grad = torch.ones(())
        optimizers["sgd"].step()
        self.seen.append(labels.tolist())
        return {"loss": self.value.detach()}

    def validation_loss(self, images, labels, rng):
        return torch.tensor(self.loss)

    def sample(self, labels, rng):
        return torch.full((len(labels), *self.shape), self.value.item()).clamp(0, 1)


def line(data, budget=160, **options):
    model = Line(data.shape, data.num_classes, Line.Hyperparameters(batch_size=8))
    events = []
    half = len(data) // 2
    arguments = {"budget": Budget(budget), "seed": 0, "device": torch.device("cpu")}
    return model, events, lambda: fit(
        model, data, np.arange(half), np.arange(half, len(data)),
        emit=lambda kind, **values: events.append((kind, values)), **arguments, **options,
    )  # fmt: skip


@pytest.fixture
def data():
    from bench.data.dataset import ImageDataset

    n = 40
    subjects = np.array([f"s{i}" for i in range(n)])
    pixels = np.random.default_rng(0).integers(0, 256, (n, 1, 16, 16), dtype=np.uint8)
    return ImageDataset(pixels, np.arange(n) % 2, ("a", "b"), subjects, tuple(subjects), "f" * 16, "t", False)


def test_a_watcher_sees_the_scored_weights_and_leaves_no_trace(data):
    """It looks four times, last at the end, sees the moving average, and training goes on as if nobody looked."""
    looked = []
    model, _, _ = line(data)
    other, _, alone = line(data)
    kept = fit_with_watch(model, data, looked)
    alone()
    assert [images for images, _, _ in looked] == [40, 80, 120, 160]
    assert all(not training for _, _, training in looked)
    assert kept.images_seen == 160
    assert model.value.item() == pytest.approx(other.value.item())
    assert looked[-1][1] == pytest.approx(model.value.item())
    average = Average(Line(data.shape, 2, Line.Hyperparameters()), 0.5)
    expected, value = 1.0, 1.0
    for number in range(1, 6):  # five steps to the first look
        value -= 0.1
        expected += (value - expected) * (1 - min(0.5, (1 + number) / (10 + number)))
    assert looked[0][1] == pytest.approx(expected)
    assert average.updates == 0


def fit_with_watch(model, data, looked):
    half = len(data) // 2
    return fit(
        model, data, np.arange(half), np.arange(half, len(data)), budget=Budget(160), seed=0,
        device=torch.device("cpu"), emit=lambda *_, **__: None,
        watch=Watch(4, lambda images: looked.append((images, model.value.item(), model.training))),
    )  # fmt: skip


@pytest.mark.parametrize(("precision", "kind"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_that_of_training_steps_and_weights_stay_float32(data, precision, kind):
    model, _, train = line(data, precision=precision)
    train()
    assert model.types == {kind}
    assert model.value.dtype == torch.float32


def test_a_family_that_does_not_allow_bfloat16_stays_as_it_is(data):
    model, _, train = line(data, precision="bfloat16")
    type(model).mixed_precision = False
    try:
        train()
    finally:
        type(model).mixed_precision = True
    assert model.types == {torch.float32}


class Sampler(Line):
    """Keeps the type that a product of matrices has while it draws."""

    mixed_sampling = True

    def sample(self, labels, rng):
        self.types.add((torch.rand(2, 2, generator=rng) @ torch.rand(2, 2, generator=rng)).dtype)
        return torch.zeros(len(labels), *self.shape)


@pytest.mark.parametrize(("precision", "kind"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_sampling_runs_in_the_precision_that_the_model_carries(precision, kind):
    model = Sampler((1, 16, 16), 2, Sampler.Hyperparameters())
    assert model.sampling_precision == "float32"
    model.sampling_precision = precision
    generate(model, np.zeros(3, np.int64), 0, "x", device=torch.device("cpu"))
    assert model.types == {kind}


def test_ddim_in_bfloat16_draws_nearly_the_same_images():
    """Same noise, rounded network: within a few grey levels on average, even untrained; and float32 is given back."""
    family = GENERATORS.get("ddim")
    torch.manual_seed(0)
    model = family((1, 32, 32), 2, family.Hyperparameters(channels=(32,), conditional=True)).eval()
    pictures = {}
    for precision in ("float32", "bfloat16"):
        model.sampling_precision = precision
        pictures[precision] = generate(model, np.arange(8) % 2, 0, "x", device=torch.device("cpu")).astype(int)
    difference = np.abs(pictures["float32"] - pictures["bfloat16"])
    assert 0 < difference.mean() < 3


def test_a_plateau_reduces_rates_and_then_ends_training(data):
    model, events, train = line(data, budget=1600)
    model.rule = Plateau(factor=0.5, patience=2, stop=5)
    fitted = train()
    assert fitted.images_seen == 480  # validations every 80 images: the first is the minimum, then five in vain
    assert any(kind == "warning" and "stopped early" in values["text"] for kind, values in events)


def test_patience_counts_from_the_last_minimum():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    patience = Patience(Plateau(0.5, 2, 4), {"one": optimizer})
    rates = []
    for loss in (3.0, 3.0, 2.0, 2.0, 2.0, 2.0):
        assert not patience.spent(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
    assert patience.spent(2.0)


def test_stages_take_their_shares():
    shares = {"autoencoder": 0.6, "prior": 0.4}
    assert [stage(shares, fraction) for fraction in (0.0, 0.59, 0.6, 0.99, 1.0)] == [
        "autoencoder", "autoencoder", "prior", "prior", "prior"
    ]  # fmt: skip
    assert stage({}, 0.3) == ""


def test_one_model_per_class_answers_for_its_class():
    class Constant(Line):
        def sample(self, labels, rng):
            assert not labels.any()  # each is built for one class
            return torch.full((len(labels), *self.shape), self.value.item()).clamp(0, 1)

    model = PerClass(Constant, (1, 16, 16), 3, Constant.Hyperparameters())
    for label in range(3):
        model.of_class(label).value.data.fill_(label / 4)
    labels = torch.tensor([2, 0, 1, 2])
    assert model.conditional
    assert model.sample(labels, torch_rng(0))[:, 0, 0, 0].tolist() == [0.5, 0.0, 0.25, 0.5]
    assert model.reconstruct(torch.zeros(4, 1, 16, 16), labels) is None


# --- through the command line -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("rows")
    for index, name in enumerate(CLASSES):
        pictures(cwd / "classed" / name, 30, seed=index)
    pictures(cwd / "plain", 30)
    small = {"width": 4, "batch_size": 16}
    generators = [
        {"name": "dcgan", "label": "one_each", "unconditional": "per_class", "hyperparameters": small},
        {"name": "dcgan", "label": "asked", "hyperparameters": {**small, "conditional": True}},
        {"folder": str(cwd / "classed"), "label": "elsewhere"},
        {"folder": str(cwd / "plain"), "label": "elsewhere_plain"},
        "training_copy",
    ]
    write(cwd / "suite.yaml", generators)
    command = [sys.executable, "-m", "bench", "run", "suite.yaml"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "results" / "rows"


def record(folder, row):
    (run,) = (folder / "runs").glob(f"{row}-seed0-*")
    return run, json.loads((run / "result.json").read_text())


def test_every_row_has_its_record(finished):
    _, one_each = record(finished, "one_each")
    assert one_each["policy"]["unconditional"] == "per_class"
    assert one_each["conditional"]
    assert one_each["images_seen"] == 320
    _, asked = record(finished, "asked")
    assert asked["policy"]["precision"] == "bfloat16"
    assert asked["policy"]["unconditional"] is None
    _, elsewhere = record(finished, "elsewhere")
    assert (elsewhere["role"], elsewhere["external"]["images"], elsewhere["conditional"]) == ("external", 120, True)
    assert not record(finished, "elsewhere_plain")[1]["conditional"]


def test_rows_made_elsewhere_are_scored_like_families(finished):
    with (finished / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = {(row["generator"], row["class"]) for row in rows if row["measure"] == "frechet_distance" and row["mean"]}
    assert {("elsewhere", name) for name in ("all", *CLASSES)} <= names
    assert {name for row, name in names if row == "elsewhere_plain"} == {"all"}
    assert {("one_each", name) for name in ("all", *CLASSES)} <= names


def test_progress_is_measured_on_the_way(finished):
    run, _ = record(finished, "asked")
    with (run / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted({int(row["images_seen"]) for row in rows}) == [80, 160, 240, 320]
    kinds = {(row["features"], row["measure"]) for row in rows}
    assert kinds == {
        ("random", "frechet_distance"), ("domain", "frechet_distance"), ("domain", "inception_score")
    }  # fmt: skip
    assert all(math.isfinite(float(row["value"])) and row["n"] == "24" for row in rows)
    reference = json.loads((finished / "reference.json").read_text())["progress"]
    assert reference["n"] == 24
    assert {tuple(key.split("/")) for key in reference["real"]} == kinds


def test_the_class_asked_for_is_looked_for(finished):
    """Copies of training images are recognised about as often as real test images; noise is not."""
    with (finished / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {
        row["generator"]: float(row["mean"])
        for row in rows
        if row["measure"] == "class_accuracy" and row["class"] == "all"
    }
    real = json.loads((finished / "reference.json").read_text())["recognition"]["domain"]["all"]
    assert "elsewhere_plain" not in found  # asked for no class
    assert found["training_copy"] > 0.5 * real
    assert found["elsewhere"] < 0.6
    assert found["floor_validation"] == pytest.approx(real, abs=0.3)


def test_the_model_per_class_is_loaded_and_sampled_again(finished, tmp_path):
    run, _ = record(finished, "one_each")
    command = [
        sys.executable,
        "-m",
        "bench",
        "sample",
        str(run),
        "--class",
        "Intera",
        "--n",
        "3",
        "--out",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o").glob("*.png"))) == 3


def test_registered_families_allow_bfloat16_where_measured():
    assert GENERATORS.get("dcgan").mixed_precision
    assert not GENERATORS.get("vae").mixed_precision
