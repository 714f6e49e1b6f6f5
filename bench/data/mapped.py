"""New arrays in files, with their room on the disk taken before anything is written into them.

A mapped file is sparse: where the disk fills up while it is written, the system ends the process by SIGBUS, without a word.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def mapped(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Make an .npy file for an array of this depth and shape, and map it for writing.

    Raises:
        OSError: there is no room for it.
    """
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise
                # a file system that can't reserve: written as far as it goes
    return array
