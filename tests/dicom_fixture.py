"""DICOM files for tests, made by pydicom."""

from pathlib import Path

import numpy as np


def write_dicom(path: Path, stored: np.ndarray, *, kind: str = "MONOCHROME2", bits: int | None = None, **tags) -> Path:
    """Write [h, w], [frames, h, w] (grey) or [h, w, 3] (colour) as an uncompressed little-endian DICOM file."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    found: Dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    colour = stored.ndim == 3 and stored.shape[-1] == 3 and kind not in ("MONOCHROME1", "MONOCHROME2")
    found.Rows, found.Columns = stored.shape[:2] if colour or stored.ndim == 2 else stored.shape[1:]
    if stored.ndim == 3 and not colour:
        found.NumberOfFrames = stored.shape[0]
    found.SamplesPerPixel = 3 if colour else 1
    if colour:
        found.PlanarConfiguration = 0
    found.PhotometricInterpretation = kind
    found.BitsAllocated = 8 * stored.dtype.itemsize
    found.BitsStored = bits or found.BitsAllocated
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = int(stored.dtype.kind == "i")
    for name, value in tags.items():
        setattr(found, name, value)
    found.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path)
    return path
