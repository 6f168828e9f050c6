"""What every method is trained with: step, loop, checkpoints, logs, optimizers."""
