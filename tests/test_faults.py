"""Faults, injected one by one through the command line: the reason is a row, the others stand, the message says what to do."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from command_line import bench, install_families, make_images, scores, start, wait_for

pytestmark = pytest.mark.slow

SUITE = """
name: faults
data: {source: images, root: images, image_size: [16, 16], subject_pattern: "^(p[0-9]+)"}
split: {fractions: {train: 0.5, validation: 0.25, test: 0.25}}
generators: [GENERATORS]
budget: {images_seen: 4000}
progress: {points: 0}
evaluation: {draws: 2, samples_per_draw: 15, few: 10, bootstrap: 0, features: [random], measures: [frechet_distance]}
tracking: {enabled: false}
threads: 1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images and installed families, shared: each test has a results folder of its own."""
    cwd = tmp_path_factory.mktemp("faults")
    make_images(cwd / "images", 40)
    install_families(cwd / "site")
    return cwd


def write(place: Path, *generators: str, more: str = "", budget: int = 4000) -> str:
    name = f"suite-{abs(hash((generators, more, budget)))}.yaml"
    text = SUITE.replace("GENERATORS", ", ".join(generators)).replace("images_seen: 4000", f"images_seen: {budget}")
    (place / name).write_text(text + more)
    return name


def run(place, *generators, out, check, more="", budget=4000, arguments=(), **environment):
    suite = write(place, *generators, more=more, budget=budget)
    environment = {"PYTHONPATH": str(place / "site"), **environment}
    return bench("run", suite, "--out", out, *arguments, cwd=place, check=check, **environment)


def rows(place, out):
    """Generator -> status and reason, from the machine-readable table."""
    found = {}
    for path in (place / out / "faults" / "runs").glob("*-seed0-*"):
        result = json.loads((path / "result.json").read_text()) if (path / "result.json").exists() else {}
        evaluations = [json.loads(file.read_text()) for file in path.glob("evaluation-*.json")]
        bad = [record for record in [result, *evaluations] if record.get("status") not in (None, "finished")]
        name = path.name.rsplit("-seed", 1)[0]
        found[name] = (bad[0]["status"], bad[0]["reason"]) if bad else (result.get("status"), None)
    return found


FAULTS = {
    "Raises": ("failed", "RuntimeError: on purpose"),
    "Killed": ("failed", "ended by SIGKILL"),
    "NanLoss": ("diverged", "diverged at step 31: the loss 'loss' is nan"),
    "Explodes": ("diverged", "diverged at step 151: the loss 'loss' exploded"),
    "BlownUp": ("diverged", "diverged at step 6: the loss 'loss' exploded"),
    "ConstantAtLast": ("diverged", "constant output"),
    "LeavesQuietly": ("failed", "ended without a word"),
    "Exits": ("failed", "SystemExit: 0"),
    "NanImages": ("diverged", "sample returned values that are not finite"),
    "Constant": ("diverged", "constant output"),
    "WrongShape": ("failed", "sample returned shape (8, 1, 8, 8), expected (8, 1, 16, 16)"),
    "WrongLosses": ("failed", "expected a scalar tensor"),
    "OutOfRange": ("failed", "not in [0, 1]"),
    "NotDeterministic": ("failed", "sample is not deterministic: one seed gave two results"),
}


@pytest.fixture(scope="module")
def faulty(place):
    names = [f"{{name: {name}, hyperparameters: {{batch_size: 8}}}}" for name in FAULTS]
    done = run(place, *names, "Sound", out="faulty", check=1, arguments=("--workers", 2))
    return done, rows(place, "faulty"), place / "faulty" / "faults"


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_family_is_a_row_with_its_reason_and_never_a_number(name, faulty):
    done, found, folder = faulty
    status, reason = FAULTS[name]
    assert found[name][0] == status, found[name]
    assert reason in found[name][1]
    assert f"{name} seed 0: " in done.stdout
    mine = [row for row in scores(folder) if row["generator"] == name]
    assert mine
    assert all(row["status"] == status for row in mine)
    assert all(row["mean"] == "" for row in mine if row["measure"] != "parameters"), "what costs are known stay"
    if status == "diverged":
        assert "diverged at step" in found[name][1]
    assert reason.split(":")[0] in (folder / "table.md").read_text().replace("\\", "")


def test_one_constant_class_is_divergence_too(place):
    """One model per class: each is looked at as a training of its own."""
    run(place, "{name: Constant, unconditional: per_class, hyperparameters: {batch_size: 8}}", out="classes", check=1)
    status, reason = rows(place, "classes")["Constant"]
    assert status == "diverged"
    assert "constant output" in reason


def test_a_family_that_meddles_spoils_nothing_and_leaves_nothing(place):
    more = "limits: {idle_minutes: 0.5}\n"
    done = run(place, "{name: Meddles, hyperparameters: {batch_size: 8}}", "Sound", out="meddling", check=0, more=more)
    assert rows(place, "meddling")["Meddles"] == ("finished", None)
    assert "changed torch's number of threads, default depth of numbers" in done.stdout
    assert not [p for p in psutil.process_iter(["cmdline"]) if "left-by-meddles" in (p.info["cmdline"] or [])]


@pytest.mark.parametrize("name", ["broken", "leaving", "no_class"])
def test_a_package_that_breaks_at_import_is_told_in_one_line(name, place):
    done = run(place, name, "Sound", out=f"import-{name}", check=2)
    assert f"generator '{name}'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("name", "why"), [("Raises", "RuntimeError: on purpose"), ("Exits", "SystemExit: 0")])
def test_check_says_in_one_line_which_family_fails(name, why, place):
    done = bench("check", write(place, "Sound", name), cwd=place, check=2, PYTHONPATH=str(place / "site"))
    assert f"bench: {name}: a few steps end here: {why}\n" == done.stderr


def test_the_sound_family_stands_beside_the_faulty_ones(faulty):
    _, found, folder = faulty
    assert found["Sound"] == ("finished", None)
    assert any(row["generator"] == "Sound" and row["mean"] for row in scores(folder))
    assert "Traceback" not in (folder / "report.html").read_text()


def test_a_hang_is_ended_by_the_time_limit_and_the_next_row_runs(place):
    more = "limits: {minutes: 0.2}\n"
    run(place, "Hangs", "Sound", out="hang", check=1, more=more)
    found = rows(place, "hang")
    assert found["Hangs"][0] == "failed"
    assert "time limit of 0.2 minutes reached while training" in found["Hangs"][1]
    assert found["Sound"] == ("finished", None)


def test_a_hang_without_a_time_limit_is_seen_by_its_idleness(place):
    run(place, "Hangs", "Sound", out="idle", check=1, more="limits: {idle_minutes: 0.1}\n")
    found = rows(place, "idle")
    assert "it hung while training: no word and no processor time" in found["Hangs"][1]
    assert found["Sound"] == ("finished", None)


def test_a_memory_limit_ends_the_job_and_nothing_else(place):
    done = run(place, "Hungry", "Sound", out="hungry", check=1, more="limits: {memory_gb: 1.5}\n")
    found = rows(place, "hungry")
    assert found["Hungry"][0] == "failed"
    assert "memory limit of 1.5 GB reached while training" in found["Hungry"][1]
    assert "memory limit of 1.5 GB" in done.stdout
    assert found["Sound"] == ("finished", None)


def test_a_killed_worker_is_run_again_and_goes_on(place):
    """The row says that it was killed; the same command goes on from its checkpoint to the undisturbed results."""
    marker = place / "once"
    marker.write_text("")
    spec = "{name: KilledWriting, hyperparameters: {batch_size: 8}}"
    more = "checkpoint_minutes: 0.0000001\n"  # after every step, however fast
    run(place, spec, out="killed", check=1, more=more, KILL_ONCE=str(marker))
    assert "SIGKILL" in rows(place, "killed")["KilledWriting"][1]
    run(place, spec, out="killed", check=0, more=more)
    events = next((place / "killed").rglob("KilledWriting-*/events.jsonl")).read_text()
    assert '"type": "resumed", "step": 100' in events
    run(place, spec, out="undisturbed", check=0, more=more)
    assert scores(place / "killed" / "faults") == scores(place / "undisturbed" / "faults")


@pytest.fixture(scope="module")
def finished(place):
    run(place, "Sound", out="finished", check=0)
    return place


def damaged_copy(place, name):
    import shutil

    shutil.copytree(place / "finished", place / name)
    return next((place / name).rglob("Sound-seed0-*"))


@pytest.mark.parametrize("file", ["result.json", "evaluation", "checkpoint.safetensors"])
def test_a_truncated_file_is_named_set_aside_and_done_again(file, finished):
    place, out = finished, f"cut-{file}"
    folder = damaged_copy(place, out)
    path = next(folder.glob("evaluation-*.json")) if file == "evaluation" else folder / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = run(place, "Sound", out=out, check=0)
    assert str(path.relative_to(place)) in done.stdout
    assert "set aside as" in done.stdout
    assert list(folder.glob("*.damaged-1"))
    assert scores(place / out / "faults") == scores(place / "finished" / "faults")


def test_flipped_bits_in_the_weights_are_found_when_they_are_read(finished):
    place, out = finished, "flipped"
    folder = damaged_copy(place, out)
    path = folder / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    next(folder.glob("evaluation-*.json")).unlink()
    done = run(place, "Sound", out=out, check=1)
    assert "its content is not what was written" in done.stdout
    run(place, "Sound", out=out, check=0)
    assert scores(place / out / "faults") == scores(place / "finished" / "faults")


def test_a_corrupt_checkpoint_is_named_and_training_starts_anew(finished):
    place = finished
    marker = place / "again"
    marker.write_text("")
    spec, more = "{name: KilledWriting, hyperparameters: {batch_size: 8}}", "checkpoint_minutes: 0.0001\n"
    run(place, spec, out="corrupt", check=1, more=more, KILL_ONCE=str(marker))
    path = next((place / "corrupt").rglob("unfinished.safetensors"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    done = run(place, spec, out="corrupt", check=0, more=more)
    assert "is damaged (its content is not what was written)" in done.stdout
    assert "training starts anew" in done.stdout
    assert path.with_name("unfinished.safetensors.damaged-1").exists()


def test_everything_else_that_is_damaged_is_named_and_made_again(finished):
    """Features of the real side, real images, samples, curves, tables: one run, and the numbers are the same."""
    place, out = finished, "all-damaged"
    folder = damaged_copy(place, out)
    suite = place / out / "faults"
    features = next(suite.rglob("features.safetensors"))
    content = bytearray(features.read_bytes())
    content[-3] ^= 1
    features.write_bytes(content)
    damaged = [suite / "real.npz", folder / "samples.npz", folder / "losses.csv"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (folder / "samples.png").write_bytes(b"")
    for name in ("results.csv", "table.md", "report.html", "suite.yaml", "split.json", "plan.json", "duplicates.json"):
        (suite / name).write_bytes(b"\xff\x00nothing")
    told = bench("report", suite, cwd=place, check=2).stderr
    assert "plan.json can't be read" in told
    done = run(place, "Sound", out=out, check=0)
    for path in (*damaged, features, folder / "samples.png"):
        assert f"{path.relative_to(place)}: " in done.stdout, path
        assert path.with_name(f"{path.name}.damaged-1").exists()
    assert scores(suite) == scores(place / "finished" / "faults")
    assert (suite / "table.md").read_text().startswith("**")
    again = run(place, "Sound", out=out, check=0).stdout
    assert "set aside" not in again
    assert "started" not in again


def test_half_written_files_go_with_the_next_run(finished):
    place, out = finished, "parts"
    folder = damaged_copy(place, out)
    (folder / ".result.json.abc.part").write_text("{")
    run(place, "Sound", out=out, check=0)
    assert not list((place / out).rglob("*.part"))


def test_the_second_run_says_who_holds_the_folder_or_waits(place):
    suite = write(place, "Sound", budget=400_000)
    first = start("run", suite, "--out", "held", cwd=place, log=place / "held.log", PYTHONPATH=str(place / "site"))
    try:
        wait_for(lambda: list((place / "held").rglob("Sound-*/events.jsonl")))
        second = bench("run", suite, "--out", "held", cwd=place, check=2, PYTHONPATH=str(place / "site"))
        assert f"process {first.pid} on " in second.stderr
        assert "--wait" in second.stderr
        assert second.stderr.count("\n") == 1
        third = start(
            "run", suite, "--out", "held", "--wait", cwd=place, log=place / "third.log", PYTHONPATH=str(place / "site")
        )
        wait_for(lambda: "waiting: another bench run" in (place / "third.log").read_text())
        first.send_signal(signal.SIGKILL)  # the lock goes with its holder
        first.wait()
        wait_for(lambda: "Sound seed 0: started" in (place / "third.log").read_text())
        third.send_signal(signal.SIGTERM)
        assert third.wait(60) == 130
    finally:
        for process in (first, third):
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_checkpoint_and_the_next_run_goes_on(number, place):
    suite, out = write(place, "Sound", budget=60_000), f"signal-{number.name}"
    log = place / f"{out}.log"
    process = start("run", suite, "--out", out, cwd=place, log=log, PYTHONPATH=str(place / "site"))
    wait_for(lambda: any('"progress"' in path.read_text() for path in (place / out).rglob("Sound-*/events.jsonl")))
    process.send_signal(number)
    assert process.wait(60) == 130
    assert "the same command continues" in log.read_text()
    assert "Traceback" not in log.read_text()
    folder = next((place / out).rglob("Sound-seed0-*"))
    assert (folder / "unfinished.safetensors").exists()
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"
    if number == signal.SIGTERM:
        run(place, "Sound", out=out, check=0, budget=60_000)
        assert '"resumed"' in (folder / "events.jsonl").read_text()
        assert not (folder / "unfinished.safetensors").exists()


def test_a_full_disk_loses_nothing_and_says_what_to_do(finished, tmp_path):
    """A file system of its own, small and then full: the finished row stays, the command ends with one message."""
    if os.geteuid():
        pytest.skip("mounting a small file system takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        run(finished, "Sound", out=disk, check=0)
        before = scores(disk / "faults")
        with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 12))
        more = "seeds: [0, 1]\n"
        done = run(finished, "Sound", out=disk, check=None, more=more)
        assert done.returncode in (1, 2), done.stdout + done.stderr
        assert "No space left on device" in done.stderr + done.stdout
        assert "free some space" in done.stderr + done.stdout
        assert scores(disk / "faults") == before
        (disk / "filler").unlink()
        run(finished, "Sound", out=disk, check=0, more=more)
        after = {
            (row["seed"], row["measure"]): row["mean"] for row in scores(disk / "faults") if row["generator"] == "Sound"
        }
        assert {seed for seed, _ in after} == {"0", "1"}
        assert all(after["0", r["measure"]] == r["mean"] for r in before if r["generator"] == "Sound")
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_full_disk_below_the_prepared_data_is_told(place, tmp_path):
    """Pages of a mapped file that find no room are a SIGBUS: room is taken first."""
    if os.geteuid():
        pytest.skip("mounting a small file system takes root")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        done = run(place, "Sound", out="no-cache", check=1, BENCH_CACHE=str(tmp_path))
        assert "No space left on device; free some space there, or set BENCH_CACHE" in done.stderr
        assert not list(tmp_path.iterdir()), "what was begun is removed"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=False)


def test_a_file_size_limit_is_told_as_such(place):
    """The same without root: no file may pass 64 kB, and the weights would."""
    suite = write(place, "{name: vae, hyperparameters: {batch_size: 16}}", budget=160)
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, 64_000)); "
    code = f"{limit}import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += f"sys.argv = ['bench', 'run', {suite!r}, '--out', 'small']; from bench.__main__ import main; main()"
    given = {"cwd": place, "capture_output": True, "text": True}
    environment = {**os.environ, "BENCH_CACHE": str(place / "cache"), "COLUMNS": "160"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, **given)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "can't be written: File too large; raise the limit" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_results_folder_that_becomes_read_only(finished, tmp_path):
    if os.geteuid():
        pytest.skip("mounting a small file system takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        run(finished, "Sound", out=disk, check=0)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
        done = run(finished, "Sound", out=disk, check=2, more="seeds: [0, 1]\n")
        assert "Read-only file system" in done.stderr
        assert "--out" in done.stderr
        assert done.stderr.count("\n") == 1
        assert scores(disk / "faults")
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_clock_that_jumps_back_changes_nothing(finished):
    """What is finished stays finished, and a report made 'in the future' is renewed when its rows change."""
    place, out = finished, "clock"
    folder = damaged_copy(place, out)
    run(place, "Sound", out=out, check=0)
    future = time.time() + 1e6
    for path in (place / out).rglob("*"):
        if path.name in ("report.html", "report.json", "table.md", "results.csv"):
            os.utime(path, (future, future))
    evaluation = next(folder.glob("evaluation-*.json"))
    record = json.loads(evaluation.read_text())
    record["scores"][0]["mean"] = 123.456
    evaluation.write_text(json.dumps(record))
    run(place, "Sound", out=out, check=0)
    assert "123.456" in (place / out / "faults" / "results.csv").read_text()
