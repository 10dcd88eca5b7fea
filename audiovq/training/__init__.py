"""Training: tasks, losses, discriminators, callbacks."""
