"""What a run does, from its config to its result; `main` starts the one that `config.job` names."""
