"""Sessions for developers and CI: nox -s lint types tests slow benchmark.

`tests`, `slow`, `types` and `benchmark` share one environment, since torch takes minutes and gigabytes to install.
"""

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True
FULL = Path(".nox") / "full"


def install_full(session: nox.Session) -> None:
    session.install("-e", ".[test,types]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting and the arrows between the rooms."""
    session.install("ruff>=0.9", "import-linter>=2.1")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": str(Path.cwd())})


@nox.session(venv_location=str(FULL))
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    install_full(session)
    session.run("mypy")


@nox.session(venv_location=str(FULL))
def tests(session: nox.Session) -> None:
    """All tests but the slow ones; arguments after -- go to pytest in their place."""
    install_full(session)
    options = session.posargs or ("-m", "not slow", "--durations=15")
    session.run("pytest", "-n", "2", "--dist", "loadfile", *options, env={"OMP_NUM_THREADS": "1"})


@nox.session(venv_location=str(FULL))
def slow(session: nox.Session) -> None:
    """The tests that take minutes; CI runs them too."""
    install_full(session)
    session.run("pytest", "-m", "slow", "--durations=0", *session.posargs)


@nox.session(venv_location=str(FULL))
def benchmark(session: nox.Session) -> None:
    """Speed as ratios measured in one run, and the smoke suite end to end."""
    install_full(session)
    # --benchmark-only contradicts the --benchmark-skip of the ordinary options, which are therefore replaced
    options = ("-o", "addopts=--import-mode=importlib --strict-markers", "--benchmark-only", "-p", "no:cacheprovider")
    session.run("pytest", *options, "tests/benchmarks", *session.posargs)
    out = Path(session.create_tmp()) / "results"
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "bench", "run", "suites/smoke.yaml", "--out", str(out))
