"""Volumes: the same anatomy gives the same slices however it is stored; what is wrong is named, counted and left out."""

import gzip
import importlib
import importlib.util
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydantic import ValidationError

from bench.data import volume_pool
from bench.data.dataset import ImageDataset, prepare_dataset
from bench.data.dicom_series import open_series
from bench.data.nifti import open_nifti
from bench.data.slicing import Canonical, Recipe, slices_of
from bench.data.volumes import SHEET, Volumes
from bench.errors import InputError
from bench.suite import load_suite

_spec = importlib.util.spec_from_file_location("volume_fixture", Path(__file__).with_name("volume_fixture.py"))
_fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixture)
affine_of, phantom = _fixture.affine_of, _fixture.phantom
write_nifti, write_series = _fixture.write_nifti, _fixture.write_series

SMALL = {"grid": "native", "slices": 4, "image_size": (32, 32)}
AXES = ["RAS", "LPS", "PSR", "ASL", "SAR", "ILA", "RPI"]


def prepare(root, cache, **options) -> ImageDataset:
    return prepare_dataset("volumes", Volumes(Volumes.Options(root=str(root), **{**SMALL, **options})), cache)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    for label in "ab":
        for number in range(3):
            write_nifti(
                tmp_path / "root" / label / f"sub-{number}{label}_T1w.nii.gz", phantom(seed=number + 10 * ord(label))
            )
    return tmp_path / "root"


# ---- orientation and reading


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_permuted_and_flipped_axes_give_the_same_slices(tmp_path, plane, suffix):
    recipe = Recipe(grid="native", plane=plane, slices=5, step=2, image_size=(48, 40))
    told = [slices_of(write_nifti(tmp_path / f"{axes}.{suffix}", phantom(), axes=axes), recipe) for axes in AXES]
    assert told[0].std() > 20
    for axes, slices in zip(AXES[1:], told[1:], strict=True):
        assert np.array_equal(slices, told[0]), axes


def test_on_the_grid_too(tmp_path):
    recipe = Recipe(slices=3, image_size=(64, 64))
    told = [slices_of(write_nifti(tmp_path / f"{axes}.nii", phantom(), axes=axes), recipe).astype(int) for axes in AXES]
    assert told[0].std() > 20
    for axes, slices in zip(AXES[1:], told[1:], strict=True):
        assert np.abs(slices - told[0]).max() <= 1, axes


def test_front_is_up_and_left_is_left(tmp_path):
    values = np.zeros((40, 44, 36), np.int16)
    values[5:35, 5:39, 5:31] = 100
    values[28:33, 32:37, :] = 1000  # right, front
    slices = slices_of(
        write_nifti(tmp_path / "v.nii", values), Recipe(grid="native", slices=1, image_size=(44, 40), fit="stretch")
    )
    rows, columns = np.nonzero(slices[0] > 200)
    assert rows.max() < 22, "front is up"
    assert columns.min() > 20, "the patient's right is on the right"


def test_pixels_keep_the_proportions_of_the_patient(tmp_path):
    values = phantom((40, 40, 30))
    path = write_nifti(tmp_path / "v.nii", values, affine_of(values.shape, (1.0, 2.0, 1.0)))
    padded = slices_of(path, Recipe(grid="native", slices=1, image_size=(64, 64)))[0]
    assert not padded[:, :16].any()
    assert not padded[:, 48:].any()
    assert padded[:, 17:47].any(axis=0).sum() > 20


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", ["int16", ">i2", "uint8", "float32"])
def test_planes_are_those_of_nibabel(tmp_path, axis, suffix, dtype):
    values = (phantom() // 8).astype(dtype)
    path = tmp_path / f"v.{suffix}"
    image = nibabel.Nifti1Image(values, affine_of(values.shape))
    image.header.set_slope_inter(2.5, -7)
    image.to_filename(path)
    whole = nibabel.load(path).get_fdata()
    volume = open_nifti(path)
    for indices in (range(3, 9), range(10, 30, 3), range(1)):
        assert np.allclose(volume.planes(axis, indices), whole.take(indices, axis=axis), rtol=1e-6), indices


def test_nothing_beyond_the_last_plane_is_inflated(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "v.nii.gz", np.random.default_rng(0).integers(0, 999, (64, 64, 64)).astype(np.int16))
    volume = open_nifti(path)
    read = []
    opened = type(volume)._opened

    def counting(self):
        file = opened(self)
        inner = file.readinto
        file.readinto = lambda view: (read.append(got := inner(view)), got)[1]
        return file

    monkeypatch.setattr(type(volume), "_opened", counting)
    volume.planes(2, range(20, 24))
    assert sum(read) == 4 * 64 * 64 * 2


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "SAR"])
def test_a_dicom_series_is_the_nifti_of_the_same_data(tmp_path, axes):
    nifti = write_nifti(tmp_path / "v.nii", phantom(), axes=axes)
    series = write_series(tmp_path / "series", nifti, slope=2.0, intercept=-50.0)
    one, other = Canonical(open_series(series)), Canonical(open_nifti(nifti))
    assert np.allclose(one.affine, other.affine, atol=1e-4)
    assert np.allclose(one.whole(), other.whole() * 2 - 50)
    for plane in ("axial", "coronal", "sagittal"):
        recipe = Recipe(grid="native", plane=plane, slices=4, image_size=(40, 40))
        assert np.abs(slices_of(series, recipe).astype(int) - slices_of(nifti, recipe)).max() <= 1


# ---- grey levels


def test_grey_levels_do_not_depend_on_scale_or_background(tmp_path):
    values = phantom()
    first = slices_of(write_nifti(tmp_path / "a.nii", values), Recipe(**SMALL))
    assert np.array_equal(slices_of(write_nifti(tmp_path / "b.nii", values * 7), Recipe(**SMALL)), first)
    wide = np.pad(values, ((0, 0), (20, 20), (0, 0)))  # twice the background: percentiles are the foreground's
    assert abs(slices_of(write_nifti(tmp_path / "c.nii", wide), Recipe(**SMALL)).max() - 255.0) < 3
    hot = values.copy()
    hot[20, 22, 16:20] = 30000  # a few absurd voxels
    assert np.median(slices_of(write_nifti(tmp_path / "d.nii", hot), Recipe(**SMALL))) == pytest.approx(
        np.median(first), abs=3
    )


def test_sixteen_bits_are_kept_if_asked_for(root, cache):
    deep, shallow = prepare(root, cache, bits=16), prepare(root, cache)
    assert deep.pixels.dtype == np.uint16
    assert len(np.unique(deep.pixels)) > 2000
    assert np.abs(deep.bytes(range(24)).astype(int) - shallow.pixels).max() <= 1
    assert deep.fingerprint != shallow.fingerprint


def test_too_few_planes_are_named(tmp_path):
    with pytest.raises(Exception, match="has 36 axial planes, too few for 40 slices 1 apart"):
        slices_of(write_nifti(tmp_path / "v.nii", phantom()), Recipe(grid="native", slices=40))


# ---- which volumes


def test_folders_are_classes(root, cache):
    data = prepare(root, cache, subject_pattern=r"^(sub-\d)")
    assert data.class_names == ("a", "b")
    assert data.labels.tolist() == [0] * 12 + [1] * 12
    assert sorted(set(data.subjects)) == ["sub-0", "sub-1", "sub-2"]
    assert data.names[5] == "a/sub-1a_T1w.nii.gz-slice1"
    assert data.title == "volumes of root"
    assert (Path(data.pixels.filename).parent / SHEET).is_file()
    assert prepare(root, cache, classes={"b": "x", "a": "y"}).class_names == ("x", "y")


def test_series_are_volumes_of_a_folder(root, cache, tmp_path):
    for number in range(2):
        nifti = write_nifti(tmp_path / f"{number}.nii", phantom(seed=number))
        write_series(root / "dicom" / f"patient{number}", nifti)
    data = prepare(root, cache, classes=["a", "dicom"], subject_pattern=r"^(sub-\d|patient\d)")
    assert data.class_names == ("a", "dicom")
    assert set(data.subjects) == {"sub-0", "sub-1", "sub-2", "patient0", "patient1"}


def test_ixi_and_sald_together(tmp_path, cache):
    for number, site in enumerate(("Guys", "HH", "IOP")):
        write_nifti(tmp_path / "IXI" / f"IXI{number:03d}-{site}-0828-T1.nii.gz", phantom(seed=number))
    write_nifti(tmp_path / "IXI" / "IXI009-HH-0828-T2.nii.gz", phantom())
    write_nifti(tmp_path / "SALD" / "sub-031274" / "anat" / "sub-031274_T1w.nii.gz", phantom(seed=7))
    write_nifti(tmp_path / "SALD" / "sub-031274" / "func" / "sub-031274_bold.nii.gz", phantom(seed=8))
    scanners = {"Guys": "Gyroscan Intera", "HH": "Intera", "IOP": "Unspecified", "SALD": "Magnetom TrioTim"}
    options = {
        **SMALL,
        "root": (str(tmp_path / "IXI"), str(tmp_path / "SALD")),
        "layout": ("ixi", "sald"),
        "classes": scanners,
    }
    data = prepare_dataset("volumes", Volumes(Volumes.Options(**options)), cache)
    assert data.class_names == tuple(scanners.values())
    assert data.subjects[::4].tolist() == ["IXI000", "IXI001", "IXI002", "sub-031274"]
    assert data.labels[::4].tolist() == [0, 1, 2, 3]


def test_participants_tell_labels(tmp_path, cache):
    for number in (31, 32):
        write_nifti(
            tmp_path / "root" / f"sub-{number:05d}" / "anat" / f"sub-{number:05d}_T1w.nii", phantom(seed=number)
        )
    (tmp_path / "root" / "participants.tsv").write_text("participant_id\tscanner\nsub-00031\tX\n32\tY\n")
    options = {"layout": "sald", "participants": "participants.tsv", "columns": {"label": "scanner"}}
    data = prepare(tmp_path / "root", cache, **options)
    assert data.class_names == ("X", "Y")
    (tmp_path / "root" / "participants.tsv").write_text("participant_id\tscanner\nsub-00031\tX\n")
    with pytest.raises(InputError, match=r"participants\.tsv: no label for sub-00032"):
        prepare(tmp_path / "root", cache, **options)


def test_a_pattern_tells_labels(root, cache):
    data = prepare(root, cache, label_pattern=r"sub-(\d)", include="/sub-[01]")
    assert data.class_names == ("0", "1")
    assert len(data) == 16


def table(root, *rows, name="volumes.csv"):
    (root / name).write_text("\n".join(rows) + "\n")
    return name


def test_a_table(root, cache):
    rows = ["file,scanner,who,age", "a/sub-0a_T1w.nii.gz,X,p1,30", "b/sub-0b_T1w.nii.gz,Y,p2,40"]
    columns = {"path": "file", "label": "scanner", "subject": "who"}
    data = prepare(root, cache, csv=table(root, *rows), columns=columns)
    assert data.class_names == ("X", "Y")
    assert data.subjects[::4].tolist() == ["p1", "p2"]


def test_missing_and_repeated_files_of_a_table_are_left_out(root, cache):
    rows = ["path,label,subject", *(f"a/sub-{n}a_T1w.nii.gz,X,{n}" for n in (0, 1, 2, 1, 9))]
    data = prepare(root, cache, csv=table(root, *rows), max_skipped_fraction=0.5)
    assert len(data) == 12
    reasons = dict(data.skipped)
    assert reasons["a/sub-9a_T1w.nii.gz"] == "there is no such file in data.root"
    assert reasons["a/sub-1a_T1w.nii.gz"] == "line 5 names it again (line 3 did)"
    with pytest.raises(InputError, match="2 of 5 volumes can't be used"):
        prepare(root, cache, csv="volumes.csv")


def test_a_folder_without_classes_is_one_class(tmp_path, cache):
    for number in range(3):
        write_nifti(tmp_path / "flat" / f"sub-{number}.nii.gz", phantom(seed=number))
    assert prepare(tmp_path / "flat", cache).class_names == ("all",)


def test_a_volume_beside_the_folders_of_the_classes_is_named(root, cache):
    write_nifti(root / "stray.nii.gz", phantom(seed=5))
    data = prepare(root, cache, max_skipped_fraction=0.5)
    assert data.class_names == ("a", "b")
    assert data.skipped == (("stray.nii.gz", "lies outside the folders of the classes: put it into one"),)
    assert prepare(root, cache, classes=["b", "a"]).skipped == ()


def test_subjects_by_the_folders_above_a_series(tmp_path, cache):
    for label, number in (("a", 1), ("a", 2), ("b", 3)):
        for series in (1, 2):
            volume = write_nifti(tmp_path / "v.nii", phantom(seed=10 * number + series))
            write_series(tmp_path / "root" / label / f"patient {number}" / f"series {series}", volume)
    data = prepare(tmp_path / "root", cache, subject_pattern=r"(patient \d+)")
    assert data.subjects[:: SMALL["slices"]].tolist() == [f"patient {n}" for n in (1, 1, 2, 2, 3, 3)]
    with pytest.raises(InputError, match="finds no subject in a/patient 1/series 1"):
        prepare(tmp_path / "root", cache, subject_pattern=r"(sub-\d+)")


def test_colour_is_refused_by_name(root, cache):
    colour = np.zeros((20, 20, 20), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.Nifti1Image(colour, np.eye(4)).to_filename(root / "a" / "colour.nii.gz")
    data = prepare(root, cache, max_skipped_fraction=0.5)
    assert data.skipped == (("a/colour.nii.gz", "holds colour voxels, not grey values"),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("layout: IXI", r":2: data\.layout: input should be 'folders', 'ixi' or 'sald', not 'IXI'$"),
        ("root: 5", r":2: data\.root: input should be a valid string, not 5$"),
    ],
)
def test_a_wrong_option_is_told_once_and_in_plain_words(tmp_path, line, message):
    data = "{source: volumes, " + (line if "root" in line else f"root: {tmp_path}, {line}") + "}"
    (tmp_path / "s.yaml").write_text(f"name: s\ndata: {data}\ngenerators: [vae]\nbudget: {{images_seen: 100}}\n")
    with pytest.raises(InputError, match=message) as told:
        load_suite(tmp_path / "s.yaml")
    assert "\n" not in str(told.value)


def test_a_link_to_a_file_that_was_not_fetched_is_named(root, cache):
    (root / "a" / "annexed.nii.gz").symlink_to(root / "nowhere")
    data = prepare(root, cache, max_skipped_fraction=0.5)
    assert data.skipped == (("a/annexed.nii.gz", "is a link to a file that isn't there: not fetched?"),)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["path,label", "../x.nii,X"], r"volumes.csv:2: ../x.nii lies outside .*; set data.allow_outside: true"),
        (["path,label", "/etc/passwd,X"], "lies outside"),
        (["path,label", "a/sub-0a_T1w.nii.gz,X", "a/sub-0a_T1w.nii.gz,Y"], "a volume has one label"),
        (["path,label", "a/sub-0a_T1w.nii.gz,"], "the label is missing"),
        (["path", "a/sub-0a_T1w.nii.gz"], "no column 'label'"),
        (["path,label,subject", "a/sub-0a_T1w.nii.gz,X,"], "no subject in the column"),
        (["path,label"], "no row below"),
        (["path,label", f"{'a' * 5000}.nii,X"], "is no path"),
    ],
)
def test_tables_that_can_not_be_used(root, cache, rows, message):
    with pytest.raises(InputError, match=message):
        prepare(root, cache, csv=table(root, *rows))


def test_outside_if_allowed(root, cache, tmp_path):
    write_nifti(tmp_path / "x.nii", phantom())
    data = prepare(root, cache, csv=table(root, "path,label", "../x.nii,X"), allow_outside=True)
    assert len(data) == 4


def test_options_that_do_not_fit(tmp_path, cache):
    for wrong, message in (
        ({"grid": "native", "registration": "affine"}, "grid: mni belongs to it"),
        ({"grid": "native", "brain_mask": True}, "brain_mask is known on the MNI grid only"),
        ({"percentiles": (99, 1)}, "the first below the second"),
        ({"subject_pattern": "("}, "not a regular expression"),
    ):
        with pytest.raises(ValidationError, match=message):
            Volumes.Options(root=".", **wrong)
    with pytest.raises(InputError, match=r"data\.root: there is no folder"):
        prepare(tmp_path / "none", cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no volumes of layout folders"):
        prepare(tmp_path / "empty", cache)


# ---- what is wrong with a volume


def header_with(path, **fields):
    """Change fields of the header of an uncompressed file."""
    block = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(block[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    block[:348] = header.binaryblock
    path.write_bytes(bytes(block))


def spoil(path: Path, kind: str) -> None:
    values, affine = phantom(), affine_of((40, 44, 36))
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no volume " * 100)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "2d":
        nibabel.Nifti1Image(values[:, :, 0], affine).to_filename(path)
    elif kind == "4d":
        nibabel.Nifti1Image(np.stack([values, values], axis=-1), affine).to_filename(path)
    elif kind == "nan":
        nibabel.Nifti1Image(np.where(values > 600, np.nan, values).astype(np.float32), affine).to_filename(path)
    elif kind == "constant":
        nibabel.Nifti1Image(np.full_like(values, 7), affine).to_filename(path)
    elif kind == "huge":
        header_with(path, dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    elif kind == "negative":
        header_with(path, dim=[3, -4, 44, 36, 1, 1, 1, 1])
    elif kind == "zero affine":
        header_with(path, srow_x=0, srow_y=0, srow_z=0)
    elif kind == "flat affine":
        header_with(path, srow_x=[1, 0, 0, 0], srow_y=[1, 0, 0, 0], srow_z=[0, 0, 1, 0])
    elif kind == "nan affine":
        header_with(path, srow_x=np.nan)
    elif kind == "nowhere":
        header_with(path, sform_code=0, qform_code=0)
    elif kind == "colour":
        header_with(path, datatype=128, bitpix=24)
    elif kind == "no type":
        header_with(path, datatype=77)
    elif kind == "offset":
        header_with(path, vox_offset=1e30)


FAULTS = {
    "empty": "is empty",
    "text": "no NIfTI file",
    "truncated": "has 5,000 bytes, its header promises 127,072: cut off?",
    "2d": "is no volume: its shape is 40 x 44",
    "4d": "holds 2 volumes",
    "nan": "not finite",
    "constant": "constant: every voxel is the same",
    "huge": "32767 x 32767 x 32767 voxels: too many",
    "negative": "is no volume",
    "zero affine": "its voxels are said to be 0 x 0 x 0 mm",
    "flat affine": "",
    "nan affine": "its affine isn't finite",
    "nowhere": "doesn't say how it lies in space",
    "colour": "not grey values",
    "no type": "header can't be understood",
    "offset": "",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_bad_volumes_are_named_and_left_out(root, cache, kind):
    path = write_nifti(root / "a" / "bad.nii", phantom())
    spoil(path, kind)
    data = prepare(root, cache, max_skipped_fraction=0.2)
    ((name, reason),) = data.skipped
    assert name == "a/bad.nii"
    assert FAULTS[kind] in reason
    assert str(root) not in reason
    assert len(data) == 24
    with pytest.raises(InputError, match=r"1 of 7 volumes can't be used \(a/bad.nii: .*data.max_skipped_fraction"):
        prepare(root, cache)


def test_a_cut_or_bombed_stream_is_found(root, cache):
    whole = (root / "a" / "sub-0a_T1w.nii.gz").read_bytes()
    (root / "a" / "cut.nii.gz").write_bytes(whole[: len(whole) * 9 // 10])  # behind the slices that are read
    head = nibabel.Nifti1Header()
    head.set_data_shape((1000, 1000, 30000))
    head.set_data_dtype(np.int16)
    head.set_sform(np.eye(4), 1)
    head["magic"], head["vox_offset"] = b"n+1", 352
    (root / "a" / "bomb.nii.gz").write_bytes(gzip.compress(head.binaryblock + bytes(50_000_000)))
    data = prepare(root, cache, max_skipped_fraction=0.5)
    reasons = dict(data.skipped)
    assert set(reasons) == {"a/cut.nii.gz", "a/bomb.nii.gz"}
    assert "too many" in reasons["a/bomb.nii.gz"]


def test_a_class_without_a_volume_is_an_error(root, cache):
    for path in (root / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no volume of class 'b' can be used"):
        prepare(root, cache, max_skipped_fraction=1)


SERIES_FAULTS = {
    "gap": ({}, "distance between slices"),
    "repeat": ({"ImagePositionPatient": [0.0, 0.0, 0.0]}, "several images lie at one place"),
    "two series": ({"SeriesInstanceUID": lambda k: f"1.2.{k % 2}"}, "holds several series"),
    "frames": ({"NumberOfFrames": 3}, "several frames"),
    "inverse": ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
    "short pixels": ({"PixelData": b"12"}, "pixels can't be read"),
    "turned": (
        {"ImageOrientationPatient": lambda k: [1, 0, 0, 0, 1, 0] if k else [0, 1, 0, 0, 0, 1]},
        "another direction",
    ),
    "skewed": ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
    "no spacing": ({"PixelSpacing": None}, ""),
    "huge": ({"Rows": 60000}, "is said to have"),
}


@pytest.mark.parametrize("kind", SERIES_FAULTS)
def test_bad_series_are_named_and_left_out(root, cache, tmp_path, kind):
    tags, reason = SERIES_FAULTS[kind]
    folder = write_series(
        root / "a" / "series", write_nifti(tmp_path / "v.nii", phantom((20, 20, 12))), shuffle=False, **tags
    )
    if kind == "gap":
        (folder / "0005.dcm").unlink()
    data = prepare(root, cache, max_skipped_fraction=0.2)
    ((name, told),) = data.skipped
    assert name == "a/series"
    assert reason in told
    assert str(root) not in told


# ---- once, again, and after a kill


def test_prepared_once_and_the_same_each_time(root, cache, tmp_path):
    first = prepare(root, cache)
    assert prepare(root, cache).pixels.filename == first.pixels.filename
    second = prepare(root, tmp_path / "other")
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(second.pixels, first.pixels)
    assert prepare(root, cache, slices=3).fingerprint != first.fingerprint
    assert not list((cache / volume_pool.PARTS).iterdir()), "the parts of a complete set are removed"


def test_progress_counts_volumes(root, cache):
    told = []
    source = Volumes(Volumes.Options(root=str(root), **SMALL))
    prepare_dataset("volumes", source, cache, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 6) for n in range(1, 7)]


def test_a_killed_preparation_goes_on(root, cache, tmp_path, monkeypatch):
    """SIGKILL after the third volume; the rest alone is sliced again, and the set is the undisturbed one."""
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom bench.data.volumes import Volumes\n"
        "from bench.data.dataset import prepare_dataset\n"
        "def told(done, total):\n    if done == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"source = Volumes(Volumes.Options(root=sys.argv[1], **{SMALL!r}))\n"
        "prepare_dataset('volumes', source, Path(sys.argv[2]), told)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(root), str(cache)], cwd=Path(__file__).parents[1], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    parts = list((cache / volume_pool.PARTS).glob("*.npy"))
    assert len(parts) >= 3
    sliced = []
    inner = volume_pool.slices_of
    monkeypatch.setattr(volume_pool, "slices_of", lambda path, *rest: (sliced.append(path.name), inner(path, *rest))[1])
    data = prepare(root, cache)
    assert len(sliced) == 6 - len(parts)
    assert np.array_equal(data.pixels, prepare(root, tmp_path / "other").pixels)


def test_a_changed_file_is_read_again(root, cache):
    first = prepare(root, cache)
    write_nifti(root / "a" / "sub-0a_T1w.nii.gz", phantom(seed=99))
    second = prepare(root, cache)
    assert second.fingerprint != first.fingerprint
    assert not np.array_equal(first.pixels[:4], second.pixels[:4])
    assert np.array_equal(first.pixels[4:], second.pixels[4:])


def test_a_damaged_part_counts_as_none(root, cache, tmp_path):
    source = Volumes(Volumes.Options(root=str(root), **SMALL))
    jobs = [volume_pool.make_job(path, source.recipe, {}, cache) for path in sorted(root.rglob("*.nii.gz"))]
    for job, content in zip(jobs, (b"", b"\x93NUMPY", b"junk" * 50), strict=False):
        job.part.parent.mkdir(parents=True, exist_ok=True)
        job.part.write_bytes(content)
    *_, whole = jobs
    for _ in volume_pool.run_jobs([whole]):
        part = bytearray(whole.part.read_bytes())
    part[-1000:-4] = bytes(996)  # blocks that never reached the disk before the power went
    whole.part.write_bytes(part)
    data = prepare(root, cache)
    assert np.array_equal(data.pixels, prepare(root, tmp_path / "other").pixels)


DYING = """
import os, signal

def do_job(job):
    if "1" in job.path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"done {job.path.name}"
"""
"""Stands for a registration that takes its process with it; a module of its own, which spawned processes can import."""


def test_a_dying_process_takes_no_other_volume_with_it(monkeypatch, tmp_path):
    (tmp_path / "dying_job.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(volume_pool, "do_job", importlib.import_module("dying_job").do_job)
    recipe = Recipe(registration="affine")
    jobs = [volume_pool.Job(Path(str(n)), recipe, Path("p"), Path("q")) for n in range(5)]
    told = list(volume_pool.run_jobs(jobs, workers=2))
    assert [text.split()[0] for text in told] == ["done", "made", "done", "done", "done"]


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\nfrom bench.data.volume_pool import _processes\n"
        "if __name__ == '__main__':\n"
        "    pool = _processes(1)\n    print(pool.submit(os.getpid).result(), flush=True)\n    time.sleep(60)\n"
    )
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


def test_nifti_2(tmp_path):
    nibabel.Nifti2Image(phantom(), affine_of((40, 44, 36))).to_filename(tmp_path / "v.nii")
    one = slices_of(tmp_path / "v.nii", Recipe(**SMALL))
    assert np.array_equal(one, slices_of(write_nifti(tmp_path / "w.nii", phantom()), Recipe(**SMALL)))
    assert struct.unpack("<i", (tmp_path / "v.nii").read_bytes()[:4]) == (540,)
