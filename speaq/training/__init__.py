"""Training, from a config to checkpoints."""
