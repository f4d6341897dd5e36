"""Benchmarks of the CUDA engine: python -m zopo_fast.bench.gpu."""
