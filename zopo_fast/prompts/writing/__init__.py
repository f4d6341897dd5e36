"""Writers of new prompts near the best ones, and the guards that their drafts must pass."""
