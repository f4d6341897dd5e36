"""Candidate prompts: pools, generation and embedding."""
