"""Jobs on a Ray cluster: the local results to the last digit, whatever nodes and processes are lost on the way.

The cluster is real and of several nodes, all on this machine (`ray.cluster_utils`): a raylet each, with workers of its own.
"""

import json
import os
import re
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from command_line import bench, make_images, scores, start
from ray_fixture import check_both_losses, first_at_work, jobs_in, simulated, told

from bench.data.dataset import claimed, sweep
from bench.errors import BenchError, InputError
from bench.executors.jobs import Claim, Job
from bench.executors.node import at_home, home, work
from bench.executors.ray import OWN_NAMES, OWN_ROOT, Cluster, _Placed
from bench.store import Events, Tail

SUITE = """
name: spread
data: {source: images, root: images, image_size: [16, 16], subject_pattern: "^(p[0-9]+)"}
split: {fractions: {train: 0.5, validation: 0.25, test: 0.25}}
generators:
  - {name: vae, hyperparameters: {batch_size: 8, width: 4, latent_dim: 4}}
  - {name: dcgan, hyperparameters: {batch_size: 8, conditional: true, width: 4}}
  - {name: ddim, hyperparameters: {batch_size: 8, conditional: true, channels: [16, 16], sampling_steps: 5}}
budget: {images_seen: 3200}
progress: {points: 3, samples: 20}
evaluation: {draws: 3, samples_per_draw: 20, few: 12, bootstrap: 20, features: [random]}
checkpoint_minutes: 0.002
threads: 1
tracking: {enabled: false}
resources: {memory_gb: 0.4}
"""
SETTINGS = [
    part
    for setting in ("threads=1", "checkpoint_minutes=0.002", "resources.memory_gb=0.4", "tracking.enabled=false")
    for part in ("--set", setting)
]
"""Of the smoke suite here: a node has room for one job, which leaves a checkpoint at every step or two."""


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="needs Ray: pip install 'medgenbench[ray]'")
    with simulated(2) as nodes:
        yield nodes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what Ray's own classes for tests leave open
def test_the_results_are_the_local_ones_whatever_is_lost_on_the_way(cluster, tmp_path):
    log, out, local = tmp_path / "log.txt", tmp_path / "on-ray", tmp_path / "local"
    here = ("run", "smoke", *SETTINGS, "--out")
    on_ray = (*here, out, "--executor", "ray", "--address", cluster.address)

    # interrupted: every job leaves a checkpoint, nothing stays behind
    process = start(*on_ray, cwd=tmp_path, log=log)
    first, _ = first_at_work(out, process)
    process.send_signal(signal.SIGTERM)  # which Ray would take for itself
    assert process.wait(60) == 130, log.read_text()
    assert list(out.glob(f"smoke/runs/{first}-*/unfinished.safetensors"))
    assert not jobs_in(tmp_path)

    # the same command goes on; then a node dies, and then another training's process
    process = start(*on_ray, cwd=tmp_path, log=log)
    under, victim = first_at_work(out, process)
    cluster.kill_under(victim)
    _, alive = psutil.wait_procs([victim], timeout=20)
    assert not alive, "the job outlived its node"
    other, victim = first_at_work(out, process, other_than=under)
    victim.kill()
    cluster.add()
    assert process.wait(300) == 0, log.read_text()

    check_both_losses(log.read_text(), out / "smoke", under, other)
    assert len(told(out / "smoke", first, "resumed")) >= 1
    assert not list(out.rglob("*.part"))
    assert not list(out.rglob("unfinished.safetensors"))
    assert not jobs_in(tmp_path)

    # and the local executor computes the same, under the same ids
    bench(*here, local, cwd=tmp_path, check=0)
    assert scores(out / "smoke") == scores(local / "smoke")
    assert len(scores(out / "smoke")) > 50
    plans = [json.loads((folder / "smoke" / "plan.json").read_text()) for folder in (out, local)]
    assert plans[0] == plans[1]
    again = bench(*on_ray, cwd=tmp_path, check=0)
    assert "already finished, not computed again" in again.stdout


TUNED = """
tuning: {trials: 3, images_seen: 800, samples: 20, points: 2}
"""


def trial_at_work(out: Path, command) -> tuple[str, psutil.Process]:
    """Wait for a trial that was taken and is being trained; return its job's folder and process."""
    until = time.monotonic() + 400
    while time.monotonic() < until and command.poll() is None:
        for process in jobs_in(out):
            try:
                folder = Path(process.cmdline()[-1]).parent
            except psutil.Error:
                continue
            events = folder / "events.jsonl"
            if "tuning" in folder.parts and events.exists() and '"trial"' in events.read_text():
                return folder.parts[-3], process
        time.sleep(0.02)
    raise AssertionError("no trial has begun")


def trials(folder: Path) -> dict[str, tuple]:
    """Study -> everything of it that isn't time."""
    found = {}
    for path in folder.glob("tuning/*/study.json"):
        record = json.loads(path.read_text())
        names = ("number", "state", "parameters", "values", "looks")
        told = [{name: trial[name] for name in names} for trial in record["trials"]]
        found[record["study"]] = (record["status"], told, record["best"])
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_tuned_suite_loses_a_node_within_a_trial_and_ends_as_a_local_one(cluster, tmp_path):
    make_images(tmp_path / "images", 80)
    (tmp_path / "suite.yaml").write_text(re.sub(r"  - \{name: (vae|dcgan).*\n", "", SUITE) + TUNED)
    log, out = tmp_path / "log.txt", tmp_path / "spread-out"
    process = start(
        "run", "suite.yaml", "--out", out, "--executor", "ray", "--address", cluster.address, cwd=tmp_path, log=log
    )
    study, victim = trial_at_work(out, process)
    cluster.kill_under(victim)
    cluster.add()
    assert process.wait(300) == 0, log.read_text()

    said = log.read_text()
    assert "Traceback" not in said
    assert "of 3: lost: its node or its worker is gone" in said
    row = study.rsplit("-", 1)[0]
    begun = [event["number"] for event in told(out / "spread", row, "trial", "tuning/{}-*/jobs/*")]
    assert len(begun) == 4, f"of three trials one was begun twice: {begun}"
    assert set(begun) == {0, 1, 2}
    assert not jobs_in(tmp_path)

    bench("run", "suite.yaml", "--out", "local-out", cwd=tmp_path, check=0)
    assert trials(out / "spread") == trials(tmp_path / "local-out" / "spread")
    assert [len(study) for _, study, _ in trials(out / "spread").values()] == [3]
    assert scores(out / "spread") == scores(tmp_path / "local-out" / "spread")
    plans = [json.loads((folder / "spread" / "plan.json").read_text()) for folder in (out, tmp_path / "local-out")]
    assert plans[0] == plans[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_check_counts_the_nodes_and_too_large_a_job_is_one_line(cluster, tmp_path):
    make_images(tmp_path / "images", 80)
    (tmp_path / "suite.yaml").write_text(SUITE)
    on_ray = ("suite.yaml", "--executor", "ray", "--address", cluster.address)
    checked = bench("check", *on_ray, cwd=tmp_path, check=0)
    assert "on the cluster: 2 jobs at once on 2 nodes" in checked.stdout
    large = bench("run", *on_ray, "--set", "resources.cpus=64", cwd=tmp_path, check=2)
    said = (large.stdout + large.stderr).strip()
    assert "a job asks for 64 CPUs, 0.4 GB of memory, and no node has that" in said
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").rglob("job.json"))


# --- without a cluster --------------------------------------------------------------------------------------------------


def test_ray_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'medgenbench\[ray\]'"), Cluster(None):
        pass


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: Connection refused"),
        ("somewhere", "write it as host:port"),
        ("ray://head:10001", "give the head's own address"),
    ],
)
def test_an_address_without_a_cluster_is_one_line(address, said):
    pytest.importorskip("ray", reason="needs Ray: pip install 'medgenbench[ray]'")
    with pytest.raises(InputError, match=said) as error, Cluster(address):
        pass
    assert len(str(error.value).splitlines()) == 1


def test_an_address_from_the_environment_is_named_as_such(monkeypatch):
    pytest.importorskip("ray", reason="needs Ray: pip install 'medgenbench[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    with pytest.raises(InputError, match=r"^RAY_ADDRESS=somewhere: write it as host:port"), Cluster(None):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert Cluster(None).address is None, "Ray's word for one that is started here"


def test_what_killed_commands_left_of_their_clusters_goes():
    left, at_work, young = (Path(tempfile.mkdtemp(prefix="bench-ray-", dir="/tmp")) for _ in range(3))
    (left / "session").mkdir()
    for folder in (left, at_work):
        os.utime(folder, (0, 0))
    with claimed(at_work, must=True):
        sweep(OWN_ROOT, OWN_NAMES)
    assert not left.exists()
    at_work.rmdir()
    young.rmdir()


def test_an_address_is_for_ray(tmp_path):
    done = bench("run", "smoke", "--address", "head:6379", cwd=tmp_path, check=2)
    assert "add --executor ray" in done.stderr


def test_a_node_that_is_not_like_the_command_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = home()
    assert at_home(here, max, 1, 2) == 2
    with pytest.raises(BenchError, match=r"the node \S+ has medgenbench \S+, the command 99.0"):
        at_home((here[0], "99.0"), max, 1, 2)
    with pytest.raises(BenchError, match=r"does not see /nowhere/at/all \(No such file.*that all nodes share"):
        at_home(("/nowhere/at/all", here[1]), max, 1, 2)
    job = Job("x", tmp_path, {"results": str(tmp_path), "data": "/nowhere/data"}, 1)
    with pytest.raises(BenchError, match=r"does not see /nowhere/data \(no such folder\).*BENCH_CACHE"):
        work(job)


class Laid(Cluster):
    """A cluster of these nodes, on paper."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        super().__init__("head:6379")
        self._laid = list(nodes)

    def nodes(self):
        return self._laid


def test_jobs_at_once_are_counted_by_what_is_scarcest():
    nodes = Laid({"CPU": 8, "GPU": 2, "memory": 64e9}, {"CPU": 4, "memory": 16e9}, {"memory": 1e9})
    assert nodes.slots(Claim(cpus=2)) == 4 + 2
    assert nodes.slots(Claim(cpus=1, memory_bytes=int(8e9))) == 8 + 2
    assert nodes.slots(Claim(cpus=1, gpus=0.5)) == 4
    assert nodes.slots(Claim(cpus=0.1, gpus=0.1)) == 20, "tenths add up"
    assert nodes.slots(Claim(cpus=1), need_bytes=int(32e9)) == 2, "an expected need counts"
    assert nodes.slots(Claim(cpus=1), need_bytes=int(500e9)) == 1, "as far as a node has it"
    assert nodes.device("auto") == "cuda"
    assert Laid({"CPU": 4}).device("auto") == "cpu"
    with pytest.raises(InputError, match=r"a job asks for 16 CPUs, and no node has that \(.*4 CPUs, 16 GB of memory"):
        nodes.slots(Claim(cpus=16))
    with pytest.raises(InputError, match="a job asks for 1 CPUs, 1 GPUs, and no node has that"):
        Laid({"CPU": 4}).slots(Claim(gpus=1))
    with pytest.raises(InputError, match="a job asks for 1 CPUs, 1 GPUs, and no node has that"):
        Laid({"CPU": 4}).call(max, 1, 2, claim=Claim(gpus=1))
    with pytest.raises(
        InputError, match=r"1 CPUs, 1,000 GB of memory, and no node has that \(4 CPUs, 15.7 GB of memory\)"
    ):
        Laid({"CPU": 4, "memory": 15.7e9}).slots(Claim(memory_bytes=10**12))
    assert Laid({"CPU": 4})._options(Claim(cpus=0.123456), 0)["num_cpus"] == 0.1235, "as fine as Ray takes it"


def test_jobs_of_a_queue_follow_each_other_and_others_do_not_wait(tmp_path):
    jobs = [Job(str(n), tmp_path, {}, 1, queue=queue) for n, queue in enumerate(["a", "a", "b", None, None])]
    placed = [_Placed(replace(jobs[0], name="x"), None, Tail(tmp_path / "none"), 0)]
    nodes = Laid()
    assert [job.name for job in nodes._next(jobs, [], None)] == ["0", "2", "3", "4"]
    assert [job.name for job in nodes._next(jobs, placed, None)] == ["2", "3", "4"]
    assert [job.name for job in nodes._next(jobs, placed, 2)] == ["2"]


def test_losses_count_from_where_a_job_last_got_further(tmp_path):
    emit = Events(tmp_path / "events.jsonl")
    one = _Placed(Job("x", tmp_path, {}, 1), None, Tail(tmp_path / "events.jsonl"), 2)
    emit("placed", node="here")
    emit("phase", phase="training", fraction=0.0)
    assert [event["type"] for event in one.events()] == ["start", "placed", "phase"]
    emit("placed", node="there")
    emit("resumed", step=40, images_seen=320)
    assert [event["type"] for event in one.events()] == ["placed", "resumed"], "it begins once"
    assert one.losses == 0
    one.losses = 1
    emit("resumed", step=40, images_seen=320)
    list(one.events())
    assert one.losses == 1, "no further than before"
    emit.close()
