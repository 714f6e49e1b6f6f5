"""Names that carry markup, plug-ins that are not installed, licences: what an attacker or a lawyer would look at."""

import html
import importlib.util
from importlib.metadata import requires
from pathlib import Path

import html5lib
from command_line import bench, make_images
from packaging.requirements import Requirement

IMG = "<img src=x onerror=alert(1)>"
SCRIPT = "<script>alert(2)<"  # a folder's name holds no slash
SUITE = """
name: hostile
description: "<script>alert(3)</script>"
data: {source: images, root: images, image_size: [16, 16]}
generators: [{name: vae, label: vae_1, hyperparameters: {batch_size: 8, width: 4}}]
budget: {images_seen: 160}
progress: {points: 1, samples: 10}
evaluation: {draws: 2, samples_per_draw: 10, few: 10, bootstrap: 5, features: [random]}
reported:
  - source: "<script>alert(4)</script>"
    data: "<b onmouseover=alert(5)>data</b>"
    note: "</table><script>alert(6)</script>"
    values: [{system: "<svg onload=alert(7)>", group: "<i>", measure: "<u>", value: "<script>8</script>"}]
tracking: {enabled: false}
threads: 1
"""


def test_the_report_escapes_every_name(tmp_path):
    make_images(tmp_path / "images", 60, names=(IMG, SCRIPT))
    (tmp_path / "suite.yaml").write_text(SUITE)
    bench("run", "suite.yaml", cwd=tmp_path, check=0)
    for name in ("report.html", "table.html"):
        text = (tmp_path / "results" / "hostile" / name).read_text(encoding="utf-8")
        tree = html5lib.parse(text, namespaceHTMLElements=False)
        for element in tree.iter():
            if isinstance(element.tag, str):
                assert not [key for key in element.attrib if str(key).startswith("on")], (name, element.attrib)
        scripts = ["".join(element.itertext()) for element in tree.iter("script")]
        assert not [script for script in scripts if "alert(" in script], name
        assert not list(tree.iter("u"))
        assert IMG not in text
        assert SCRIPT not in text
    report = (tmp_path / "results" / "hostile" / "report.html").read_text(encoding="utf-8")
    assert html.escape(IMG) in report
    assert "&lt;script&gt;alert(4)" in report


def test_a_module_that_is_no_installed_plug_in_is_not_imported(tmp_path):
    """A file in the working folder with a fitting name is nothing to the registry."""
    make_images(tmp_path / "images", 20)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    for name in ("evil", "evil:Model", "os.system"):
        text = SUITE.replace("name: vae,", f"name: '{name}',")
        (tmp_path / "suite.yaml").write_text(text)
        done = bench("check", "suite.yaml", cwd=tmp_path, check=2)
        assert "imported" not in done.stdout + done.stderr
        assert f"unknown generator {name!r}" in done.stderr


def test_the_page_of_licences_lists_every_dependency():
    root = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location("licences", root / "docs" / "licences.py")
    licences = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(licences)
    listed = {
        line.split("|")[1].strip().lower().replace("_", "-").replace(".", "-")
        for line in (root / "docs" / "licences.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    }
    own = [Requirement(line) for line in requires("medgenbench")]
    direct = {line.name for line in own if line.marker is None}
    assert {"torch", "mlflow", "psutil"} <= direct <= listed
    assert direct < licences.needed()
    through = "nvidia-nvtx"  # needed by an extra that a package of the default torch asks of another
    assert not licences.installed(through) or through in licences.needed()
