"""One PostgreSQL server for Optuna and MLflow while four processes write: nothing lost, nothing doubled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from postgres_fixture import postgres

from bench.database import with_driver
from bench.search import Range, Search, TuningSpec
from bench.tune import Study

__all__ = ["postgres"]

WRITERS = 4
TRIALS = 40
SPACE = {"beta": Range(0.1, 10.0, True, False, 1.0), "latent_dim": Range(8, 64, True, True, 32)}


def make_database(server: str, name: str) -> str:
    """A database of its own for each: both note the version of their tables in a table of the same name."""
    import psycopg2

    connection = psycopg2.connect(server)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    connection.close()
    return f"{server.rpartition('/')[0]}/{name}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # MLflow's and its pool's
def test_four_writers_lose_and_double_nothing(postgres, tmp_path):
    """Results folders of their own, as on four machines, so that no lock of files keeps them apart."""
    from mlflow.tracking import MlflowClient

    studies, mirror = (make_database(postgres, name) for name in ("optuna", "mlflow"))
    client = MlflowClient(with_driver(mirror))
    client.search_experiments()  # makes MLflow's tables, as its server does; of study and experiment there is none yet
    writers = []
    for number in range(WRITERS):
        folder = tmp_path / f"machine{number}" / f"suite{number}"
        spec = TuningSpec(trials=TRIALS, storage=studies, pruning=False)
        search = Search("vae", "shared", folder / "tuning", SPACE, 1000, spec)
        folder.mkdir(parents=True)
        (folder / "search.json").write_text(json.dumps(search.to_json()))
        script = Path(__file__).with_name("many_writers.py")
        command = [sys.executable, str(script), str(folder / "search.json"), str(folder), mirror]
        writers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    told = []
    for writer in writers:
        output, errors = writer.communicate(timeout=300)
        assert writer.returncode == 0, errors
        told.append(json.loads(output.splitlines()[-1]))
    # a store that was not ready may have been told of, but in the end it had everything
    assert not [text for one in told for text in one["complaints"] if "lacks" in text]

    written = {int(number): value for one in told for number, value in one["trials"].items()}
    assert sum(len(one["trials"]) for one in told) == TRIALS, "no trial had two workers"
    assert sorted(written) == list(range(TRIALS))
    trials = Study(search).trials()
    assert [(trial.number, trial.state) for trial in trials] == [(number, "finished") for number in range(TRIALS)]
    assert {trial.number: trial.values[0] for trial in trials} == written
    assert len({tuple(sorted(trial.parameters.items())) for trial in trials}) == TRIALS
    assert sum(len(one["trials"]) > 0 for one in told) >= 2, "several had a share"

    (experiment,) = [one for one in client.search_experiments() if one.name == "medgenbench"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert len(runs) == 3 * WRITERS, "a suite, a family and a training of each"
    count = 0
    for number, one in enumerate(told):
        (run,) = [
            run for run in runs if run.data.tags["suite"] == f"suite{number}" and run.data.tags["level"] == "seed"
        ]
        assert run.info.status == "FINISHED"
        assert set(run.data.metrics) == set(one["metrics"]) | {"frechet_distance/random/all/std"}
        for name, points in one["metrics"].items():
            kept = sorted([point.step, point.value] for point in client.get_metric_history(run.info.run_id, name))
            assert kept == points, (number, name)
            count += len(kept)
    assert count == 80 * TRIALS + 2 * WRITERS
