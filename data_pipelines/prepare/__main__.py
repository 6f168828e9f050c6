"""`python -m data_pipelines.prepare INPUT OUTPUT`: see `data_pipelines.prepare.prepare`."""

import sys

from data_pipelines.prepare.prepare import main

if __name__ == "__main__":
  sys.exit(main())
