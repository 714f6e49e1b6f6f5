"""Where jobs run.

jobs.py     a job, what it may use, and what every executor does with it
local.py    a fresh process for each on this machine; also what a cluster's node does with the job it is given
ray.py      the same on the nodes of a Ray cluster
node.py     what is done on such a node
share.py    what the command puts at an address, and gets from it, where nodes share no file system
parcels.py  how files travel between them: packed, sent as they change, received
depot.py    an address that fsspec knows
memory.py   who has how much memory, for admission and limits
"""
