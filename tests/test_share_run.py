"""Suites on nodes that share an address and nothing else: the local results to the last digit, whatever is lost.

The nodes are simulated on this machine (`ray_fixture`), so what keeps them apart is a hook in each of their processes that
refuses every look at the command's results, data and suite, and tells of it. (Not at its folder: Ray has workers import from
there too, and so they look whether there is such a folder.)
"""

import itertools
import json
import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from command_line import bench, make_images, scores, start
from ray_fixture import check_both_losses, jobs_in, simulated
from s3_fixture import BUCKET, s3_server, use_here

from bench.executors.depot import Depot

SUITE = """
name: apart
data: {source: images, root: images, image_size: [16, 16], subject_pattern: "^(p[0-9]+)"}
split: {fractions: {train: 0.5, validation: 0.25, test: 0.25}}
generators:
  - {name: vae, hyperparameters: {batch_size: 8, width: 4, latent_dim: 4}}
  - {name: ddim, hyperparameters: {batch_size: 8, conditional: true, channels: [16, 16], sampling_steps: 5}, tune: false}
budget: {images_seen: 3200}
tuning: {trials: 2, images_seen: 160, samples: 40, points: 2}
progress: {points: 3, samples: 20}
evaluation: {draws: 3, samples_per_draw: 20, few: 12, bootstrap: 20, features: [random]}
checkpoint_minutes: 0.01
threads: 1
tracking: {enabled: false}
resources: {memory_gb: 0.4}
"""
HOOK = '''
"""Refuses this process the command's files."""
import os, sys

FORBIDDEN, TOLD = tuple(os.environ["APART_FORBIDDEN"].split(os.pathsep)), os.environ["APART_TOLD"]
LOOKS = ("open", "os.listdir", "os.scandir", "os.chdir", "os.mkdir", "os.rename", "os.remove", "sqlite3.connect")


def tell(what):
    descriptor = os.open(TOLD, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what}\\n".encode())
    os.close(descriptor)


def refuse(event, arguments):
    if event in LOOKS:
        for path in arguments[:2]:
            if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(FORBIDDEN):
                tell(f"refused {event} {os.fsdecode(path)}")
                raise PermissionError(13, "the command's", os.fsdecode(path))


sys.addaudithook(refuse)
tell("at work " + " ".join(sys.orig_argv))
'''


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The command's folder, that of the nodes, and what their hooks have told."""
    root = tmp_path_factory.mktemp("apart")
    command, nodes = root / "command", root / "nodes"
    (nodes / "site").mkdir(parents=True)
    (nodes / "site" / "sitecustomize.py").write_text(HOOK)
    make_images(command / "images", 80)
    (command / "suite.yaml").write_text(SUITE)
    return command, nodes, nodes / "told.txt"


@pytest.fixture(scope="module")
def address(places):
    """An address to share, and what the environment of whoever uses it must say."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'medgenbench[ray]'")
    if find_spec("s3fs") is None or find_spec("moto") is None:
        yield str(places[1] / "share"), {}
        return
    with s3_server(places[1]) as told, pytest.MonkeyPatch.context() as patch:
        use_here(told, patch)
        yield f"s3://{BUCKET}/bench", told


@pytest.fixture(scope="module")
def cluster(places, address):
    command, nodes, told = places
    own = ("out", "cache", "images", "suite.yaml", "local-out")
    always = {"APART_FORBIDDEN": os.pathsep.join(str(command / name) for name in own), "APART_TOLD": str(told)}
    always |= {**address[1], "PYTHONPATH": str(nodes / "site")}
    each = ({**always, "BENCH_CACHE": str(nodes / f"cache-{number}")} for number in itertools.count())
    with simulated(2, each) as found:
        yield found


@pytest.fixture(scope="module")
def local(places, address):
    bench("run", "suite.yaml", "--out", "local-out", cwd=places[0], check=0)
    return places[0] / "local-out" / "apart"


def arrived(folder: Path, nodes: Path, process) -> tuple[str, psutil.Process]:
    """Wait for a training from which a checkpoint comes to the command; return its row and process."""
    began, until = time.time(), time.monotonic() + 400
    while time.monotonic() < until and process.poll() is None:
        for job in jobs_in(nodes):
            try:
                run = Path(job.cmdline()[-1]).parent.name
            except (psutil.Error, IndexError):
                continue
            checkpoint = folder / "runs" / run / "unfinished.safetensors"
            if checkpoint.exists() and checkpoint.stat().st_mtime > began:
                return run.rsplit("-seed", 1)[0], job
        time.sleep(0.02)
    raise AssertionError("no checkpoint has come")


def study(folder: Path) -> list:
    (path,) = folder.glob("tuning/*/study.json")
    record = json.loads(path.read_text())
    assert record["status"] == "finished"
    return [[trial[key] for key in ("number", "state", "parameters", "values")] for trial in record["trials"]]


def names(folder: Path) -> set[str]:
    """The files of a run, but for what tells of where it ran."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(("study.lock", "/.lock"))}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what Ray's own classes for tests leave open
def test_the_results_are_the_local_ones_whatever_is_lost_on_the_way(places, address, cluster, local):
    command, nodes, told = places
    log, folder = command / "log.txt", command / "out" / "apart"
    url, environment = address
    share = ("--executor", "ray", "--address", cluster.address, "--share", url)
    on_ray = ("run", "suite.yaml", "--out", "out", *share)

    checked = bench("check", "suite.yaml", *share, cwd=command, check=0, **environment)
    assert "on the cluster: 2 jobs at once on 2 nodes" in checked.stdout

    # interrupted: the checkpoint comes to the command before it ends
    process = start(*on_ray, cwd=command, log=log, **environment)
    first, _ = arrived(folder, nodes, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130, log.read_text()
    assert list(folder.glob(f"runs/{first}-*/unfinished.safetensors"))
    assert not jobs_in(nodes)

    # the same command goes on; a node dies under a training, and then a training's process
    process = start(*on_ray, cwd=command, log=log, **environment)
    under, victim = arrived(folder, nodes, process)
    cluster.kill_under(victim)
    cluster.add()
    other, victim = arrived(folder, nodes, process)
    victim.kill()
    assert process.wait(300) == 0, log.read_text()

    check_both_losses(log.read_text(), folder, under, other)
    assert scores(folder) == scores(local)
    assert len(scores(folder)) > 30
    assert study(folder) == study(local)
    assert (folder / "plan.json").read_bytes() == (local / "plan.json").read_bytes()
    assert names(folder) == names(local)
    for path in folder.glob("runs/*/job.json"):
        assert json.loads(path.read_text())["results"] == str(folder)

    seen = told.read_text().splitlines()
    assert [line for line in seen if "bench.run" in line], "the hook was there"
    assert not [line for line in seen if line.startswith("refused")], "nothing of the command's was asked for"
    depot = Depot(url)
    assert depot.names("") <= {"data", "runs"}
    assert depot.names("runs") == set(), "nothing but data stays"
    again = bench(*on_ray, cwd=command, check=0, **environment)
    assert "already finished, not computed again" in again.stdout


def test_a_share_is_for_ray(tmp_path):
    done = bench("run", "smoke", "--share", "s3://bucket/x", cwd=tmp_path, check=2)
    assert "add --executor ray" in done.stderr


def test_an_address_that_cannot_be_written_is_one_line_before_anything_starts(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'medgenbench[ray]'")
    (tmp_path / "file").touch()
    for command in ("run", "check"):
        given = (command, "smoke", "--executor", "ray", "--share", "file/share")
        done = bench(*given, cwd=tmp_path, check=2)
        assert "file/share: can't be written: Not a directory" in done.stderr
        assert not (tmp_path / "results").exists()
