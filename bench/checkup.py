"""`bench doctor SUITE`: what this machine lacks for one suite: data, weights, memory, disk, tracking. Runs nothing."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from bench.doctor import Finding
from bench.errors import BenchError, InputError
from bench.estimate import estimate
from bench.executors.memory import available_bytes
from bench.metrics.weights import ORIGINS, advice, known_file
from bench.prepared import prepare
from bench.suite import Suite, load_suite, resolve

PATIENCE_SECONDS = 5.0


def examine_suite(path: Path, overrides: Iterable[str], out: Path, device: str) -> list[Finding]:
    """Look at everything that the suite needs; what can't be looked at without its data is left out if they are missing."""
    try:
        suite = resolve(load_suite(path, overrides), path)
    except InputError as error:
        return [Finding("suite", False, _one_line(error), "correct the file; bench check shows what it would do")]
    findings = [
        Finding("suite", True, f"{suite.name}, {len(suite.generators)} rows"),
        *_weights(suite),
        _tracking(suite),
    ]
    try:
        prepared = prepare(suite, out, device)
    except BenchError as error:
        return [*findings, Finding("data", False, _one_line(error), "mend the data or what the suite says of them")]
    findings.append(
        Finding("data", True, f"{len(prepared.data):,} images {prepared.data.shape}, {prepared.data.title}")
    )
    try:
        needs = estimate(prepared)
    except InputError as error:
        return [*findings, Finding("families", False, _one_line(error), "change the suite as it says")]
    there = prepared.plan.store.folder.resolve()
    while not there.exists():
        there = there.parent
    free, wanted = shutil.disk_usage(there).free, needs.megabytes * 1e6 + needs.transient
    text = f"{wanted / 1e9:.2f} GB wanted, {free / 1e9:.1f} GB free"
    findings.append(
        Finding("disk for the suite", free > wanted, text, "" if free > wanted else "free some, or use --out")
    )
    if prepared.plan.device == "cpu":
        have = available_bytes()
        text = f"{needs.memory / 1e9:.1f} GB for the largest job, {have / 1e9:.1f} GB available"
        remedy = "" if have > needs.memory else "a smaller batch_size or image_size, or another machine"
        findings.append(Finding("memory for the suite", have > needs.memory, text, remedy))
    return findings


def _weights(suite: Suite) -> list[Finding]:
    findings = []
    for name in suite.evaluation.features:
        if name in ORIGINS:
            found = known_file(name, suite.evaluation.extractor(name).weights)
            text = str(found) if found else "not here: they are downloaded, or the features are left out with a warning"
            findings.append(Finding(f"{name} weights", found is not None, text, "" if found else advice(name)))
    return findings


def _tracking(suite: Suite) -> Finding:
    uri = suite.tracking.uri if suite.tracking.enabled else None
    if not suite.tracking.enabled or uri is None or urlsplit(uri).scheme not in ("http", "https"):
        return Finding("tracking", True, "off" if not suite.tracking.enabled else uri or "a file beside the results")
    parts = urlsplit(uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    shown = f"{parts.scheme}://{parts.hostname}:{port}"  # the address may hold a password
    try:
        socket.create_connection((parts.hostname or "", port), PATIENCE_SECONDS).close()
    except OSError as error:
        remedy = "start the server, correct tracking.uri, or set tracking.enabled to false: no result depends on it"
        return Finding("tracking", False, f"{shown} can't be reached: {error}", remedy)
    return Finding("tracking", True, f"{shown} answers")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
