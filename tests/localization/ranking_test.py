"""The order of equal values, against NumPy's own quicksort without vector instructions."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from vssl_jax.localization import ranking

# NumPy's names of the instructions whose sorts are others; those it does not know are ignored.
PLAIN = "AVX2 FMA3 X86_V3 X86_V4 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL "
PLAIN += "AVX512_SPR"
CODE = """
import json, sys, numpy as np
print(json.dumps([np.argsort(np.array(x))[::-1].tolist() for x in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def cases():
  rng = np.random.default_rng(0)
  sizes = (1, 2, 16, 17, 18, 19, 20, 33, 100, 1000, 5000)
  made = [rng.integers(0, most, n) / 8 for n in sizes for most in (1, 2, 7, n) for _ in range(3)]
  made += [np.sort(x) for x in made[-12:]] + [np.sort(x)[::-1] for x in made[-12:]]
  return [x.tolist() for x in made]


def test_equals_numpys_quicksort(cases):
  done = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", CODE],
    input=json.dumps(cases),
    env={**os.environ, "NPY_DISABLE_CPU_FEATURES": PLAIN},
    capture_output=True,
    text=True,
    check=True,
  )
  stable = 0
  for values, order in zip(cases, json.loads(done.stdout), strict=True):
    assert ranking.descending(values).tolist() == order
    stable += np.argsort(values, kind="stable")[::-1].tolist() == order
  assert stable < len(cases) / 2  # a stable sort is no substitute


def test_values_without_equals_and_those_that_do_not_count():
  values = np.random.default_rng(1).permutation(500) / 500
  np.testing.assert_array_equal(values[ranking.descending(values)], np.sort(values)[::-1])
  values[:250] = 0.0
  np.testing.assert_array_equal(
    ranking.descending(values, least=0.1), np.argsort(values, kind="stable")[::-1]
  )
  assert ranking.descending([]).shape == (0,)
