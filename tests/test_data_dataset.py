"""Prepared sets: depth and scaling, round trips, damage, fingerprints, and a cache that is never half full."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from bench.data.dataset import ImageDataset, cache_folder, content_fingerprint, prepare_dataset
from bench.errors import BenchError, InputError


def make(dtype=np.uint8, n=6, **changes):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (n, 1, 4, 5), dtype=dtype, endpoint=True)
    values = {
        "pixels": pixels,
        "labels": np.arange(n) % 2,
        "class_names": ("a", "b"),
        "subjects": np.array([f"s{i // 2}" for i in range(n)]),
        "names": tuple(f"a/{i}.png" for i in range(n)),
        "fingerprint": "0123456789abcdef",
        "title": "test",
        "simulated": False,
        "skipped": (("a/bad.png", "empty"),),
    }
    return ImageDataset(**{**values, **changes})


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_floats_span_the_full_range_of_the_depth(dtype, white):
    pixels = np.array([0, white, white // 5], dtype=dtype).reshape(3, 1, 1, 1)
    data = make(n=3, pixels=pixels)
    floats = data.floats([2, 0, 1])
    assert floats.dtype == torch.float32
    assert floats.shape == (3, 1, 1, 1)
    assert floats.flatten().tolist() == pytest.approx([0.2, 0, 1], abs=1e-7)


def test_sixteen_bits_are_rounded_to_eight_not_clipped():
    every = np.arange(65536, dtype=np.uint16).reshape(1, 1, 256, 256)
    data = make(n=1, pixels=every)
    assert np.array_equal(data.bytes([0]), np.rint(every / 257).astype(np.uint8))


def test_eight_bits_pass_unchanged_and_are_copies():
    data = make()
    chosen = data.bytes(np.array([3, 1]))
    assert np.array_equal(chosen, data.pixels[[3, 1]])
    chosen[:] = 0
    assert data.pixels[[3, 1]].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_save_and_open(tmp_path, dtype):
    data = make(dtype)
    data.save(tmp_path / "set")
    again = ImageDataset.open(tmp_path / "set")
    for field in dataclasses.fields(ImageDataset):
        old, new = getattr(data, field.name), getattr(again, field.name)
        assert np.array_equal(old, new) if isinstance(old, np.ndarray) else old == new, field.name
    assert again.shape == (1, 4, 5)
    assert again.num_classes == 2
    assert len(again) == 6
    assert isinstance(again.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again.pixels[0] = 0
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["dataset.json", "pixels.npy"]


def test_damage_is_told(tmp_path):
    with pytest.raises(InputError, match="no complete data set"):
        ImageDataset.open(tmp_path)
    make().save(tmp_path)
    whole = (tmp_path / "pixels.npy").read_bytes()
    (tmp_path / "pixels.npy").write_bytes(whole[:-7])
    with pytest.raises(InputError, match="no complete data set"):
        ImageDataset.open(tmp_path)
    np.save(tmp_path / "pixels.npy", np.zeros((2, 1, 4, 5), np.uint8))
    with pytest.raises(InputError, match="not of the same set"):
        ImageDataset.open(tmp_path)
    (tmp_path / "pixels.npy").write_bytes(whole)
    record = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**record, "schema": 99}))
    with pytest.raises(InputError, match="schema 99"):
        ImageDataset.open(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": np.zeros((6, 1, 4, 5), np.float32)}, "float32"),
        ({"pixels": np.zeros((6, 4, 5), np.uint8)}, "channels, height, width"),
        ({"names": ("one",)}, "1 names"),
        ({"labels": np.array([0, 1, 2, 0, 1, 2])}, "labels must be 0 to 1"),
        ({"labels": np.array([0, 1, -1, 0, 1, 0])}, "labels must be 0 to 1"),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_fingerprint_heeds_everything():
    data = make()
    base = {
        "pixels": data.pixels,
        "labels": data.labels,
        "subjects": data.subjects,
        "names": data.names,
        "class_names": data.class_names,
        "parameters": {"version": 1},
    }
    other_pixels = data.pixels.copy()
    other_pixels[-1, 0, -1, -1] ^= 1
    changed = [
        {"pixels": other_pixels},
        {"pixels": data.pixels.astype(np.uint16)},
        {"pixels": data.pixels.reshape(6, 1, 5, 4)},
        {"labels": 1 - data.labels},
        {"subjects": data.subjects[::-1]},
        {"names": data.names[::-1]},
        {"class_names": ("a", "c")},
        {"parameters": {"version": 2}},
    ]
    prints = [content_fingerprint(**base), *(content_fingerprint(**{**base, **change}) for change in changed)]
    assert len(set(prints)) == len(prints)
    assert content_fingerprint(**{**base, "pixels": data.pixels.copy()}) == prints[0]
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in prints)


class Source:
    """A source whose files and behaviour a test can change."""

    version = 1

    class Options(BaseModel):
        brightness: int = 7

    def __init__(self, **options):
        self.options = self.Options(**options)
        self.files = [["a.png", 10, 20]]
        self.prepared = 0
        self.fail = None
        self.meanwhile = lambda: None

    def manifest(self):
        return self.files

    def prepare(self, folder, progress):
        self.prepared += 1
        pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(6, 1, 4, 5))
        pixels[:] = self.options.brightness
        if progress:
            progress(6, 6)
        if self.fail:
            raise self.fail
        self.meanwhile()
        data = make(pixels=pixels)
        data.save(folder)
        return data


def test_cache_prepares_once_and_notices_change(tmp_path):
    source, told = Source(), []
    first = prepare_dataset("mine", source, tmp_path, lambda *done: told.append(done))
    again = prepare_dataset("mine", source, tmp_path)
    assert source.prepared == 1
    assert told == [(6, 6)]
    assert first.pixels.filename == again.pixels.filename
    assert not first.pixels.flags.writeable
    source.files = [["a.png", 10, 21]]
    prepare_dataset("mine", source, tmp_path)
    assert source.prepared == 2
    assert prepare_dataset("mine", Source(brightness=9), tmp_path).pixels.max() == 9
    prepare_dataset("other", source, tmp_path)
    prepare_dataset("mine", type("Newer", (Source,), {"version": 2})(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 5, "nothing but five complete sets"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("broken")])
def test_interrupted_preparation_leaves_nothing(tmp_path, error):
    source = Source()
    source.fail = error
    with pytest.raises(type(error)):
        prepare_dataset("mine", source, tmp_path)
    assert not list(tmp_path.iterdir())
    source.fail = None
    assert len(prepare_dataset("mine", source, tmp_path)) == 6


def test_another_process_was_first(tmp_path):
    source = Source()
    source.meanwhile = lambda: prepare_dataset("mine", Source(), tmp_path)
    assert len(prepare_dataset("mine", source, tmp_path)) == 6
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_cache_is_made_anew(tmp_path):
    source = Source()
    data = prepare_dataset("mine", source, tmp_path)
    folder = next(tmp_path.iterdir())
    del data
    (folder / "dataset.json").write_text("{")
    assert len(prepare_dataset("mine", source, tmp_path)) == 6
    assert source.prepared == 2


def test_cache_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BenchError, match="BENCH_CACHE"):
        prepare_dataset("mine", Source(), tmp_path / "file" / "cache")


def test_what_a_killed_preparation_left_is_removed_and_nothing_else(tmp_path):
    left = tmp_path / ".images-0123456789abcdef-deadbeef"
    left.mkdir()
    (left / "decoded.npy").write_bytes(bytes(1000))
    os.utime(left, (0, 0))
    kept = tmp_path / ".volumes-poses"
    kept.mkdir()
    at_work = Source()
    at_work.meanwhile = lambda: prepare_dataset("mine", Source(brightness=9), tmp_path)
    assert len(prepare_dataset("mine", at_work, tmp_path)) == 6, "the other one let its folder be"
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == [".volumes-poses"]


FILLING = """
import sys
from pathlib import Path
import numpy as np
from bench.data.dataset import prepare_dataset
from bench.errors import BenchError
sys.path.insert(0, sys.argv[2])
from test_data_dataset import Source, make
from bench.data.mapped import mapped

class Large(Source):
    def prepare(self, folder, progress):
        pixels = mapped(folder / "pixels.npy", np.uint8, (6, 1, 400, 500))
        pixels[:] = 7
        make(pixels=pixels).save(folder)

try:
    prepare_dataset("large", Large(), Path(sys.argv[1]))
except BenchError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_disk_that_gets_full_is_told_and_does_not_kill(tmp_path):
    """A mapped file whose blocks are not taken at once ends its process by SIGBUS where the disk is full."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        here = Path(__file__)
        command = [sys.executable, "-c", FILLING, str(tmp_path), str(here.parent)]
        done = subprocess.run(command, cwd=here.parents[1], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "No space left on device; free some space there, or set BENCH_CACHE" in done.stdout
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=False)


def test_cache_folder_is_the_users_unless_named(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("BENCH_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"/somewhere/{name}")
    assert cache_folder().name == "medgenbench"
