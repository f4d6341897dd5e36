"""Pools of candidate prompts: reading, generating, embedding."""
