"""Whether the probes can run is told in one line that others end."""

import jax
import pytest

from tests import small
from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.evaluation import splits


@pytest.mark.parametrize("told", ["no records of split 'test'", "no records of split 'test'."])
def test_what_is_missing_has_no_full_stop_of_its_own(monkeypatch, told):
  def fails(config):
    raise UserError(told)

  monkeypatch.setattr(splits, "splits", fails)
  config = small.load("cvrl.py", "demo")
  mesh = parallel.make_mesh(jax.devices()[:1])
  assert splits.missing(config, mesh) == "no records of split 'test'"
