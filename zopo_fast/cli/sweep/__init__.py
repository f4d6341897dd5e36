"""Sweeps: many runs of `optimize` by processes of this machine or by the tasks of a Ray cluster."""
