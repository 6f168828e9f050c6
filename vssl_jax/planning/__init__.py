"""Plans a run for machines that are not here: compiles its step for them and reads the result."""
