"""DICOM single images: values in their own units, range and polarity as declared, sizes judged before decoding."""

import numpy as np
import pytest

from bench.data.dataset import prepare_dataset
from bench.data.dicom import frames, read_dicom
from bench.data.faults import UnusableError
from bench.data.images import ImageFolder
from tests.dicom_fixture import write_dicom

MANY = 10**6


def twelve_bits(size=(16, 16)):
    return np.linspace(0, 4095, size[0] * size[1]).reshape(size).astype(np.uint16)


def prepare(root, cache, **options):
    given = {"root": str(root), "image_size": (16, 16), **options}
    return prepare_dataset("images", ImageFolder(ImageFolder.Options.model_validate(given)), cache)


def test_slope_and_intercept_give_the_units(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", twelve_bits(), bits=12, RescaleSlope="2", RescaleIntercept="-1024")
    raw = read_dicom(path, MANY)
    assert np.array_equal(raw.values, twelve_bits().astype(np.float32) * 2 - 1024)
    assert raw.full == (-1024, 4095 * 2 - 1024)
    assert (raw.bits, raw.inverted) == (16, False)


def test_signed_values(tmp_path):
    stored = (twelve_bits().astype(np.int16) - 2048).astype(np.int16)
    raw = read_dicom(write_dicom(tmp_path / "a.dcm", stored, bits=12), MANY)
    assert raw.full == (-2048, 2047)
    assert np.array_equal(raw.values, stored)


def test_twelve_bits_span_black_to_white_and_monochrome1_is_turned(tmp_path):
    cache = tmp_path / "cache"
    write_dicom(tmp_path / "root" / "a" / "0.dcm", twelve_bits(), bits=12)
    write_dicom(tmp_path / "root" / "a" / "1.dcm", 4095 - twelve_bits(), bits=12, kind="MONOCHROME1")
    data = prepare(tmp_path / "root", cache)
    assert data.pixels.dtype == np.uint16
    assert np.array_equal(data.pixels[0], data.pixels[1]), "white is the least value of the second"
    assert data.floats([0])[0, 0, -1, -1] == 1
    assert np.allclose(data.floats([0])[0, 0].numpy(), twelve_bits() / 4095, atol=1e-5)


def test_a_window_of_the_suite_or_of_the_file(tmp_path):
    write_dicom(
        tmp_path / "root" / "a" / "0.dcm", twelve_bits(), bits=12, RescaleIntercept="-1000", RescaleSlope="1",
        WindowCenter=["40", "300"], WindowWidth=["401", "1500"],
    )  # fmt: skip
    own = prepare(tmp_path / "root", tmp_path / "cache", dicom_window=True).floats([0])[0, 0].numpy()
    told = prepare(tmp_path / "root", tmp_path / "cache", window=(-160.5, 239.5), clip=True).floats([0])[0, 0].numpy()
    assert np.allclose(own, told, atol=2e-5), "PS3.3 C.11.2.1.2: centre - 0.5 - (width - 1) / 2 and so on"
    expected = np.clip((twelve_bits() - 1000.0 + 160.5) / 400, 0, 1)
    assert np.allclose(own, expected, atol=2e-5)


def test_a_file_without_the_window_asked_for_is_named(tmp_path):
    write_dicom(tmp_path / "root" / "a" / "0.dcm", twelve_bits(), bits=12)
    with pytest.raises(Exception, match=r"0\.dcm: has no window of its own: leave data\.dicom_window out"):
        prepare(tmp_path / "root", tmp_path / "cache", dicom_window=True)


def test_frames(tmp_path):
    stored = np.stack([np.roll(twelve_bits(), number) for number in range(4)])
    path = write_dicom(tmp_path / "root" / "a" / "P1_x.dcm", stored, bits=12)
    assert frames(path) == 4
    with pytest.raises(UnusableError, match=r"holds 4 frames: set data.pages to all or first"):
        read_dicom(path, MANY)
    assert np.array_equal(read_dicom(path, MANY, page=2).values, stored[2])
    data = prepare(tmp_path / "root", tmp_path / "cache", pages="all", subject_pattern="^(P[0-9]+)")
    assert len(data) == 4
    assert set(data.subjects) == {"P1"}
    assert np.allclose(data.floats([3])[0, 0].numpy(), stored[3] / 4095, atol=1e-5)


def test_colour(tmp_path):
    stored = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    write_dicom(tmp_path / "root" / "a" / "0.dcm", stored, kind="RGB")
    data = prepare(tmp_path / "root", tmp_path / "cache", channels=3)
    assert np.array_equal(data.pixels[0].transpose(1, 2, 0), stored)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels are too many"),
        ({"Rows": 0}, "declares no pixels"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "1 samples of PALETTE COLOR can't be read"),
        ({"NumberOfFrames": 10**9}, "holds 1000000000 frames"),
    ],
)
def test_what_is_declared_is_judged_before_anything_is_decoded(tmp_path, changes, message):
    path = write_dicom(tmp_path / "a.dcm", twelve_bits(), bits=12, **changes)
    with pytest.raises(UnusableError, match=message):
        read_dicom(path, MANY)
    assert frames(path) == 1, "a count that the file can't hold makes no images"


def test_a_deflated_file_is_not_unpacked(tmp_path):
    """Deflated syntaxes unpack in one go: a few kilobytes may become gigabytes."""
    import pydicom

    path = write_dicom(tmp_path / "a.dcm", twelve_bits(), bits=12)
    found = pydicom.dcmread(path)
    found.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    found.save_as(path)
    with pytest.raises(UnusableError, match="deflated"):
        read_dicom(path, MANY)
