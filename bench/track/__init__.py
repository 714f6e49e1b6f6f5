"""MLflow: a mirror of the results for people to browse. The only room that imports it.

    numbers.py   a folder's numbers under the names, steps and times that MLflow shows
    nodes.py     a run: who it is, and what it holds once it is asked for
    records.py   results folder -> the tree of runs; trials.py: those of a search
    mirror.py    sends what of that tree a store has not got; keeps in the folder (mlflow.json) what it has
    live.py      the same from a thread while `bench run` works, and once for `bench sync`
    ui.py        `bench ui`: MLflow's pages on the store, for this machine alone

The tree: suite run > family > seeds and trials. Everything in it is derived from the results folder, so that a store that
was away is filled later by the same code, and a slow or dead one costs the benchmark nothing.
"""

from bench.track.live import Tracker, sync
from bench.track.mirror import default_uri
from bench.track.ui import serve

__all__ = ["Tracker", "default_uri", "serve", "sync"]
