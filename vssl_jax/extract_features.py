"""`python -m vssl_jax.extract_features`: see `vssl_jax.encoder.snippet_features`."""

import sys

from vssl_jax.encoder.snippet_features import main

if __name__ == "__main__":
  sys.exit(main())
