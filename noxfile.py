"""Sessions for developers and CI: nox -s lint types tests slow benchmark docs.

All but `lint` share one environment, .nox/full, since torch takes minutes and gigabytes to install.
"""

import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True
FULL = Path(".nox") / "full"


def full_python(session: nox.Session, *extras: str) -> str:
    """Return the shared environment's Python, after bringing the environment up to date."""
    python = FULL / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        session.run(sys.executable, "-m", "venv", str(FULL), external=True)
    session.run(
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "-e",
        f".[{','.join(('test', 'types', *extras))}]",
        external=True,
    )
    return str(python)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting and the arrows between the rooms."""
    session.install("ruff>=0.9", "import-linter>=2.1")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": str(Path.cwd())})


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    session.run(full_python(session), "-m", "mypy", external=True)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """All tests but the slow ones; arguments after -- go to pytest in their place."""
    options = session.posargs or ("-m", "not slow", "--durations=15")
    # two processes of one thread each; whole files, so that what a file prepares is prepared once
    workers = ("-n", "2", "--dist", "loadfile")
    session.run(full_python(session), "-m", "pytest", *workers, *options, external=True, env={"OMP_NUM_THREADS": "1"})


@nox.session(venv_backend="none")
def slow(session: nox.Session) -> None:
    """The tests that take minutes; CI runs them too."""
    session.run(full_python(session), "-m", "pytest", "-m", "slow", "--durations=25", *session.posargs, external=True)


@nox.session(venv_backend="none")
def soak(session: nox.Session) -> None:
    """The small suite again and again with random kills, an hour unless -- --minutes N says otherwise; not in CI."""
    session.run(full_python(session), "tests/soak.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of what is installed (asks PyPI's advisory service), and docs/licences.md made anew."""
    python = full_python(session)
    session.run(python, "docs/licences.py", external=True)
    session.run(python, "-m", "pip", "install", "--quiet", "pip-audit>=2.7", external=True)
    frozen = session.run(python, "-m", "pip", "freeze", "--exclude-editable", external=True, silent=True)
    listed = Path(session.create_tmp()) / "frozen.txt"
    listed.write_text(str(frozen))
    # strict: a package that the service knows nothing of, or no service at all, is no clean bill
    options = ("--strict", "--disable-pip", "--no-deps", "--progress-spinner", "off", "-r", str(listed))
    session.run(python, "-m", "pip_audit", *options, *session.posargs, external=True)


@nox.session(venv_backend="none")
def benchmark(session: nox.Session) -> None:
    """Speed as ratios of one run and the smoke suite end to end, both against the committed references."""
    python = full_python(session)
    out = Path(".nox") / "benchmark-results"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    times = out / "times.json"
    # --benchmark-only contradicts the --benchmark-skip of the ordinary options, which are therefore replaced
    options = ("-o", "addopts=--import-mode=importlib --strict-markers", "--benchmark-only", "-p", "no:cacheprovider")
    written = (f"--benchmark-json={times}", "tests/benchmarks", *session.posargs)
    # the processor's seconds of one thread: what else runs on the machine hardly counts
    alone = ("--benchmark-timer=time.process_time", *written)
    session.run(python, "-m", "pytest", *options, *alone, external=True, env={"OMP_NUM_THREADS": "1"})
    session.run(python, "-m", "bench", "run", "suites/smoke.yaml", "--out", str(out), external=True)
    compared = ("--times", str(times), "--results", str(out / "smoke"))
    session.run(python, "tests/benchmarks/compare.py", *compared, external=True)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """The documentation as a site in site/, every broken link an error."""
    python = full_python(session, "docs")
    session.run(python, "-m", "mkdocs", "build", "--strict", *session.posargs, external=True)
