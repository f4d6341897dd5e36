"""Work of a run: its calls, the rounds of writing, and the comparison at the end."""
