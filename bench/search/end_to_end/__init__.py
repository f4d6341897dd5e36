"""End-to-end comparison of prompt optimisers at equal numbers of completions."""
