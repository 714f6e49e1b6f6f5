"""An S3 server on this machine (moto) that tests may use as a share."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

BUCKET = "results"


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """What the environment of whoever uses the bucket must say; skips the test where no server can be had."""
    reason = "needs an S3 server: pip install s3fs 'moto[s3]' flask flask-cors"
    pytest.importorskip("s3fs", reason=reason)
    pytest.importorskip("moto", reason=reason)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3_ENDPOINT_URL": url,
    }
    with (folder / "moto.txt").open("wb") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        until = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
                request.add_header("Authorization", "AWS test:test")
                urllib.request.urlopen(request, timeout=5).close()
                break
            except OSError:
                if time.monotonic() > until or server.poll() is not None:
                    raise AssertionError((folder / "moto.txt").read_text()) from None
                time.sleep(0.1)
        yield environment
    finally:
        server.terminate()
        server.wait(20)


def use_here(environment: dict[str, str], patch: pytest.MonkeyPatch) -> None:
    """Have this process use the bucket too."""
    from fsspec.config import conf, set_conf_env

    for name, value in environment.items():
        patch.setenv(name, value)
    patch.setitem(conf, "s3", {})  # removed again with the rest
    set_conf_env(conf)  # it reads the environment when it is imported, which may be long ago
