"""Studies on disk: one SQLite file each."""
