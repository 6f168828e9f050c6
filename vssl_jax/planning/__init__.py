"""Plans a run: compiles its step for TPUs or GPUs, without having them, and reads the program."""
