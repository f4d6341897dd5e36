"""Benchmarks, installed as zopo_fast.bench; `zopo-fast bench` runs those in micro/."""
