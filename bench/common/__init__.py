"""Harness, runner, machine and tables that all benchmarks share."""
