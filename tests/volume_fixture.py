"""Small volumes and DICOM series for the tests: a lopsided head, so that every axis and direction can be told apart."""

from pathlib import Path

import nibabel
import numpy as np

SPACING = (2.0, 2.5, 3.0)


def phantom(shape=(40, 44, 36), seed=0) -> np.ndarray:
    """Return an int16 volume [right, front, top], smooth, with no symmetry; 0 around it."""
    x, y, z = (
        np.linspace(-1, 1, n).reshape([-1 if axis == i else 1 for i in range(3)]) for axis, n in enumerate(shape)
    )
    inside = x**2 / 0.55 + y**2 / 0.7 + z**2 / 0.6 < 1
    rng = np.random.default_rng(seed)
    waves = sum(np.sin(a * x + b * y + c * z + d) for a, b, c, d in rng.uniform(2, 6, (4, 4)))
    return (inside * (600 + 90 * waves + 160 * x - 120 * y + 70 * z)).clip(0).astype(np.int16)


def affine_of(shape, spacing=SPACING) -> np.ndarray:
    """Return the affine of canonical axes with the volume's middle at 0."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    return affine


def write_nifti(path: Path, values: np.ndarray, affine=None, axes: str = "RAS") -> Path:
    """Write a volume [right, front, top], stored along other axes if asked ('PSR' as IXI's)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, affine_of(values.shape) if affine is None else affine)
    if axes != "RAS":
        order = nibabel.orientations.axcodes2ornt(tuple(axes))
        image = image.as_reoriented(
            nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), order)
        )
        assert "".join(nibabel.aff2axcodes(image.affine)) == axes
    nibabel.save(image, path)
    return path


def write_series(folder: Path, path: Path, slope=1.0, intercept=0.0, shuffle=True, **tags) -> Path:
    """Write the NIfTI file's volume as a DICOM series, a file per slice of its last stored axis, names in disorder."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    image = nibabel.load(path)
    values = np.asarray(image.dataobj)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    between = np.linalg.norm(to_lps[:3, :3], axis=0)
    series = generate_uid(entropy_srcs=["series"])
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(values.shape[2]) if shuffle else np.arange(values.shape[2])
    for k in range(values.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(k)])
        one = pydicom.Dataset()
        one.file_meta = meta
        one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID = (
            MRImageStorage,
            meta.MediaStorageSOPInstanceUID,
            series,
        )
        one.Modality, one.PhotometricInterpretation, one.SamplesPerPixel = "MR", "MONOCHROME2", 1
        one.Columns, one.Rows = values.shape[:2]
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 1
        one.PixelSpacing = [float(between[1]), float(between[0])]
        one.ImageOrientationPatient = [*(to_lps[:3, 0] / between[0]), *(to_lps[:3, 1] / between[1])]
        one.ImagePositionPatient = list((to_lps @ [0, 0, k, 1])[:3])
        one.RescaleSlope, one.RescaleIntercept = slope, intercept
        one.PixelData = np.ascontiguousarray(values[:, :, k].T).astype("<i2").tobytes()
        for name, value in tags.items():
            setattr(one, name, value(k) if callable(value) else value)
        one.save_as(folder / f"{order[k]:04d}.dcm", enforce_file_format=True)
    return folder
