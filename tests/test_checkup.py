"""`bench doctor SUITE` and the estimates of `bench check`, through the command line."""

import json
import re

import pytest
from command_line import bench, make_images

SUITE = """
name: checked
data: {source: images, root: images, image_size: [16, 16]}
generators: [{name: vae, hyperparameters: {batch_size: 8, width: 8}}]
budget: {images_seen: 400}
progress: {points: 0}
evaluation: {draws: 2, samples_per_draw: 15, few: 10, bootstrap: 20, features: [random]}
threads: 1
"""


@pytest.fixture
def place(tmp_path):
    make_images(tmp_path / "images", 60)
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


def test_doctor_looks_at_what_a_suite_needs(place):
    text = bench("doctor", "suite.yaml", cwd=place, check=0).stdout
    for what in ("suite: checked", "data: 120 images", "disk for the suite", "memory for the suite", "tracking"):
        assert f"ok    {what}" in text, text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "found", "remedy"),
    [
        ("data.root=nowhere", "MEND  data: ", "mend the data"),
        ("budget.images_sene=3", "MEND  suite: ", "correct the file"),
        ("tracking.uri=http://127.0.0.1:9", "MEND  tracking: http://127.0.0.1:9 can't be reached", "start the server"),
        ("evaluation.features=[random, vgg16]", "MEND  vgg16 weights: not here", "BENCH_VGG16_WEIGHTS"),
    ],
)
def test_doctor_names_each_finding_with_its_remedy(place, change, found, remedy):
    text = bench("doctor", "suite.yaml", "--set", change, cwd=place, check=1, TORCH_HOME=str(place)).stdout
    assert found in text, text
    assert remedy in text.partition(found)[2], text


@pytest.mark.slow
def test_memory_and_disk_are_estimated_within_a_factor_of_two(place):
    """Time is too: measured by hand (the note), since other work on the machine would spoil a test."""
    text = bench("check", "suite.yaml", cwd=place, check=0).stdout
    gigabytes, megabytes = map(
        float, re.search(r"vae seed 0 .* ([\d.]+) GB of memory, ([\d.]+) MB of disk", text).groups()
    )
    bench("run", "suite.yaml", cwd=place, check=0)
    run = next((place / "results").rglob("vae-seed0-*"))
    measured = json.loads((run / "result.json").read_text())["costs"]["peak_memory_bytes"] / 1e9
    assert 0.5 < gigabytes / measured < 2
    disk = sum(file.stat().st_size for file in run.iterdir()) / 1e6
    assert 0.5 < megabytes / disk < 2
