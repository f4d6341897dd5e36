"""Embedding calls: batches that fit the endpoint, and the vectors of its responses."""
