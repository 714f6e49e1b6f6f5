"""Data: prepared image sets, their sources and their splits. Knows no model, no training and no suite.

`dataset` holds, stores and caches what a source prepared; `splits` decides who is trained and tested on; one file per
source: `phantom` (embedded, simulated) and `images` (files in folders or a table). A source module imports nothing
heavy before it is used.
"""
