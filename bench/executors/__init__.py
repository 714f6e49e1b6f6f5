"""Where jobs run.

jobs.py     a job, what it may use, and what every executor does with it
local.py    a fresh process for each on this machine; also what a cluster's node does with the job it is given
ray.py      the same on the nodes of a Ray cluster
memory.py   who has how much memory, for admission and limits
"""
