"""Scoring of one prompt: metrics, judge, evaluator, race."""
