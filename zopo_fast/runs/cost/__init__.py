"""Costs: bounds of a run, and tokens per call of each prompt."""
