"""Helpers that know nothing of prompts or models."""
