"""Optuna sampler that chooses prompts: placeholder of the layer."""
