"""Mutated NIfTI, DICOM and CSV files: each is read or refused with a reason; and memory does not grow with their number."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.data.slicing import Recipe
from bench.data.volume_files import find_volumes
from bench.data.volume_pool import do_job, make_job
from bench.data.volumes import Volumes
from bench.errors import InputError

_spec = importlib.util.spec_from_file_location("volume_fixture", Path(__file__).with_name("volume_fixture.py"))
_fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixture)

RECIPE = Recipe(grid="native", slices=2, image_size=(16, 16))
LONGEST = 20
"""Seconds that a file may take on a busy machine; a hang takes for ever."""
fuzzed = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EXTREMES = [
    b"\xff\x7f",
    b"\xff\xff",
    b"\x00\x80",
    b"\0\0",
    b"\x00\x00\xc0\x7f",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x80\xff",
]
"""Largest and smallest integers, NaN and infinity."""


def mutated(data, content: bytes, header: int) -> bytes:
    """Change bytes, most of them in the header, and perhaps cut the end off or add some."""
    block = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        end = data.draw(st.sampled_from([header, len(block)])) - 1
        at = data.draw(st.integers(0, min(end, len(block) - 1)))
        new = data.draw(st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(EXTREMES)))
        block[at : at + len(new)] = new
    fate = data.draw(st.sampled_from(["whole", "whole", "cut", "longer"]))
    if fate == "cut":
        block = block[: data.draw(st.integers(0, len(block)))]
    return bytes(block) + (b"\0" * 1000 if fate == "longer" else b"")


def judged(path: Path, cache: Path) -> None:
    """Slice the volume: pictures, or one line that says why not."""
    start = time.monotonic()
    result = do_job(make_job(path, RECIPE, {}, cache))
    assert time.monotonic() - start < LONGEST
    if isinstance(result, str):
        assert result.strip()
        assert "\n" not in result
        assert str(path) not in result
    else:
        assert result.shape == (2, 16, 16)
        assert result.dtype == np.uint8


@fuzzed
@given(st.data())
def test_mutated_nifti_files_are_read_or_named(tmp_path, data):
    suffix, inner = data.draw(st.sampled_from(["nii", "nii.gz"])), data.draw(st.booleans())
    whole = tmp_path / f"whole.{suffix}"
    if not whole.exists():
        _fixture.write_nifti(whole, _fixture.phantom((12, 10, 8)))
    content = whole.read_bytes()
    if suffix == "nii.gz" and inner:  # a proper stream of a header gone wrong
        import gzip

        content = gzip.compress(mutated(data, gzip.decompress(content), 352), 1)
    else:
        content = mutated(data, content, 352)
    path = tmp_path / f"fuzzed.{suffix}"
    path.write_bytes(content)
    judged(path, tmp_path)


@fuzzed
@given(st.data())
def test_mutated_dicom_files_are_read_or_named(tmp_path, data):
    folder = tmp_path / "series"
    if not folder.exists():
        _fixture.write_series(folder, _fixture.write_nifti(tmp_path / "v.nii", _fixture.phantom((12, 10, 4))))
    path = sorted(folder.iterdir())[data.draw(st.integers(0, 3))]
    content = path.read_bytes()
    try:
        path.write_bytes(mutated(data, content, len(content) - 240))
        judged(folder, tmp_path)
    finally:
        path.write_bytes(content)


CELLS = st.one_of(
    st.sampled_from(["a.nii", "b.nii", "../a.nii", "/etc/passwd", "..", "", "~", "a.nii/..", 'a"b', "x" * 5000, "\0"]),
    st.text(max_size=12),
)


@fuzzed
@given(st.data())
def test_mutated_tables_are_read_or_refused(tmp_path, data):
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    for name in "ab":
        (root / f"{name}.nii").touch()
    header = data.draw(
        st.sampled_from(["path,label", "path,label,subject", "label,path", "path", "path,path", "\ufeffpath,label"])
    )
    rows = data.draw(st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=6))
    content = "\n".join([header, *rows]).encode("utf-8", "surrogatepass")
    if data.draw(st.booleans()):
        content = mutated(data, content, len(content))
    (root / "table.csv").write_bytes(content)
    try:
        found = find_volumes(Volumes.Options(root=str(root), csv="table.csv"))
    except InputError as error:
        assert len(str(error).splitlines()) <= 2, error
    else:
        assert found
        assert all(item.path.is_relative_to(root.resolve()) for item in found), "never outside without leave"


PEAK = """
import resource, sys
from pathlib import Path
from bench.data.dataset import prepare_dataset
from bench.data.volumes import Volumes
options = Volumes.Options(root=sys.argv[1], grid="native", slices=4, image_size=(32, 32))
prepare_dataset("volumes", Volumes(options), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts other units elsewhere")
def test_memory_does_not_grow_with_the_number_of_volumes(tmp_path):
    """Eight times as many of 6 MB each: not even two of them more."""
    values = _fixture.phantom((128, 128, 192))
    source = _fixture.write_nifti(tmp_path / "source.nii", values)
    peaks = []
    for count in (4, 32):
        root = tmp_path / str(count)
        (root / "a").mkdir(parents=True)
        for number in range(count):
            (root / "a" / f"{number}.nii").hardlink_to(source)
        command = [sys.executable, "-c", PEAK, str(root), str(tmp_path / f"cache{count}")]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 12, peaks
