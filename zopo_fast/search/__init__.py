"""Ask/tell searches over a pool of embeddings."""
