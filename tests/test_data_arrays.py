"""MedMNIST's .npz and MNIST's idx files: pixels as stored, official parts, and headers judged before unpacking."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest

from bench.data.arrays import IdxFiles, NpzArrays
from bench.data.dataset import prepare_dataset
from bench.data.splits import official_split
from bench.errors import InputError

RNG = np.random.default_rng(0)


def arrays(size=(28, 28), colour=False, counts=(20, 8, 12), classes=2):
    found = {}
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        shape = (count, *size, 3) if colour else (count, *size)
        found[f"{part}_images"] = RNG.integers(0, 256, shape, dtype=np.uint8)
        found[f"{part}_labels"] = (np.arange(count) % classes).reshape(-1, 1).astype(np.uint8)
    return found


def npz(tmp_path, content, **options):
    np.savez_compressed(tmp_path / "set.npz", **content)
    source = NpzArrays(NpzArrays.Options.model_validate({"file": str(tmp_path / "set.npz"), **options}))
    return prepare_dataset("npz", source, tmp_path / "cache")


@pytest.mark.parametrize(
    ("size", "colour"), [((28, 28), False), ((28, 28), True), ((64, 64), False), ((128, 128), True)]
)
def test_npz_comes_as_stored_with_its_parts(tmp_path, size, colour):
    content = arrays(size, colour, (6, 4, 4))
    data = npz(tmp_path, content)
    assert data.shape == (3 if colour else 1, *size)
    stored = content["val_images"][1]
    assert np.array_equal(data.pixels[7], stored.transpose(2, 0, 1) if colour else stored[None])
    assert data.official.tolist() == ["train"] * 6 + ["validation"] * 4 + ["test"] * 4
    split = official_split(data.labels, data.subjects, data.official)
    assert [len(part) for part in split.parts().values()] == [6, 4, 4]
    assert (split.by, split.leaking_subjects) == ("official", 0)


def test_arrays_that_are_stretched_are_counted(tmp_path):
    content = arrays((20, 30), counts=(6, 4, 4))
    assert npz(tmp_path, content, image_size=[16, 16]).notes == (
        "14 images of 20x30 are stretched to 16x16, another aspect ratio",
    )
    assert npz(tmp_path, content, image_size=[16, 24]).notes == ()


def test_npz_options(tmp_path):
    content = arrays(colour=True)
    data = npz(tmp_path, content, image_size=[16, 24], channels=1, classes=["benign", "malignant"])
    assert (data.shape, data.class_names) == ((1, 16, 24), ("benign", "malignant"))
    content["train_labels"] = np.stack([np.zeros(20), np.arange(20) % 2], axis=1).astype(np.int64)
    for part, count in (("val", 8), ("test", 12)):
        content[f"{part}_labels"] = np.stack([np.zeros(count), np.arange(count) % 2], axis=1).astype(np.int64)
    with pytest.raises(InputError, match=r"train_labels holds 2 labels per image; choose one with data\.label_column"):
        npz(tmp_path, content)
    assert npz(tmp_path, content, label_column=1).labels[:4].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.zeros((20, 28, 28), np.float32)}, "train_images holds float32; uint8 is needed"),
        ({"train_images": np.zeros((20, 28, 28, 28), np.uint8)}, r"train_images is 20x28x28x28; .* not volumes"),
        ({"train_images": np.zeros((19, 28, 28), np.uint8)}, "holds 19 images and 20 labels"),
        ({"train_labels": np.full((20, 1), -1)}, "has the label -1; labels count from 0"),
        ({"train_labels": np.full((20, 1), 7)}, "no image has label 2"),
        ({"train_labels": np.zeros((20, 1), np.float32)}, "train_labels holds float32; whole numbers are needed"),
        ({"train_images": np.zeros((20, 28, 28), np.uint8)}, r"20 of 40 images can't be used \(train/000000: constant"),
        ({"train_images": np.array([object()])}, "can't be read|holds object"),
    ],
)
def test_wrong_npz(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        npz(tmp_path, {**arrays(), **change})


def test_an_npz_of_something_else(tmp_path):
    with pytest.raises(InputError, match="no arrays train_images, val_images or test_images; there are x"):
        npz(tmp_path, {"x": np.zeros(3)})
    content = arrays()
    del content["val_labels"]
    with pytest.raises(InputError, match="val_images has no val_labels beside it"):
        npz(tmp_path, content)


def test_a_bomb_is_refused_by_its_directory(tmp_path):
    """A member whose header lies about its size, and one that would unpack a thousandfold."""
    content = arrays()
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in content.items():
            stream = io.BytesIO()
            if name == "train_images":
                header = {"descr": "|u1", "fortran_order": False, "shape": (40_000, 28, 28)}
                np.lib.format.write_array_header_1_0(stream, header)
                stream.write(bytes(40_000 * 784))
            else:
                np.save(stream, array)
            archive.writestr(f"{name}.npy", stream.getvalue())
    with pytest.raises(InputError, match=r"train_images (would unpack to|holds 40000 images and)"):
        NpzArrays(NpzArrays.Options(file=str(path)))._members()


def idx(folder, images, labels, part="t10k", suffix=".gz"):
    folder.mkdir(exist_ok=True)
    head = struct.pack(">I3I", 0x803, *images.shape)
    pack = gzip.compress if suffix else bytes
    (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(head + images.tobytes()))
    content = struct.pack(">2I", 0x801, len(labels)) + labels.astype(np.uint8).tobytes()
    (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(content))


def read_idx(tmp_path, **options):
    source = IdxFiles(IdxFiles.Options.model_validate({"root": str(tmp_path / "idx"), **options}))
    return prepare_dataset("idx", source, tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx(tmp_path, suffix):
    images = RNG.integers(0, 256, (10, 28, 28), dtype=np.uint8)
    idx(tmp_path / "idx", images, np.arange(10) % 2, "t10k", suffix)
    idx(tmp_path / "idx", images[::-1], np.arange(10) % 2, "train", suffix)
    data = read_idx(tmp_path)
    assert np.array_equal(data.pixels[:10, 0], images)
    assert data.official.tolist() == ["test"] * 10 + ["train"] * 10
    split = official_split(data.labels, data.subjects, data.official)
    assert sorted([*split.train, *split.validation]) == list(range(10, 20)), "validation comes out of train"
    assert split.notes == ("the official split has no validation part: 20% of its training part became it",)


def test_wrong_idx(tmp_path):
    images = RNG.integers(0, 256, (10, 28, 28), dtype=np.uint8)
    folder = tmp_path / "idx"
    with pytest.raises(InputError, match="no folder"):
        read_idx(tmp_path)
    idx(folder, images, np.arange(9))
    with pytest.raises(InputError, match="holds 10 images and 9 labels"):
        read_idx(tmp_path)
    whole = (folder / "t10k-images-idx3-ubyte.gz").read_bytes()
    idx(folder, images, np.arange(10) % 2)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\.gz: can't be read"):
        read_idx(tmp_path)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">I3I", 0x803, 10**9, 1000, 1000)))
    with pytest.raises(InputError, match="declares 1000000000x1000x1000 bytes, which a file of"):
        read_idx(tmp_path)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"MNIST"))
    with pytest.raises(InputError, match="no idx file of 3 dimensions"):
        read_idx(tmp_path)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="are not beside it"):
        read_idx(tmp_path)
