"""How a cluster is divided among encoders."""

import pytest

from data_pipelines.videos import workers
from vssl_jax.encoder import ray_share
from vssl_jax.errors import UserError


@pytest.mark.parametrize(
  ("nodes", "share"),
  [
    ([{"CPU": 8.0}, {"CPU": 8.0}], ("", 8, 2)),
    ([{"CPU": 0.0}, {"CPU": 2.0}, {"CPU": 8.0}, {"CPU": 17.0}], ("", 17, 1)),
    ([{"CPU": 16.0}, {"CPU": 16.0, "GPU": 8.0}, {"CPU": 32.0, "GPU": 8.0}], ("GPU", 2, 16)),
    ([{"CPU": 2.0, "GPU": 8.0}], ("GPU", 1, 2)),
    ([{"CPU": 96.0, "TPU": 4.0}, {"CPU": 8.0}], ("TPU", 24, 4)),
  ],
)
def test_how_a_cluster_is_divided(nodes, share):
  assert ray_share.divide(nodes) == share


def test_what_is_asked_of_ray():
  assert ray_share.Share("", 8, 2).options()["num_cpus"] == 8
  gpu = ray_share.Share("GPU", 2, 2).options()
  assert (gpu["num_cpus"], gpu["num_gpus"]) == (2, 1)
  assert ray_share.Share("TPU", 2, 2).options()["resources"] == {"TPU": 1}
  with pytest.raises(UserError, match="has no CPU"):
    ray_share.divide([{"CPU": 0.0}])


def test_the_device_must_be_what_ray_promised():
  assert ray_share.device("") == f"{workers.cores()} CPU cores"
  for kind in ray_share.ACCELERATORS:
    with pytest.raises(UserError, match=f"JAX finds no {kind}, although Ray does"):
      ray_share.device(kind)


def test_several_kinds_of_devices_are_told_once(capsys):
  kinds = ray_share.Kinds()
  for host, kind in (("a", "A100"), ("b", "A100"), ("c", "H100"), ("d", "H100")):
    kinds.add(host, kind)
  assert capsys.readouterr().err.splitlines() == [
    "note: c has H100, a has A100: features of different devices differ in their last bits"
  ]


def test_nodes_that_are_gone_are_not_counted():
  class Ray:
    def nodes():
      alive = {"Alive": True, "Resources": {"CPU": 4.0}}
      return [alive, {"Alive": False, "Resources": {"CPU": 9.0}}, alive]

  assert ray_share.of(Ray) == ("", 4, 2)
