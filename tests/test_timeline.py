"""Where a run's minutes go: the account of one process, and the table over session and jobs."""

import json
import re
import signal

import pytest
from command_line import bench, make_images, start, wait_for

from bench import spent
from bench.errors import InputError
from bench.spent import Spent
from bench.timeline import table, timeline


def test_each_second_is_counted_for_the_innermost_activity(monkeypatch):
    clock = [10.0]
    monkeypatch.setattr(spent.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(spent.time, "time", lambda: 1000.0)
    account = Spent()
    account.begin(996.0)
    clock[0] += 1
    with account.on("training"):
        clock[0] += 5
        with account.on("validation"):
            clock[0] += 2
        clock[0] += 3
    with pytest.raises(ValueError, match="x"), account.on("sampling"):
        clock[0] += 7
        raise ValueError("x")
    clock[0] += 0.5
    assert account.told() == {
        "start-up": 4.0, "bookkeeping": 1.5, "training": 8.0, "validation": 2.0, "sampling": 7.0,
    }  # fmt: skip


def write(path, events):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_jobs_and_session_are_told_apart(tmp_path):
    """Two jobs overlap from 20 to 30; from 40 to 42 none runs; the second tells nothing, since it was killed."""
    write(
        tmp_path / "session.jsonl",
        [
            {"type": "session", "time": 2.0, "began": 0.0, "workers": 2},
            {"type": "job_end", "time": 30.0, "name": "a", "folder": "runs/a", "started": 10.0},
            {"type": "job_end", "time": 40.0, "name": "b", "folder": "runs/b", "started": 20.0},
            {"type": "spent", "time": 45.0, "seconds": {"start-up": 2.0, "data": 8.0, "jobs": 32.0, "report": 3.0}},
        ],
    )
    earlier = {"type": "spent", "time": 5.0, "seconds": {"training": 99.0}}
    write(tmp_path / "runs/a/events.jsonl", [earlier, {"type": "spent", "time": 29.5, "seconds": {"training": 18.0}}])
    found = timeline(tmp_path)
    session, a, b = found.lines
    assert session.seconds == {"start-up": 2.0, "data": 8.0, "report": 3.0, "idle": 2.0}
    assert a.seconds == {"training": 18.0, "bookkeeping": 2.0}
    assert b.seconds == {"unknown": 20.0}
    assert (found.wall, found.total) == (45.0, 55.0)
    assert found.overhead == pytest.approx(6 / 55)
    lines = table(found)
    assert re.search(r"training .* idle", lines[0])
    assert re.fullmatch(r"share +100\.0% .*32\.7%.*", lines[-2])


def test_earlier_attempts_of_a_job_on_a_cluster_are_lost(tmp_path):
    """Placed at 1, 6 and 14 of 20 seconds; the last attempt tells of 5 of its 6."""
    write(
        tmp_path / "session.jsonl",
        [
            {"type": "session", "time": 0.0, "began": 0.0, "workers": None},
            {"type": "job_end", "time": 20.0, "name": "a", "folder": "runs/a", "started": 1.0},
        ],
    )
    placed = [{"type": "placed", "time": time, "node": "n"} for time in (1.0, 6.0, 14.0)]
    write(tmp_path / "runs/a/events.jsonl", [*placed, {"type": "spent", "time": 19.5, "seconds": {"training": 5.0}}])
    found = timeline(tmp_path)
    assert found.lines[1].seconds == {"training": 5.0, "bookkeeping": 1.0, "lost": 13.0}
    assert found.overhead == pytest.approx(14 / found.total)


def test_a_folder_without_an_account_says_so(tmp_path):
    with pytest.raises(InputError, match="none: no such folder"):
        timeline(tmp_path / "none")
    with pytest.raises(InputError, match="no account of time here"):
        timeline(tmp_path)


SUITE = """
name: timed
data: {source: images, root: images, image_size: [16, 16]}
generators: [{name: vae, hyperparameters: {batch_size: 8, width: 8}}]
budget: {images_seen: 400}
evaluation: {draws: 2, samples_per_draw: 15, few: 10, bootstrap: 20, features: [random]}
threads: 1
"""


@pytest.mark.slow
def test_a_run_is_accounted_for(tmp_path):
    make_images(tmp_path / "images", 60)
    (tmp_path / "suite.yaml").write_text(SUITE)
    bench("run", "suite.yaml", cwd=tmp_path, check=0)
    found = timeline(tmp_path / "results" / "timed")
    names = {line.name: line.seconds for line in found.lines}
    assert set(names) == {"session", "real data", "vae seed 0"}
    assert {"start-up", "training", "validation", "sampling", "extraction", "scoring"} <= set(names["vae seed 0"])
    assert {"start-up", "data", "report"} <= set(names["session"])
    # one worker: nothing is counted twice, and nothing is missing
    assert found.total == pytest.approx(found.wall, rel=0.05)
    text = bench("time", "results/timed", cwd=tmp_path, check=0).stdout
    assert "vae seed 0" in text
    assert "by the clock" in text


@pytest.mark.slow
def test_what_was_interrupted_is_accounted_for_and_trials_are(tmp_path):
    make_images(tmp_path / "images", 60)
    more = "tuning: {trials: 2, images_seen: 200, samples: 20, points: 2}\nprogress: {points: 0}\n"
    (tmp_path / "suite.yaml").write_text(SUITE.replace("images_seen: 400", "images_seen: 200_000") + more)
    folder, log = tmp_path / "results" / "timed", tmp_path / "log.txt"
    process = start("run", "suite.yaml", cwd=tmp_path, log=log)

    def trained_for_a_while() -> bool:
        assert process.poll() is None, log.read_text()
        return any('"fraction"' in path.read_text() for path in folder.glob("runs/vae-*/events.jsonl"))

    wait_for(trained_for_a_while)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    found = timeline(folder)
    lines = {line.name: line.seconds for line in found.lines}
    assert set(lines) == {"session", "real data", "vae tuning", "vae seed 0"}
    assert {"start-up", "training"} <= set(lines["vae tuning"])
    assert lines["vae seed 0"]["training"] > 0
    assert lines["session"]["idle"] < 2, "a job that was interrupted was at work"
    assert found.total == pytest.approx(found.wall, rel=0.05)
