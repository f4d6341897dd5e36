"""Growth of the pool during a run: when to write, what to screen out, and what each writer has earned."""
