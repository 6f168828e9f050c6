"""`python -m data_pipelines.untrimmed --output=DIR`: see `data_pipelines.untrimmed.simulated`."""

from data_pipelines.untrimmed.simulated import main

if __name__ == "__main__":
  main()
