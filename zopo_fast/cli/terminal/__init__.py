"""Output of the commands on the terminal while they work."""
