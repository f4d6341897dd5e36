"""Tasks: examples that prompts are scored on, their files, and the templates of the calls."""
