"""Stored values come back as they were stored, whatever the file's depth, sign and polarity."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.images import ImageFolder
from bench.data.pixels import UnusableError, raw_values

tifffile = pytest.importorskip("tifffile", reason="needs tifffile to write odd TIFFs")
SIZE = (7, 5)


def grey(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, SIZE, dtype=np.uint16)


def png16(path: Path, values: np.ndarray, kind: int) -> Path:
    """Write 16 bits per channel, which Pillow can't: kind 2 is RGB, 4 grey with alpha, 6 RGB with alpha."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + values[y].astype(">u2").tobytes() for y in range(height))

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("kind", [2, 6])
def test_colour_of_16_bits_keeps_all_of_them(tmp_path, kind):
    values = np.stack([grey(seed) for seed in range(3 if kind == 2 else 4)], axis=-1)
    raw, bits = raw_values(png16(tmp_path / "a.png", values, kind), 10**6)
    assert bits == 16
    assert np.array_equal(raw, values[..., :3])


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_colour_of_16_bits_too(tmp_path, order):
    values = np.stack([grey(seed) for seed in range(3)], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", byteorder=order)
    raw, bits = raw_values(tmp_path / "a.tif", 10**6)
    assert (bits, raw.tolist()) == (16, values.tolist())


@pytest.mark.parametrize(
    ("stored", "options", "expected", "depth"),
    [
        (grey(), {}, grey(), 16),
        (grey(), {"byteorder": ">"}, grey(), 16),
        (65535 - grey(), {"photometric": "miniswhite"}, grey(), 16),
        ((255 - grey() // 257).astype(np.uint8), {"photometric": "miniswhite"}, grey() // 257, 8),
        (grey().astype(np.uint32) * 65537, {}, grey().astype(np.float64) * 65537, 32),
        (grey().astype(np.int32) - 40000, {}, grey().astype(np.int32) - 40000, 32),
        ((grey() // 2).astype(np.int16) - 9000, {}, (grey() // 2).astype(np.int32) - 9000, 32),
        (grey().astype(np.float32) / 7, {}, grey().astype(np.float32) / 7, 32),
    ],
    ids=["16", "16 big", "16 white is zero", "8 white is zero", "u32", "i32", "i16", "f32"],
)
def test_grey_tiffs(tmp_path, stored, options, expected, depth):
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    raw, bits = raw_values(tmp_path / "a.tif", 10**6)
    assert bits == depth
    assert np.allclose(raw, expected, rtol=1e-7, atol=0)


def test_what_can_not_be_had_whole_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([grey(), grey(1)]), photometric="minisblack")
    with pytest.raises(UnusableError, match="holds 2 pages"):
        raw_values(tmp_path / "pages.tif", 10**6)
    png16(tmp_path / "alpha.png", np.stack([grey(), grey(1)], axis=-1), 4)
    with pytest.raises(UnusableError, match="save it as RGB or grey"):
        raw_values(tmp_path / "alpha.png", 10**6)
    with pytest.raises(UnusableError, match="too many"):
        raw_values(tmp_path / "alpha.png", 10)
    tifffile.imwrite(tmp_path / "white.tif", grey().astype(np.float32), photometric="miniswhite")
    with pytest.raises(UnusableError, match="white is zero"):
        raw_values(tmp_path / "white.tif", 10**6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(tmp_path, orientation):
    """Orientation 6, say, means: rotate by 90 degrees; 16-bit colour is turned like all else."""
    from PIL import ImageOps

    values = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(raw_values(tmp_path / "a.png", 10**6)[0], expected)


def test_a_folder_of_deep_colour_is_read_whole(tmp_path):
    """12 bits in 16 with the window that says so: nothing is lost, and nothing is black."""
    (tmp_path / "root" / "a").mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, 4096, (16, 16, 3), dtype=np.uint16)
    png16(tmp_path / "root" / "a" / "0.png", values, 2)
    options = {"root": str(tmp_path / "root"), "image_size": (16, 16), "channels": 3, "window": (0, 4095)}
    (tmp_path / "work").mkdir()
    data = ImageFolder(ImageFolder.Options.model_validate(options)).prepare(tmp_path / "work")
    assert np.allclose(data.pixels[0].transpose(1, 2, 0) / 65535, values / 4095, atol=1e-4)
