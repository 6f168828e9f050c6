"""Training, shared by all methods: train step, loop, checkpoints, logs, optimizers."""
