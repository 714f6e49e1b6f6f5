"""`bench ui`: MLflow's own pages on the store beside the results, for this machine alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from bench.errors import BenchError, InputError
from bench.track.mirror import QUIET, default_uri

HOST = "127.0.0.1"
DEFAULT_PORT = 5000
PATIENCE_SECONDS = 120.0


def serve(results: Path, port: int | None, say: Callable[[str], None]) -> None:
    """Show the pages until interrupted; what was started is ended then.

    Args:
        results: root of all results, with mlflow.db.
        port: to listen on; 5000, or a free one if that is taken, if left out.
        say: told the address once it answers.

    Raises:
        InputError: no store there, or the port asked for is taken.
        BenchError: the server ended by itself.
    """
    if not (results / "mlflow.db").is_file():
        raise InputError(
            f"{results / 'mlflow.db'}: no MLflow store; bench run makes one (tracking.enabled), and so does bench sync "
            f"{results / 'SUITE'} for results that stand. A server of your own has its own pages"
        )
    chosen = _port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(chosen), "--workers", "1"]
    command += ["--backend-store-uri", default_uri(results)]
    command += ["--default-artifact-root", (results / "mlartifacts").resolve().as_uri()]
    process = subprocess.Popen(
        command,
        env={**os.environ, **QUIET},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the server with all it started
        text=True,
    )
    try:
        address = f"http://{HOST}:{chosen}"
        _wait(process, address)
        say(f"MLflow on {results}: {address}  (Ctrl-C ends it)")
        assert process.stdout is not None
        for _ in process.stdout:  # its log: read, so that it never waits for a reader
            pass
        if (code := process.wait()) != 0:
            raise BenchError(f"the MLflow server ended by itself with code {code}")
    finally:
        _end(process)


def _port(wanted: int | None) -> int:
    for port in (DEFAULT_PORT, 0) if wanted is None else (wanted,):
        with socket.socket() as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as the server does: one just ended doesn't count
            try:
                probe.bind((HOST, port))
            except OSError as error:
                if wanted is not None:
                    raise InputError(f"--port {port}: {error.strerror}; name another, or none for a free one") from None
                continue
            return int(probe.getsockname()[1])
    raise BenchError(f"no port is free on {HOST}")


def _wait(process: subprocess.Popen[str], address: str) -> None:
    """Return once the server answers."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows this machine's own ports
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            said = (process.stdout.read() if process.stdout else "").strip().splitlines()
            why = [line for line in said if "error" in line.lower()] or said or [f"code {process.returncode}"]
            raise BenchError(f"the MLflow server did not start: {why[-1]}")
        with contextlib.suppress(urllib.error.URLError, OSError), direct.open(f"{address}/health", timeout=5):
            return
        time.sleep(0.2)
    raise BenchError(f"the MLflow server did not answer at {address} within {PATIENCE_SECONDS:.0f} seconds")


def _end(process: subprocess.Popen[str]) -> None:
    """End the server and what it started: the group is its own."""
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        until = time.monotonic() + patience
        while time.monotonic() < until:
            process.poll()
            if not _alive(process.pid):
                return
            time.sleep(0.05)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
