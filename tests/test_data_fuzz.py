"""Mutated files of every kind: read, or refused or skipped with name and reason; no crash, no hang, no unbounded memory.

In all 640 mutated files: 150 PNG and 100 TIFF, 150 DICOM, 100 NPZ, 60 IDX, 80 CSV; each within seconds, and with the sizes
that a header may declare bounded low, so that a file that slips past the bound is seen as a hang or as memory.
"""

import gzip
import resource
import struct
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.data import images
from bench.data.arrays import IdxFiles, NpzArrays
from bench.data.images import ImageFolder
from bench.errors import InputError
from tests.dicom_fixture import write_dicom

MEMORY = 400_000_000
"""Bytes by which the peak of the process may rise over one kind: a decoder's buffers for images of MAX_PIXELS."""
SECONDS = 10


@pytest.fixture(autouse=True)
def bounded(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as while preparing: what decoders warn of is judged by the source
        yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


def each(count):
    return settings(max_examples=count, deadline=SECONDS * 1000, database=None, suppress_health_check=list(HealthCheck))


@st.composite
def mutations(draw):
    """What is done to a file: (kind, position in [0, 1), bytes)."""
    kinds = st.sampled_from(["cut", "flip", "insert", "huge", "repeat", "zero"])
    where = st.floats(0, 0.999)
    return draw(st.lists(st.tuples(kinds, where, st.binary(min_size=1, max_size=8)), min_size=1, max_size=6))


def mutated(content: bytes, changes, header: int = 0) -> bytes:
    """Return the content changed; half of the changes fall into the first `header` bytes, where sizes are declared."""
    found = bytearray(content)
    for number, (kind, where, given_bytes) in enumerate(changes):
        reach = min(header, len(found)) if header and number % 2 == 0 else len(found)
        at = int(where * max(1, reach))
        if kind == "cut":
            found = found[: max(1, at)]
        elif kind == "insert":
            found[at:at] = given_bytes
        elif kind == "huge":
            found[at : at + 4] = b"\xff" * 4
        elif kind == "zero":
            found[at : at + 4] = bytes(4)
        elif kind == "repeat":
            found[at:at] = found[at : at + 512]
        else:
            found[at : at + len(given_bytes)] = given_bytes
    return bytes(found)


def picture(kind: str, shape=(24, 20)) -> np.ndarray:
    ramp = np.linspace(0, 1, shape[0] * shape[1]).reshape(shape)
    found = {
        "plain": (ramp * 255).astype(np.uint8),
        "deep": (ramp * 65535).astype(np.uint16),
        "constant": np.full(shape, 7, np.uint8),
        "nan": np.where(ramp > 0.5, np.nan, ramp).astype(np.float32),
        "negative": (ramp * 4000 - 2000).astype(np.int32),
        "infinite": np.where(ramp > 0.5, np.inf, ramp).astype(np.float32),
    }
    return found[kind]


def judged(path: Path, **options) -> None:
    """One file alone in a class folder: an image of the right shape and range, or the reason why not."""
    source = ImageFolder(ImageFolder.Options(root=str(path.parent.parent), image_size=(16, 16), **options))
    for item in source._items():
        try:
            image, reason, _ = source._read(item)
        except InputError as error:
            assert item.name in str(error), "an error of the whole set names the file"
            continue
        assert (image is None) == bool(reason)
        assert "\n" not in reason
        assert image is None or (image.shape == (1, 16, 16) and image.min() >= 0 and image.max() <= 1)


@each(250)
@given(
    st.sampled_from(["png", "png", "png", "tif", "tif"]),
    st.sampled_from(["plain", "deep", "constant", "nan", "negative", "infinite"]),
    mutations(),
)
def test_pictures(suffix, kind, changes):
    values = picture(kind)
    if suffix == "png" and values.dtype not in (np.uint8, np.uint16):
        values = picture("deep")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a" / f"0.{suffix}"
        path.parent.mkdir()
        Image.fromarray(values).save(path)
        path.write_bytes(mutated(path.read_bytes(), changes, 64))
        judged(path)
        judged(path, pages="all", intensity="image")


@each(150)
@given(st.sampled_from(["plain", "deep", "frames", "signed"]), mutations(), st.booleans())
def test_dicom(kind, changes, own_window):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a" / "0.dcm"
        stored = {
            "plain": picture("plain"),
            "deep": picture("deep") // 16,
            "frames": np.stack([picture("deep")] * 3),
            "signed": picture("negative").astype(np.int16),
        }[kind]
        write_dicom(path, stored, RescaleSlope="1", RescaleIntercept="-10", WindowCenter="40", WindowWidth="400")
        path.write_bytes(mutated(path.read_bytes(), changes, 600))
        judged(path, dicom_window=own_window, pages="all")


def whole_set(source) -> None:
    """A whole set is prepared, or refused in one line that names the file."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            data = source.prepare(Path(folder))
        except InputError as error:
            assert "\n" not in str(error)
            assert any(path.name in str(error) or "data." in str(error) for path in source._files())
        else:
            assert data.pixels.dtype == np.uint8
            assert len(data) == len(data.labels)
    assert time.perf_counter() - started < SECONDS


@each(100)
@given(mutations(), st.booleans(), st.sampled_from([0, 200]))
def test_npz(changes, packed, header):
    rng = np.random.default_rng(0)
    content = {}
    for part in ("train", "val", "test"):
        content[f"{part}_images"] = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8)
        content[f"{part}_labels"] = (np.arange(6) % 2).reshape(-1, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.npz"
        (np.savez_compressed if packed else np.savez)(path, **content)
        path.write_bytes(mutated(path.read_bytes(), changes, header))
        whole_set(NpzArrays(NpzArrays.Options(file=str(path))))


@each(60)
@given(mutations(), st.booleans(), st.booleans())
def test_idx(changes, packed, labels):
    pack = gzip.compress if packed else bytes
    images_file = struct.pack(">4I", 0x803, 6, 28, 28) + np.random.default_rng(0).bytes(6 * 784)
    labels_file = struct.pack(">2I", 0x801, 6) + bytes([0, 1] * 3)
    if labels:
        labels_file = mutated(labels_file, changes)
    else:
        images_file = mutated(images_file, changes, 16)
    with tempfile.TemporaryDirectory() as folder:
        end = ".gz" if packed else ""
        (Path(folder) / f"t10k-images-idx3-ubyte{end}").write_bytes(pack(images_file))
        (Path(folder) / f"t10k-labels-idx1-ubyte{end}").write_bytes(pack(labels_file))
        whole_set(IdxFiles(IdxFiles.Options(root=folder)))


PATHS = st.one_of(
    st.sampled_from(
        [
            "a/0.png",
            "../secret.png",
            "/etc/passwd",
            "a/../../secret.png",
            "a/link.png",
            "~/x.png",
            "a/0.png/",
            ".",
            "",
            "a" * 5000,
        ]
    ),
    st.text(max_size=20),
)


@each(80)
@given(st.lists(st.tuples(PATHS, st.text(max_size=5), st.text(max_size=5)), max_size=6), mutations(), st.booleans())
def test_csv(rows, changes, damaged):
    """No row leads out of the root, whatever is written there; links that lead out count as outside."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        (root / "a").mkdir(parents=True)
        Image.fromarray(picture("plain")).save(root / "a" / "0.png")
        Image.fromarray(picture("plain")).save(Path(folder) / "secret.png")
        (root / "a" / "link.png").symlink_to(Path(folder) / "secret.png")
        lines = "path,label,subject\n" + "".join(",".join(row) + "\n" for row in rows)
        content = lines.encode("utf-8", "surrogatepass")
        (root / "table.csv").write_bytes(mutated(content, changes, 18) if damaged else content)
        source = ImageFolder(ImageFolder.Options(root=str(root), csv="table.csv", image_size=(16, 16)))
        try:
            items = source._items()
        except InputError as error:
            assert "table.csv" in str(error) or "no images" in str(error)
        else:
            assert all(item.path.is_relative_to(root.resolve()) for item in items)
            for item in items:
                image, reason, _ = source._read(item)
                assert (image is None) == bool(reason)
