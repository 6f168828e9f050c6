"""`vssl doctor`: what this installation can do."""
