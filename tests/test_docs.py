"""The pages: every measure is there, the example works as it stands, commands and links exist, the site builds offline."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from bench.cli import app
from bench.metrics.records import GROUPS, MEASURES
from bench.model import Progress
from bench.registry import GENERATORS
from bench.seeds import forked, torch_rng

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_every_measure_is_explained_as_the_records_have_it() -> None:
    text = (DOCS / "measures.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert list(rows) == sorted(rows, key=[name for group in GROUPS.values() for name in group].__add__([
        name for name in MEASURES if MEASURES[name].group == "cost"]).index)  # fmt: skip
    assert set(rows) == set(MEASURES)
    for name, said in rows.items():
        title, better, _, source = said.split(" | ")
        measure = MEASURES[name]
        assert title == measure.title
        assert better == {"none": "neither"}.get(measure.better, measure.better)
        assert source == measure.reference
    assert all(f"## `{group}`" in text for group in GROUPS)


def test_the_example_of_a_family_is_one(tmp_path: Path) -> None:
    (source,) = blocks(DOCS / "add_a_family.md", "python")
    (packaging,) = blocks(DOCS / "add_a_family.md", "toml")
    ((name, target),) = tomllib.loads(packaging)["project"]["entry-points"]["bench.generators"].items()
    module_name, class_name = target.split(":")
    (tmp_path / f"{module_name}.py").write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(module_name, tmp_path / f"{module_name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
        family = getattr(module, class_name)
        assert name == "linear_vae"
        with forked(0, "weights"):
            model = family((1, 12, 10), 2, family.Hyperparameters())
        rng = torch_rng(0, "training")
        labels = torch.arange(32) % 2
        images = torch.rand(1, 1, 12, 10, generator=rng).expand(32, -1, -1, -1) * (
            0.5 + labels[:, None, None, None] / 2
        )
        optimizers = model.configure_optimizers()
        losses = [
            float(model.training_step(images, labels, optimizers, Progress(step, step * 32, step / 200), rng)["loss"])
            for step in range(200)
        ]
        assert losses[-1] < losses[0] / 2
        with torch.no_grad():  # as the harness does
            drawn = model.sample(labels, torch_rng(1, "sample"))
            again = model.from_latents(model.latents(32, torch_rng(1, "sample")), labels)
        assert drawn.shape == images.shape
        assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
        assert torch.equal(drawn, again)
    finally:
        del sys.modules[module_name]


def test_suites_in_the_pages_name_what_exists() -> None:
    for page in DOCS.glob("*.md"):
        for block in blocks(page, "yaml"):
            content = YAML(typ="safe", pure=True).load(block)
            for entry in content.get("generators", ()) if isinstance(content, dict) else ():
                name = entry if isinstance(entry, str) else entry.get("name")
                assert name is None or name in GENERATORS.names(), (page.name, name)


def test_commands_in_the_pages_exist() -> None:
    from typer.main import get_command

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    own = (
        "index",
        "choosing",
        "scoring",
        "read_the_report",
        "protocol",
        "reproduce",
        "footguns",
        "add_a_family",
        "cluster",
    )
    for page in [*(DOCS / f"{name}.md" for name in own), ROOT / "README.md"]:
        text = page.read_text(encoding="utf-8")
        for command in re.findall(r"(?:`|^)(?:python -m )?bench ([a-z-]+)", text, re.MULTILINE):
            assert command in known, (page.name, command)


def test_papers_that_could_not_be_repeated_are_told() -> None:
    text = (DOCS / "reproduce.md").read_text(encoding="utf-8")
    for suite in ROOT.glob("suites/*.yaml"):
        content = YAML(typ="safe", pure=True).load(suite.read_text(encoding="utf-8"))
        for entry in content.get("reported", ()):
            assert suite.stem in text
            assert entry["source"].split(",")[0] in text
            for value in (entry["values"][0]["value"], entry["values"][-1]["value"]):
                assert value in text or entry["source"].endswith("section IV"), value


def test_readme_and_pages_link_what_is_there() -> None:
    for page in [*DOCS.glob("*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
    size = sum(file.stat().st_size for file in (DOCS / "pictures").glob("*"))
    assert 0 < size < 300_000
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 60


def test_the_site_builds_and_asks_nothing_of_other_hosts(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None:
        pytest.skip("needs mkdocs-material: pip install .[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= 9
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*src=\"?(https?:[^\" >]+)", text)
        loaded += re.findall(
            r"<link[^>]*rel=\"?(?:stylesheet|preload|preconnect|icon)[^>]*href=\"?(https?:[^\" >]+)", text
        )
        assert loaded == [], page.name
