"""The command that installs an extra names its packages, or the checkout."""

from importlib import metadata

import pytest

from data_pipelines import optional
from tests import small

REQUIRES = [
  "jax<0.13,>=0.7",
  'colors<3,>=2; sys_platform == "none" and extra == "data"',
  'tensorflow<3; sys_platform != "none" and extra == "data"',
  'clu>=0.0.12; extra == "data"',
  'jax[tpu]>=0.7; extra == "tpu"',
  'dmvr @ git+https://example.org/dmvr.git ; extra == "dmvr"',
  'here; sys_platform != "none"',
]


@pytest.mark.parametrize(
  ("extra", "command"),
  [
    ("data", "pip install 'tensorflow<3' 'clu>=0.0.12'"),
    ("tpu", "pip install 'jax[tpu]>=0.7'"),
    ("dmvr", "pip install 'dmvr@ git+https://example.org/dmvr.git'"),
  ],
)
def test_an_installation_names_the_packages_of_the_extra(monkeypatch, extra, command):
  monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
  assert optional.install(extra).replace("dmvr @", "dmvr@") == command


@pytest.mark.parametrize("known", [None, ["jax>=0.7"]])
def test_a_bare_checkout_is_installed_itself(monkeypatch, known):
  def requires(name):
    if known is None:
      raise metadata.PackageNotFoundError(name)
    return known

  monkeypatch.setattr(metadata, "requires", requires)
  assert optional.install("data") == f"pip install -e '.[data]' in {small.ROOT}"


def test_no_message_asks_an_index_for_this_package():
  for package in ("vssl_jax", "data_pipelines"):
    for path in (small.ROOT / package).rglob("*.py"):
      assert "install 'vssl_jax" not in path.read_text(encoding="utf-8"), path
