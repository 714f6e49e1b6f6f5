"""Translators: the losses' closed forms, a toy task, and a suite with one through the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from baselines import cyclegan
from bench.data.dataset import ImageDataset
from bench.data.splits import make_split
from bench.errors import BenchError
from bench.model import Progress, Translator
from bench.registry import GENERATORS
from bench.translate import sources, translate

SHAPE = (1, 16, 16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(classes=3, shape=SHAPE, **hyperparameters):
    torch.manual_seed(0)
    defaults = {"width": 4, "residual_blocks": 1}
    return cyclegan.CycleGAN(shape, classes, cyclegan.CycleGAN.Hyperparameters(**{**defaults, **hyperparameters}))


def test_is_registered_as_a_translator():
    assert issubclass(GENERATORS.get("cyclegan"), Translator)
    assert GENERATORS.describe("cyclegan").attributes["family"] == "translation"


def test_one_class_can_not_be_translated():
    with pytest.raises(ValueError, match="two classes"):
        build(classes=1)


def test_the_target_is_never_the_source_and_every_other_class_comes_up():
    model, a = build(classes=4), torch.arange(400) % 4
    b = model.targets(a, generator())
    assert (a != b).all()
    assert {tuple(pair) for pair in torch.stack([a, b], 1).tolist()} == {
        (i, j) for i in range(4) for j in range(4) if i != j
    }


def test_least_squares_is_the_mean_squared_difference():
    scores = torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    assert cyclegan.least_squares(scores, 1.0).item() == pytest.approx(0.5)


@pytest.mark.parametrize("mode", ["conditional", "pairs"])
def test_translation_by_nothing_has_no_cycle_loss(mode):
    """A generator whose correction is zero returns its input: cycle and identity loss vanish (up to the clamp at 0.99)."""
    model = build(mode=mode)
    for network in model.generators.values():
        torch.nn.init.zeros_(network.layers[-1].weight)
        torch.nn.init.zeros_(network.layers[-1].bias)
    images, labels = torch.rand(6, *SHAPE, generator=generator()) * 0.9 + 0.05, torch.arange(6) % 3
    losses = model.training_step(images, labels, model.configure_optimizers(), Progress(0, 0, 0.0), generator())
    assert losses["cycle"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("mode", ["conditional", "pairs"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 37, 45), (1, 64, 64)], ids=str)
def test_any_shape_any_pair(mode, shape):
    model = build(mode=mode, shape=shape).eval()
    images = torch.rand(5, *shape, generator=generator())
    source, target = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 2, 0, 2, 0])
    found = model.translate(images, source, target, generator())
    assert found.shape == images.shape
    assert found.min() >= 0
    assert found.max() <= 1
    alone = model.translate(images[3:4], source[3:4], target[3:4], generator())
    torch.testing.assert_close(found[3:4], alone, rtol=1e-4, atol=1e-5)  # the batch's other images don't matter


@pytest.mark.parametrize("mode", ["conditional", "pairs"])
def test_each_player_moves_by_its_own_step_alone(mode):
    model = build(mode=mode)
    images, labels = torch.rand(6, *SHAPE, generator=generator()), torch.arange(6) % 3
    for player, other in (("generator", "discriminator"), ("discriminator", "generator")):
        optimizers = model.configure_optimizers()
        optimizers[other].param_groups[0]["lr"] = 0.0
        before = {name: value.clone() for name, value in model.named_parameters()}
        model.training_step(images, labels, optimizers, Progress(0, 0, 0.0), generator())
        moved = {n.partition(".")[0] for n, value in model.named_parameters() if not torch.equal(value, before[n])}
        assert moved == {f"{player}s"}
        assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("mode", ["conditional", "pairs"])
def test_learns_to_change_brightness(mode):
    """Two classes, dark and bright, with the same bars: brightness goes to the target's, the bars stay."""
    rng, model = (
        generator(),
        build(classes=2, mode=mode, width=8, learning_rate=2e-3, identity=0.0, halvings=1, cycle=3.0),
    )
    labels = torch.arange(32) % 2
    images = 0.05 * torch.rand(32, *SHAPE, generator=rng) + torch.where(labels == 1, 0.6, 0.2)[:, None, None, None]
    for index, image in enumerate(images):
        image[:, :, 2 + index % 10 : 5 + index % 10] += 0.2
    optimizers = model.configure_optimizers()
    model.train()
    for number in range(300):
        part = torch.randperm(32, generator=rng)[:16]
        model.training_step(images[part], labels[part], optimizers, Progress(number, 16 * number, number / 300), rng)
    model.eval()
    turned = model.translate(images, labels, 1 - labels, rng)
    means = turned.mean((1, 2, 3))
    assert means[labels == 1].mean() < 0.4 < means[labels == 0].mean()  # bright ones became dark, dark ones bright
    deviations = [part.flatten(1) - part.flatten(1).mean(1, keepdim=True) for part in (images, turned)]
    own = torch.nn.functional.cosine_similarity(*deviations)
    other = torch.nn.functional.cosine_similarity(deviations[0].roll(5, 0), deviations[1])
    assert own.mean() > other.mean() + 0.3


def dataset(several=False):
    """Images of 30 subjects, of one class each, or of all three where `several`."""
    n = 90
    subjects = np.array([f"s{i // 3 if not several else i % 30}" for i in range(n)])
    labels = np.array([i // 3 % 3 if not several else i // 30 for i in range(n)])
    pixels = np.random.default_rng(0).integers(0, 256, (n, *SHAPE), dtype=np.uint8)
    names = tuple(f"i{i}" for i in range(n))
    return ImageDataset(pixels, labels, ("a", "b", "c"), subjects, names, "f" * 16, "t", False)


def test_sources_are_test_images_of_other_classes_and_subjects():
    data = dataset()
    split = make_split(data.labels, data.subjects, fractions=(0.4, 0.2, 0.4))
    target = np.repeat([0, 1, 2], 10)
    chosen = sources(data, split, target, 0)
    assert set(chosen) <= set(split.test.tolist())
    assert (data.labels[chosen] != target).all()
    for label in range(3):
        own = set(data.subjects[split.test][data.labels[split.test] == label])
        assert not own & set(data.subjects[chosen[target == label]])
    assert not np.array_equal(chosen, sources(data, split, target, 1))


def test_sources_where_every_subject_has_every_class():
    data = dataset(several=True)
    split = make_split(data.labels, data.subjects, fractions=(0.4, 0.2, 0.4))
    target = np.repeat([0, 1, 2], 5)
    assert (data.labels[sources(data, split, target, 0)] != target).all()


@pytest.mark.parametrize("bad", [float("nan"), 2.0])
def test_a_translator_that_returns_nonsense_is_refused(bad):
    model = build()
    model.translate = lambda images, source, target, rng: torch.full_like(images, bad)
    with pytest.raises(BenchError, match="translate returned"):
        translate(model, torch.zeros(2, *SHAPE), np.zeros(2), np.ones(2), 0, device=torch.device("cpu"))


SUITE = """
name: turned
data: {source: scanner_phantom, image_size: [16, 16], subjects: 48, slices: 4, proportions: balanced}
split: {fractions: {train: 0.5, validation: 0.25, test: 0.25}}
generators:
  - {name: cyclegan, hyperparameters: {width: 4, residual_blocks: 1}}
  - {name: vae, hyperparameters: {dense_widths: [32]}}
  - mean_image
budget: {images_seen: 160}
progress: {points: 2, samples: 20}
evaluation: {draws: 2, samples_per_draw: 12, few: 10, bootstrap: 10, features: [random, domain]}
threads: 1
"""


def test_a_translator_has_a_table_of_its_own(tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE)
    command = [sys.executable, "-m", "bench", "run", "suite.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "results" / "turned"
    tables = (folder / "table.md").read_text()
    main, _, translation = tables.partition("**Translation between classes")
    assert "cyclegan" not in main
    assert "not translated" in translation
    assert "cyclegan" in translation
    page = (folder / "report.html").read_text()
    assert "Translations by cyclegan" in page
    (run,) = (folder / "runs").glob("cyclegan-*")
    (evaluation,) = run.glob("evaluation-*.json")
    told = json.loads(evaluation.read_text())["translation"]
    assert 0 < told["kept"]["all"] <= 1
    assert any(row["measure"] == "frechet_distance" and row["class"] != "all" for row in told["untranslated"])
    assert not (run / "progress.csv").exists()
    sampled = subprocess.run(
        [sys.executable, "-m", "bench", "sample", str(run), "--n", "2", "--out", str(tmp_path / "o")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert sampled.returncode == 2
    assert "translates images and draws none" in sampled.stderr
