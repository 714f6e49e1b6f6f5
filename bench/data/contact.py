"""A picture of many pictures: rows of images by class, for people to look at.

It shows patients, so it lies beside the prepared pixels, in the cache, and is never copied into results or a report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.data.dataset import ImageDataset

if TYPE_CHECKING:
    from PIL import Image

_LINE = 14
"""Pixels of a line of text."""
_GAP = 2


def contact_sheet(data: ImageDataset, chosen: Sequence[int], columns: int = 10, side: int = 160) -> Image.Image:
    """Return a sheet of images, class by class under its name, each with its subject.

    Args:
        data: the set.
        chosen: which of its images.
        columns: images in a row.
        side: the longer side of an image on the sheet, in pixels; smaller images are enlarged by a whole factor.
    """
    from PIL import Image, ImageDraw

    _, height, width = data.shape
    factor = max(1, side // max(height, width))
    cell = (height * factor + _LINE + _GAP, width * factor + _GAP)
    groups = [(name, [i for i in chosen if data.labels[i] == label]) for label, name in enumerate(data.class_names)]
    rows = sum(-(-len(group) // columns) for _, group in groups)
    sheet = Image.new("RGB", (columns * cell[1], rows * cell[0] + len(groups) * _LINE))
    draw = ImageDraw.Draw(sheet)
    top = 0
    for name, group in groups:
        count = int((data.labels == data.class_names.index(name)).sum())
        draw.text((2, top), f"{name}: {count} images", fill="white")
        top += _LINE
        for start in range(0, len(group), columns):
            for column, index in enumerate(group[start : start + columns]):
                picture = data.bytes([index])[0]
                picture = np.repeat(picture, 3, axis=0) if len(picture) == 1 else picture
                enlarged = picture.repeat(factor, axis=1).repeat(factor, axis=2).transpose(1, 2, 0)
                left = column * cell[1]
                sheet.paste(Image.fromarray(np.ascontiguousarray(enlarged)), (left, top + _LINE))
                draw.text((left, top), str(data.subjects[index])[: max(4, cell[1] // 6)], fill="gray")
            top += cell[0]
    return sheet
