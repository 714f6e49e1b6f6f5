"""Images from files: depths, colours, sizes, subjects; what is wrong is named and counted, never guessed."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from bench.data.dataset import ImageDataset, prepare_dataset
from bench.data.images import ImageFolder
from bench.data.splits import Split
from bench.divide import remarks
from bench.errors import InputError


def write(path: Path, pixels: np.ndarray, mode=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def ramp(size=(16, 16), high=255, dtype=np.uint8):
    return np.linspace(0, high, size[0] * size[1]).reshape(size).astype(dtype)


def prepare(root, cache, **options) -> ImageDataset:
    source = ImageFolder(ImageFolder.Options(root=str(root), **{"image_size": (16, 16), **options}))
    return prepare_dataset("images", source, cache)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    for label, shift in (("0", 0), ("1", 50)):
        for number in range(4):
            write(tmp_path / "root" / label / f"{100 + number}L.png", np.roll(ramp(), shift + number))
    return tmp_path / "root"


def test_folders_are_classes_and_the_pattern_names_subjects(root, cache):
    data = prepare(root, cache, subject_pattern=r"^(\d+)")
    assert data.class_names == ("0", "1")
    assert data.labels.tolist() == [0] * 4 + [1] * 4
    assert sorted(set(data.subjects)) == ["100", "101", "102", "103"]
    assert data.pixels.dtype == np.uint8
    assert np.array_equal(data.pixels[0, 0], ramp()), "nothing is resampled or rescaled without need"
    assert not data.simulated


def test_prepared_once_and_again_when_a_file_changes(root, cache):
    first = prepare(root, cache)
    assert prepare(root, cache).pixels.filename == first.pixels.filename
    write(root / "0" / "100L.png", ramp()[::-1])
    second = prepare(root, cache)
    assert second.fingerprint != first.fingerprint
    assert prepare(root, cache, fit="pad").fingerprint != second.fingerprint, "every parameter counts"


def test_the_fingerprint_does_not_depend_on_the_place(root, cache, tmp_path):
    first = prepare(root, cache).fingerprint
    root.rename(tmp_path / "moved")
    assert prepare(tmp_path / "moved", cache).fingerprint == first


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept(tmp_path, cache, suffix):
    pixels = ramp(high=65535, dtype=np.uint16)
    for number in range(3):
        write(tmp_path / "root" / "a" / f"{number}.{suffix}", np.roll(pixels, number))
    data = prepare(tmp_path / "root", cache)
    assert data.pixels.dtype == np.uint16
    assert np.array_equal(data.pixels[0, 0], pixels)
    assert data.bytes([0]).max() == 255
    assert len(np.unique(data.bytes([0]))) > 200, "not clipped at 255, as Pillow's own conversion does"


def test_a_window_states_what_is_black_and_white(tmp_path, cache):
    write(tmp_path / "root" / "a" / "0.tif", ramp(high=4095, dtype=np.uint16))
    data = prepare(tmp_path / "root", cache, window=(0, 4095))
    assert data.floats([0]).max() == 1
    with pytest.raises(InputError, match=r"0\.tif: values from 0 to 4095 lie outside data.window .* data.clip: true"):
        prepare(tmp_path / "root", cache, window=(0, 1000))
    clipped = prepare(tmp_path / "root", cache, window=(0, 1000), clip=True)
    assert (clipped.floats([0]) == 1).float().mean() > 0.7


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "CMYK", "YCbCr"])
def test_every_mode_of_a_grey_picture_gives_the_same_grey(tmp_path, cache, mode):
    suffix = {"CMYK": "tif", "YCbCr": "tif"}.get(mode, "png")
    write(tmp_path / "root" / "a" / f"0.{suffix}", ramp(), mode)
    data = prepare(tmp_path / "root", cache)
    assert data.pixels.dtype == np.uint8
    assert np.abs(data.pixels[0, 0].astype(int) - ramp()).max() <= 2
    assert prepare(tmp_path / "root", cache, channels=3).shape == (3, 16, 16)


def test_colour_becomes_luma(tmp_path, cache):
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[:8] = (255, 0, 0)
    colours[8:] = (0, 255, 0)
    write(tmp_path / "root" / "a" / "0.png", colours)
    data = prepare(tmp_path / "root", cache)
    assert data.pixels[0, 0, 0, 0] == round(0.299 * 255)
    assert data.pixels[0, 0, 15, 0] == round(0.587 * 255)


def test_resizing_is_antialiased_and_padding_keeps_the_shape(tmp_path, cache):
    checkerboard = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    checkerboard[:, :4] = 0
    write(tmp_path / "root" / "a" / "0.png", checkerboard)
    data = prepare(tmp_path / "root", cache)
    assert 100 < np.median(data.pixels[0]) < 155, "aliasing would give 0 or 255"
    write(tmp_path / "tall" / "a" / "0.png", np.full((64, 32), 200, np.uint8) - ramp((64, 32), 50))
    padded = prepare(tmp_path / "tall", cache, fit="pad")
    assert not padded.pixels[0, 0, :, :4].any()
    assert not padded.pixels[0, 0, :, 12:].any()
    assert padded.pixels[0, 0, :, 4:12].all()


def test_images_that_are_stretched_are_counted(tmp_path, cache):
    """Upright sizes count, and rounding to whole pixels is no stretching; the prepared set remembers."""
    for number, shape in enumerate([(20, 30)] * 3 + [(30, 20)] + [(16, 16), (64, 63)]):
        write(tmp_path / "odd" / "a" / f"{number}.png", ramp(shape))
    data = prepare(tmp_path / "odd", cache, image_size=(16, 16))
    told = "3 images of 20x30 and 1 of 30x20 are stretched to 16x16, another aspect ratio; data.fit: pad keeps theirs"
    assert data.notes == (told,)
    assert prepare(tmp_path / "odd", cache, image_size=(16, 16)).notes == (told,), "from the cache"
    write(tmp_path / "odd" / "a" / "z.png", ramp((10, 20)))
    told = told.replace("1 of 30x20", "2 of 2 other sizes")
    data = prepare(tmp_path / "odd", cache, image_size=(16, 16))
    split = Split(*np.split(np.arange(6), 3), by="image", seed=0, leaking_subjects=0)
    assert told in remarks(data, split, [])
    assert prepare(tmp_path / "odd", cache, image_size=(16, 16), fit="pad").notes == ()


def test_orientation_is_heeded(tmp_path, cache):
    image = Image.fromarray(np.repeat(ramp((8, 8)), 2, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    (tmp_path / "root" / "a").mkdir(parents=True)
    image.save(tmp_path / "root" / "a" / "0.png", exif=exif)
    data = prepare(tmp_path / "root", cache, image_size=(8, 16))
    assert np.array_equal(data.pixels[0, 0], np.rot90(np.asarray(image), -1))


def damaged(root: Path) -> dict[str, str]:
    """Write every kind of unusable image; return name -> part of the reason."""
    whole = (root / "0" / "100L.png").read_bytes()
    (root / "0" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "0" / "empty.png").write_bytes(b"")
    (root / "0" / "text.png").write_text("no image")
    write(root / "0" / "constant.png", np.full((16, 16), 7, np.uint8))
    write(root / "0" / "nan.tif", np.full((16, 16), np.nan, np.float32))
    write(root / "0" / "float.tif", ramp().astype(np.float32) * 1000)
    reasons = {"cut.png": "can't be read", "empty.png": "can't be read", "text.png": "can't be read"}
    return {**reasons, "constant.png": "constant", "nan.tif": "not finite", "float.tif": "give data.window"}


def test_unusable_images_are_named_and_left_out(root, cache):
    expected = damaged(root)
    data = prepare(root, cache, max_skipped_fraction=0.5)
    assert len(data) == 8
    assert {Path(name).name for name, _ in data.skipped} == set(expected)
    for name, reason in data.skipped:
        assert expected[Path(name).name] in reason
        assert "\n" not in reason
    with pytest.raises(InputError, match=r"6 of 14 images can't be used .*max_skipped_fraction"):
        prepare(root, cache)
    assert not list(cache.glob(".*")), "nothing half written"


def test_bombs_are_left_out_unread(root, cache, monkeypatch):
    monkeypatch.setattr("bench.data.images.MAX_PIXELS", 1000)
    write(root / "0" / "huge.png", ramp((40, 40)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = prepare(root, cache, max_skipped_fraction=0.5)
    assert [reason for _, reason in data.skipped] == ["40 x 40 pixels are too many"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "nowhere"}, "there is no folder nowhere"),
        ({"subject_pattern": r"^(x\d+)"}, r"finds no subject in 0/100L\.png"),
        ({"classes": ("0", "2")}, "no folder '2'"),
    ],
)
def test_wrong_options(root, cache, options, message):
    with pytest.raises(InputError, match=message):
        prepare(options.pop("root", root), cache, **options)


def test_wrong_options_at_once():
    for options in ({"subject_pattern": "("}, {"window": (5, 5)}, {"image_size": (4, 4)}, {"rooot": "x"}):
        with pytest.raises(ValidationError):
            ImageFolder.Options(**{"root": "x", **options})


def test_an_empty_folder_says_what_is_expected(tmp_path, cache):
    with pytest.raises(InputError, match=r"no images in .* expected a folder per class"):
        prepare(tmp_path, cache)


def test_classes_choose_order_and_names(root, cache):
    assert prepare(root, cache, classes=("1", "0")).class_names == ("1", "0")
    assert prepare(root, cache, classes={"1": "severe"}).class_names == ("severe",)
    assert len(prepare(root, cache, classes={"1": "severe"})) == 4


def test_several_roots(root, cache, tmp_path):
    write(tmp_path / "second" / "1" / "200R.png", ramp())
    data = prepare(root, cache)
    options = ImageFolder.Options(root=(str(root), str(tmp_path / "second")), image_size=(16, 16))
    both = prepare_dataset("images", ImageFolder(options), cache)
    assert len(both) == len(data) + 1
    assert "second/1/200R.png" in both.names


def test_roots_of_one_name_keep_their_subjects_apart(tmp_path, cache):
    for parent in ("p", "q"):
        write(tmp_path / parent / "set" / "a" / "0.png", ramp())
    options = ImageFolder.Options(root=(str(tmp_path / "p" / "set"), str(tmp_path / "q" / "set")), image_size=(16, 16))
    data = prepare_dataset("images", ImageFolder(options), cache)
    assert len(set(data.names)) == len(set(data.subjects)) == 2


def test_a_class_that_lost_every_image_is_an_error(root, cache):
    for path in (root / "1").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no image of class '1' can be used"):
        prepare(root, cache, max_skipped_fraction=1)


def test_classes_stand_in_natural_order(tmp_path, cache):
    for name in ("10", "2", "1"):
        write(tmp_path / "root" / name / "0.png", ramp())
    assert prepare(tmp_path / "root", cache).class_names == ("1", "2", "10")


def table(root: Path, text: str) -> None:
    (root / "table.csv").write_text(text)


def test_csv(root, cache):
    table(root, "file,grade,patient\n0/100L.png,mild,p1\n1/101L.png,severe,p2\n1/102L.png,severe,p1\n")
    data = prepare(root, cache, csv="table.csv", columns={"path": "file", "label": "grade", "subject": "patient"})
    assert data.class_names == ("mild", "severe")
    assert data.subjects.tolist() == ["p1", "p2", "p1"]


@pytest.mark.parametrize("text", ["path;label;subject\n0/100L.png;a;p1\n1/100L.png;b;p2\n",
                                  "path, label, subject\n0/100L.png, a, p1\n1/100L.png, b, p2\n",
                                  "path\tlabel\tsubject\n0/100L.png\ta\tp1\n1/100L.png\tb\tp2\n"],
                         ids=["semicolons", "blanks", "tabs"])  # fmt: skip
def test_tables_as_spreadsheets_write_them(root, cache, text):
    table(root, text)
    data = prepare(root, cache, csv="table.csv", folders="ignore")
    assert data.class_names == ("a", "b")
    assert data.subjects.tolist() == ["p1", "p2"]


def test_a_table_that_is_no_utf_8(root, cache):
    (root / "table.csv").write_bytes("path,label\n0/100L.png,Ödem\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"table\.csv: is no UTF-8 text; save it as CSV UTF-8"):
        prepare(root, cache, csv="table.csv")


def test_a_table_or_column_that_is_not_there(root, cache):
    with pytest.raises(InputError, match=r"there is no table tabel\.csv, neither seen from .* nor in "):
        prepare(root, cache, csv="tabel.csv")
    table(root, "path,label,patient\n0/100L.png,a,p1\n")
    with pytest.raises(InputError, match="no column 'Patient'; there are path, label, patient"):
        prepare(root, cache, csv="table.csv", columns={"subject": "Patient"})


def test_a_link_to_a_file_that_was_not_fetched_is_named(root, cache):
    (root / "0" / "annexed.png").symlink_to(root / ".git" / "annex" / "objects" / "xyz")
    data = prepare(root, cache, max_skipped_fraction=0.5)
    assert data.skipped == (("0/annexed.png", "is a link to a file that isn't there: not fetched?"),)


def test_a_class_that_is_not_there_is_told_with_those_that_are(root, cache):
    with pytest.raises(InputError, match=r"no folder 'O' in .*; there are '0', '1'"):
        prepare(root, cache, classes=["O", "1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,grade\n0/100L.png,a\n", "no column 'label'; there are path, grade"),
        (
            "path,label\n0/nowhere.png,a\n",
            r"1 of 1 images can't be used \(0/nowhere\.png: there is no such file in data\.root \(line 2 of table\.csv\)\)",
        ),
        ("path,label\n../outside.png,a\n", r"table\.csv:2: \.\./outside\.png lies outside .*allow_outside"),
        ("path,label\n0/100L.png,\n", r"table\.csv:2: the label is missing"),
        ("", r"table\.csv: is empty"),
        ("path,label\n", r"table\.csv: has names of columns, but no row"),
        ("path;grade\n0/100L.png;a\n", "no column 'label'; there are path, grade"),
        ("path,label\n0/100L.png,a\n./0/100L.png,b\n", r"table\.csv:3: \./0/100L\.png stands in line 2 already"),
        ("path,label,subject\n0/100L.png,a,\n", r"table\.csv:2: no subject in the column 'subject'"),
        ("path,label\n0/\0.png,a\n", "is no path|can't be read"),
    ],
)
def test_wrong_csv(root, cache, text, message):
    write(root.parent / "outside.png", ramp())
    table(root, text)
    with pytest.raises(InputError, match=message):
        prepare(root, cache, csv="table.csv")


def test_csv_may_reach_outside_when_told(root, cache):
    write(root.parent / "outside.png", ramp())
    table(root, "path,label\n../outside.png,a\n")
    assert len(prepare(root, cache, csv="table.csv", allow_outside=True)) == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_files_are_read_or_named(tmp_path, data):
    suffix = data.draw(st.sampled_from(["png", "jpg", "tif"]))
    path = write(tmp_path / "fuzz" / "a" / f"0.{suffix}", ramp())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    source = ImageFolder(ImageFolder.Options(root=str(tmp_path / "fuzz"), max_skipped_fraction=1))
    image, reason, _ = source._read(source._items()[0])
    assert (image is None) == bool(reason)
    if image is not None:
        assert image.shape == (1, 64, 64)
        assert image.min() >= 0
        assert image.max() <= 1
    path.unlink()


def test_a_folder_without_classes_is_one_class(tmp_path, cache):
    for number in range(3):
        write(tmp_path / "root" / f"{number}.png", np.roll(ramp(), number))
    data = prepare(tmp_path / "root", cache)
    assert data.class_names == ("all",)
    assert len(data) == 3


def test_images_outside_the_class_folders_are_named(root, cache):
    write(root / "overview.png", ramp())
    data = prepare(root, cache, max_skipped_fraction=0.2)
    assert len(data) == 8
    assert data.skipped == (("overview.png", "lies outside the folders of the classes: put it into one"),)
    assert not prepare(root, cache, classes=("0", "1")).skipped, "who names the classes has said what else lies there"


def test_missing_files_of_a_table_are_counted_like_damaged_ones(root, cache):
    lines = "".join(f"0/{100 + number}L.png,a\n" for number in range(4))
    table(root, f"path,label\n{lines}0/gone.png,a\n")
    data = prepare(root, cache, csv="table.csv", max_skipped_fraction=0.2)
    assert data.skipped == (("0/gone.png", "there is no such file in data.root (line 6 of table.csv)"),)
    write(root / "0" / "gone.png", ramp()[::-1])
    assert len(prepare(root, cache, csv="table.csv")) == 5, "and found when they are there again"


def test_an_empty_class_is_an_error(root, cache):
    (root / "2").mkdir()
    with pytest.raises(InputError, match=r"the class folder '2' holds no images .*name the others in data\.classes"):
        prepare(root, cache)
    with pytest.raises(InputError, match=r"the class folder '2' holds no images .*leave it out of data\.classes"):
        prepare(root, cache, classes=("0", "2"))
    assert prepare(root, cache, classes=("0", "1")).class_names == ("0", "1")
    table(root, "path,label\n0/100L.png,a\n")
    with pytest.raises(InputError, match=r"no image is labelled 'b' in .*table\.csv; leave the class out"):
        prepare(root, cache, csv="table.csv", classes=("a", "b"))


def test_labels_that_contradict_the_folder_are_an_error(root, cache):
    table(root, "path,label\n0/100L.png,0\n1/101L.png,1\n1/102L.png,0\n")
    with pytest.raises(
        InputError,
        match=r"1 images have another label than their folder; the first, 1/102L\.png, is '0' in the table and lies in '1'"
        r".*data\.folders: ignore",
    ):
        prepare(root, cache, csv="table.csv")
    assert prepare(root, cache, csv="table.csv", folders="ignore").labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intensity": "image", "window": (0, 9)}, "takes no window"),
        ({"percentiles": (1, 99)}, "percentiles are for intensity"),
        ({"intensity": "image", "percentiles": (99, 1)}, "first must be below the second"),
    ],
)
def test_intensity_rules_that_contradict_each_other(options, message):
    with pytest.raises(ValidationError, match=message):
        ImageFolder.Options(root="x", **options)


def test_intensity_by_image_and_by_all(tmp_path, cache):
    write(tmp_path / "root" / "a" / "0.tif", ramp(high=1000, dtype=np.uint16))
    write(tmp_path / "root" / "a" / "1.tif", ramp(high=4000, dtype=np.uint16))
    write(tmp_path / "root" / "a" / "2.tif", ramp(high=1, dtype=np.float32) - 0.5)
    own = prepare(tmp_path / "root", cache, intensity="image").floats([0, 1, 2])
    assert own.amax(dim=(1, 2, 3)).tolist() == [1, 1, 1]
    assert own.amin(dim=(1, 2, 3)).tolist() == [0, 0, 0]
    (tmp_path / "root" / "a" / "2.tif").unlink()
    every = prepare(tmp_path / "root", cache, intensity="global")
    assert every.floats([0, 1]).amax(dim=(1, 2, 3)).tolist() == pytest.approx([0.25, 1], abs=1e-4)
    inner = prepare(tmp_path / "root", cache, intensity="global", percentiles=(10, 90))
    assert (inner.floats([1]) == 1).float().mean() == pytest.approx(0.1, abs=0.02)
    assert len({every.fingerprint, inner.fingerprint}) == 2


def test_pages_are_images_of_one_subject(tmp_path, cache):
    pages = [Image.fromarray(np.roll(ramp(), number)) for number in range(3)]
    (tmp_path / "root" / "a").mkdir(parents=True)
    pages[0].save(tmp_path / "root" / "a" / "7L.tif", save_all=True, append_images=pages[1:])
    write(tmp_path / "root" / "a" / "8L.tif", ramp()[::-1])
    assert prepare(tmp_path / "root", cache, max_skipped_fraction=0.5).skipped == (
        ("a/7L.tif", "holds 3 pages: set data.pages to all or first, or save each as a file"),
    )
    assert len(prepare(tmp_path / "root", cache, pages="first")) == 2
    data = prepare(tmp_path / "root", cache, pages="all", subject_pattern=r"^(\d+)")
    assert data.names == ("a/7L.tif#0", "a/7L.tif#1", "a/7L.tif#2", "a/8L.tif")
    assert data.subjects.tolist() == ["7", "7", "7", "8"]
    assert np.array_equal(data.pixels[1, 0], np.roll(ramp(), 1))


def test_unsigned_32_bits_are_not_taken_for_16(tmp_path, cache):
    """Whatever the values of one file happen to be, its neighbour's are read on the same scale."""
    tifffile = pytest.importorskip("tifffile", reason="needs tifffile to write 32-bit TIFFs")
    for number, high in enumerate((60_000, 70_000)):
        (tmp_path / "root" / "a").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / "root" / "a" / f"{number}.tif", ramp(high=high, dtype=np.uint32))
    with pytest.raises(InputError, match=r"2 of 2 images can't be used .*32-bit values: give data\.window"):
        prepare(tmp_path / "root", cache)
    data = prepare(tmp_path / "root", cache, window=(0, 100_000))
    assert data.floats([0, 1]).amax(dim=(1, 2, 3)).tolist() == pytest.approx([0.6, 0.7], abs=1e-3)


def test_options_that_came_later_leave_published_fingerprints(root, cache):
    """An id of results that were published must not change because the source can do more now."""
    assert prepare(root, cache).fingerprint == "61148ad28fabf5f8", "as version 0.1.0 had it"
