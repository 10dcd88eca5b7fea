"""Training: one loop, tasks, losses, discriminators."""
