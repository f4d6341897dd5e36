"""Sources of examples: files of each format, folders, and records in memory."""
