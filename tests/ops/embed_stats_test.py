import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy.spatial.distance import pdist

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import prototype_statistics
from vssl_jax.ops import embed_stats


def views(n=40, d=12, noise=0.3, seed=0):
  """Two views of n videos along d directions of decreasing variance, [n, 2, d]."""
  rng = np.random.default_rng(seed)
  z = rng.standard_normal((n, 1, d)) * np.linspace(1, 0.1, d) + 0.2
  return (z + noise * rng.standard_normal((n, 2, d))).astype(np.float32)


def oracle(z):
  """The definitions, in float64."""
  z = np.asarray(z, np.float64)
  norm = np.linalg.norm(z, axis=-1, keepdims=True)
  u = z / norm
  rows = u.reshape(-1, z.shape[-1])
  sigma = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
  p = sigma / sigma.sum()
  p = p[p > 1e-12]
  apart = [np.sum((u[:, v] - u[:, w]) ** 2, axis=-1) for v in range(z.shape[1]) for w in range(v)]
  return {
    "alignment": np.mean(apart) if apart else None,
    "uniformity": np.mean(
      [np.log(np.mean(np.exp(-2 * pdist(u[:, v], "sqeuclidean")))) for v in range(z.shape[1])]
    ),
    "embedding_std": rows.std(axis=0).mean(),
    "embedding_spread": rows.std(axis=0).mean() * np.sqrt(z.shape[-1]),
    "effective_rank": np.exp(-np.sum(p * np.log(p))),
    "effective_rank_share": np.exp(-np.sum(p * np.log(p))) / min(len(rows) - 1, z.shape[-1]),
    "embedding_norm": norm.mean(),
  }


def assert_matches(got, want, rtol=1e-4):
  assert set(got) == set(want)
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("shape", [(40, 12), (5, 30)])
def test_summary_matches_float64(shape):
  z = views(*shape)
  assert_matches(embed_stats.summary(z), oracle(z))


def test_four_views_and_one():
  z = np.concatenate([views(), views(seed=1)], axis=1)
  np.testing.assert_allclose(embed_stats.alignment(z), oracle(z)["alignment"], rtol=1e-5)
  one = embed_stats.summary(z[:, 0])
  assert "alignment" not in one
  np.testing.assert_allclose(one["uniformity"], oracle(z[:, :1])["uniformity"], rtol=1e-5)


def test_uniformity_in_tiles_and_far_apart():
  x = views(n=23)[:, 0]
  u = x / np.linalg.norm(x, axis=1, keepdims=True)
  for t, block_size in ((2.0, 5), (300.0, 64)):  # exp(−1200) is 0 in any precision
    kernel = -t * pdist(u.astype(np.float64), "sqeuclidean")
    want = kernel.max() + np.log(np.mean(np.exp(kernel - kernel.max())))
    got = embed_stats.uniformity(x, t, block_size)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_even_sphere():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((2000, 8)), jnp.float32)
  stats = embed_stats.summary(x)
  np.testing.assert_allclose(stats["embedding_std"], 8**-0.5, rtol=0.02)
  np.testing.assert_allclose(stats["effective_rank"], 8, rtol=0.01)
  assert embed_stats.diagnose(stats) is None


def test_more_videos_than_the_cap_are_thinned():
  z = views(n=40)
  got = embed_stats.summary(z, max_videos=15)  # every third
  assert_matches(got, oracle(z[::3]))


def test_eight_devices_equal_one():
  z = views()
  mesh = parallel.make_mesh(jax.devices()[:8])
  split = jax.device_put(z, NamedSharding(mesh, PartitionSpec("data")))
  assert_matches(embed_stats.summary(split), oracle(z))


def collapsed(kind):
  z, rng = views(), np.random.default_rng(0)
  along = rng.standard_normal((2, 12))
  return {
    "constant": np.ones_like(z) + 0.01 * z,
    "exactly constant": np.ones_like(z),
    "line": (z[..., :1] * along[0] + 0.01 * z).astype(np.float32),
    "two points": np.where(z[..., :1] > 0, along[0], -along[0]).astype(np.float32),
    "zero": 0 * z,
    "diverged": z * np.where(np.arange(40) == 3, np.inf, 1)[:, None, None],
    "healthy": z,
  }[kind].astype(np.float32)


@pytest.mark.parametrize(
  ("kind", "cause"),
  [
    ("constant", "constant embeddings"),
    ("exactly constant", "constant embeddings"),
    ("line", "dimensional collapse"),
    ("two points", "dimensional collapse"),
    ("zero", "zero embeddings"),
    ("diverged", "not finite"),
    ("healthy", None),
  ],
)
def test_a_provoked_collapse_is_named_in_one_line(kind, cause):
  stats = {name: float(x) for name, x in embed_stats.summary(collapsed(kind)).items()}
  said = embed_stats.diagnose({"loss": 3.0, **stats})
  if cause is None:
    assert said is None
  else:
    assert said.startswith(cause) or cause in said
    assert "\n" not in said


def crowded(kind):
  """Embeddings with enough spread, and their scores; one prototype may attract all."""
  z = views()[:, 0] + (1 if kind == "others lie opposite" else 0)
  z = z / np.linalg.norm(z, axis=1, keepdims=True)
  prototypes = views(n=9, seed=1)[:, 0]
  prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
  if kind == "others lie opposite":
    prototypes[1:] = -z.mean(axis=0) + 0.01 * prototypes[1:]
    prototypes[0] = z.mean(axis=0)
  if kind == "all prototypes equal":
    prototypes[:] = prototypes[0]
  return z, jnp.asarray(z @ prototypes.T)


@pytest.mark.parametrize("kind", ["others lie opposite", "all prototypes equal", "healthy"])
def test_a_provoked_collapse_to_one_prototype_is_named(kind):
  """Told apart from constant embeddings, which come first where both are there."""
  z, scores = crowded(kind)
  row = {**embed_stats.summary(z), **prototype_statistics(scores)}
  said = embed_stats.diagnose(row)
  if kind == "healthy":
    assert said is None
    return
  assert said.startswith("one prototype")
  assert "\n" not in said
  constant = embed_stats.summary(collapsed("constant"))
  assert embed_stats.diagnose({**row, **constant}).startswith("constant embeddings")


def test_rank_of_rounding_is_not_counted():
  """One point but for rounding has rank 0, a line rank 1, in float32."""
  rng = np.random.default_rng(0)
  point = rng.standard_normal(64) + np.zeros((50, 1))
  line = rng.standard_normal(64) * np.sign(rng.standard_normal((50, 1)))
  assert embed_stats.effective_rank(jnp.asarray(point, jnp.float32)) == 0
  np.testing.assert_allclose(embed_stats.effective_rank(jnp.asarray(line, jnp.float32)), 1)


def test_diagnose_judges_only_what_is_there():
  assert embed_stats.diagnose({"loss": 1.0}) is None
  assert embed_stats.diagnose({"effective_rank": 1.2}) is not None
  assert embed_stats.diagnose({"prototype_entropy": 0.05}) is not None
  assert embed_stats.diagnose({"prototype_entropy": 0.2}) is None
  assert "not finite" in embed_stats.diagnose({"prototype_entropy": float("nan")})


@pytest.mark.parametrize(("rows", "width"), [(2, 64), (500, 2), (500, 1), (3, 64)])
def test_few_rows_or_dimensions_are_no_collapse(rows, width):
  """They allow a rank of 2 at most."""
  z = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
  stats = {k: float(v) for k, v in embed_stats.summary(z).items()}
  assert embed_stats.diagnose(stats) is None
  assert 0.75 < stats["effective_rank_share"] <= 1 + 1e-5


def test_bad_input_is_named():
  with pytest.raises(UserError, match="two views"):
    embed_stats.alignment(jnp.ones((3, 1, 4)))
  with pytest.raises(UserError, match="two rows"):
    embed_stats.uniformity(jnp.ones((1, 4)))
