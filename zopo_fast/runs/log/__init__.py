"""Log of a run: kinds of entries and their replay, prompts in flight, and examples without an answer."""
