"""Chat and embedding models, and what their calls cost."""
