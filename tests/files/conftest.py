import pytest

from vssl_jax import files


@pytest.fixture
def bucket(tmp_path):
  """The address of an empty folder in a bucket that is in this process's memory."""
  pytest.importorskip("upath")
  folder = files.path(f"memory://bucket{tmp_path}")
  yield folder
  files.remove_tree(folder)
