"""Runs, from their config to their result; `jobs.run` starts the job that `config.job` names."""
