"""medgenbench: compare generative families on medical images under equal conditions.

This package is the harness: it reads a suite, trains every family the same way, scores it the same way and reports.
The families themselves live in `baselines` (or in anybody's package) and are found by entry points.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("medgenbench")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"
