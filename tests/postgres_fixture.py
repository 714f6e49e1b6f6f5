"""A PostgreSQL server for tests that need one: started for each test, on the loopback, gone after it."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest


def server_binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    named = shutil.which("initdb")
    return found[-1].parent if found else Path(named).parent if named else None


@pytest.fixture
def postgres():
    """A PostgreSQL server of its own on the loopback; yields its URL."""
    binaries = server_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    pytest.importorskip("psycopg2", reason="no PostgreSQL driver here: pip install 'medgenbench[postgres]'")
    folder = Path(tempfile.mkdtemp(prefix="bench-postgres-"))  # pytest's own folders are shut to the server's user
    account: dict[str, Any] = {}
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        import pwd

        users = {entry.pw_name: entry for entry in pwd.getpwall()}
        user = users.get("postgres") or users.get("nobody")
        if user is None:
            pytest.skip("PostgreSQL can't run as root, and there is no other user")
        account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        shutil.chown(folder, user.pw_uid, user.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    command = [binaries / "initdb", "-D", data, "-U", "bench", "-A", "trust", "-N"]
    made = subprocess.run(command, capture_output=True, text=True, cwd=folder, **account)
    assert made.returncode == 0, made.stderr
    options = ["-c", "listen_addresses=127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, *options], stdout=log, stderr=log, cwd=folder, **account
        )
    try:
        deadline = time.monotonic() + 60
        ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-d", "postgres"]
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"postgresql://bench@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # fast shutdown
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
