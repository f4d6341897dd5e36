"""Client of OpenAI-compatible endpoints."""
