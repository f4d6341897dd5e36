"""Runs of optimize(): driver, state, results, reports."""
