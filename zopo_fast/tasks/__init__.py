"""Tasks: the examples that prompts are scored on."""
