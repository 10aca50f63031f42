"""Training: plan, loop, schedule, checkpoints."""
