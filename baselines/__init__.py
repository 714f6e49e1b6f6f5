"""The generative families that come with medgenbench, one readable file per method.

A family holds its method and nothing else: hyper-parameters, losses, sampling. It imports `bench.model` for what it must
provide and `baselines.networks` for what families share; it does not print, save, time or choose a device. The harness
finds the families by the entry points of group `bench.generators`, never by importing this package.
"""
