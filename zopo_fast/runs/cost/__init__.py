"""What a run may cost, and what a prompt costs in use."""
