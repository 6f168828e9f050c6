"""DCC's parts by hand and against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax.losses import dcc

TRUE = np.ones((1, 8), bool)


def test_pseudo_labels_by_hand():
  #                       mean 2            mean −1           padding counts in neither
  cas = np.float32([[[1, -3], [2, -1], [3, 0], [2, 0], [99, 99]]])
  mask = np.array([[True] * 4 + [False]])
  got = dcc.pseudo_labels(jnp.asarray(cas), jnp.asarray(mask))
  want = [[[0, 0], [0, 0], [1, 1], [0, 1], [0, 0]]]
  np.testing.assert_array_equal(got, np.array(want, bool))


def test_confidence_by_hand():
  """Cluster 0 holds snippets 0 to 3, three of them action; cluster 1 holds 4 to 6; 7 is padding."""
  clusters = np.array([[0, 0, 0, 0, 1, 1, 1, -1]])
  pseudo = np.array([[1, 1, 1, 0, 0, 1, 0, 0]], bool)[..., None]
  share = dcc.shares(clusters, pseudo, 3)
  np.testing.assert_allclose(share[0, :, 0], [3 / 4, 1 / 3, 0], rtol=1e-6)
  got = dcc.confidence(clusters, pseudo, share)[0, :, 0]
  want = [3 / 4, 3 / 4, 3 / 4, 1 / 4, 2 / 3, 1 / 3, 2 / 3, 0]
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_confidence_is_one_on_pure_clusters():
  clusters = np.random.default_rng(0).integers(0, 4, (2, 30))
  pseudo = np.stack([clusters % 2 == 0, clusters == 3, clusters < 9], axis=2)
  got = dcc.confidence(clusters, pseudo, dcc.shares(clusters, pseudo, 4))
  np.testing.assert_array_equal(got, 1)


def test_confidence_against_a_loop():
  rng = np.random.default_rng(1)
  clusters, pseudo = rng.integers(0, 5, (2, 20)), rng.random((2, 20, 3)) < 0.4
  got = np.asarray(dcc.confidence(clusters, pseudo, dcc.shares(clusters, pseudo, 5)))
  for n, t, c in np.ndindex(2, 20, 3):
    together = [s for s in range(20) if clusters[n, s] == clusters[n, t]]
    agree = sum(pseudo[n, s, c] == pseudo[n, t, c] for s in together)
    np.testing.assert_allclose(got[n, t, c], agree / len(together), rtol=1e-6)
  assert got.min() > 0
  assert got.max() <= 1


def test_slots_list_the_classes_of_each_video():
  labels = jnp.float32([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
  np.testing.assert_array_equal(dcc.slots(labels, 2), [[1, 3], [0, -1], [-1, -1]])
  np.testing.assert_array_equal(dcc.slots(labels, 5)[0], [1, 3, -1, -1, -1])


def test_regions_against_a_loop():
  rng = np.random.default_rng(2)
  n, t, d, labels, m = 3, 17, 4, 2, 3
  x, pseudo = rng.normal(size=(n, t, d)).astype(np.float32), rng.random((n, t, labels)) < 0.3
  trust = rng.random((n, t, labels)).astype(np.float32)
  lengths = np.array([17, 10, 2])
  mask = np.arange(t) < lengths[:, None]
  classes = np.array([[0, 2], [1, -1], [0, 1]])
  got = dcc.pool(jnp.asarray(x), pseudo, jnp.asarray(trust), classes, mask, m)
  for v, c, r in np.ndindex(n, labels, m):
    inside = [s for s in range(lengths[v]) if s * m // lengths[v] == r]
    for has, region, sign in (
      (got.has_action, got.action, True),
      (got.has_background, got.background, False),
    ):
      chosen = [s for s in inside if pseudo[v, s, c] == sign]
      assert has[v, c, r] == (bool(chosen) and classes[v, c] >= 0)
      total = sum((np.float64(trust[v, s, c]) * x[v, s] for s in chosen), np.zeros(d))
      want = total / np.linalg.norm(total) if has[v, c, r] else np.zeros(d)
      np.testing.assert_allclose(region[v, c, r], want, rtol=1e-4, atol=1e-5)


def _regions(rng, videos, labels, m, d, classes, holes=0.2):
  def unit(shape):
    x = rng.normal(size=(*shape, d))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

  shape = (videos, labels, m)
  real = (np.asarray(classes) >= 0)[..., None]
  has = [real & (rng.random(shape) > holes) for _ in range(2)]
  return dcc.Regions(unit(shape), unit(shape), *has, np.asarray(classes, np.int32))


def _oracle(fresh, bank, video, tau, scope):
  """The loss with loops: each region of each video once, the batch's own in their fresh state."""
  entries = {}  # video → (action, background, has_action, has_background, classes)
  rows = lambda r, i: [np.asarray(x)[i] for x in jax.tree.leaves(r)]
  names = [f.name for f in dcc.Regions.__dataclass_fields__.values()]
  if scope == "bank":
    entries = {v: dict(zip(names, rows(bank, v), strict=True)) for v in range(len(bank.classes))}
  for i, v in enumerate(video):
    entries[int(v)] = dict(zip(names, rows(fresh, i), strict=True))
  per_video = []
  for v in map(int, video):
    mine, per_class = entries[v], []
    for slot, c in enumerate(mine["classes"]):
      losses = []
      for m in np.flatnonzero(mine["has_action"][slot]):
        r = np.float64(mine["action"][slot, m])
        positive, negative = [], []
        for other, e in entries.items():
          if scope == "video" and other != v:
            continue
          for l2, c2 in enumerate(e["classes"]):
            for m2 in range(e["action"].shape[1]):
              near = np.exp(np.float64(e["action"][l2, m2]) @ r / tau)
              if e["has_action"][l2, m2]:
                if c2 == c and (other, l2, m2) != (v, slot, m):
                  positive.append(near)
                elif c2 != c and other != v:
                  negative.append(near)
              if e["has_background"][l2, m2] and (c2 == c or c not in e["classes"]):
                negative.append(np.exp(np.float64(e["background"][l2, m2]) @ r / tau))
        if positive:
          losses.append(-np.log(sum(positive) / (sum(positive) + sum(negative))))
      if losses:
        per_class.append(np.mean(losses))
    if per_class:
      per_video.append(np.mean(per_class))
  return np.mean(per_video) if per_video else 0.0


@pytest.fixture(scope="module")
def memory():
  rng = np.random.default_rng(3)
  classes = [[0, 2], [1, -1], [0, -1], [0, 1], [2, -1], [-1, -1], [1, 2]]
  bank = _regions(rng, 7, 2, 3, 4, classes)
  video = np.array([3, 0, 4])
  fresh = _regions(rng, 3, 2, 3, 4, [classes[v] for v in video])
  return fresh, bank, video


@pytest.mark.parametrize("scope", dcc.SCOPES)
def test_contrast_against_a_loop(memory, scope):
  fresh, bank, video = memory
  got, metrics = dcc.contrast(fresh, bank, video, temperature=0.3, scope=scope)
  want = _oracle(fresh, bank, video, 0.3, scope)
  assert want > 0.1
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert 0 < metrics["contrast_queries"] <= 1
  assert 0 < metrics["contrast_positive"] < 1


def test_another_videos_entry_changes_loss_and_gradient(memory):
  fresh, bank, video = memory

  def value(action, bank):
    return dcc.contrast(fresh.replace(action=action), bank, video, temperature=0.3)[0]

  fn = jax.jit(jax.value_and_grad(value))
  loss, grad = fn(fresh.action, bank)
  moved = bank.replace(action=_negated(bank.action, 2))
  loss2, grad2 = fn(fresh.action, moved)
  assert abs(loss - loss2) > 1e-3
  assert np.abs(grad - grad2).max() > 1e-3
  # The stale entry of a video of the batch counts nowhere, and an empty one neither.
  for v in (3, 5):
    loss2, grad2 = fn(fresh.action, bank.replace(action=_negated(bank.action, v)))
    np.testing.assert_array_equal(loss, loss2)
    np.testing.assert_array_equal(grad, grad2)


def _negated(x, at):
  x = np.array(x)
  x[at] = -x[at]
  return x


def test_gradient_reaches_the_queries_alone_where_keys_do_not_learn(memory):
  fresh, bank, video = memory

  def grads(keys_learn):
    return jax.grad(
      lambda b: dcc.contrast(
        fresh.replace(background=b), bank, video, temperature=0.3, keys_learn=keys_learn
      )[0]
    )(jnp.asarray(fresh.background))

  assert np.all(np.asarray(grads(False)) == 0)
  assert np.abs(grads(True)).max() > 1e-3


def test_nothing_to_contrast_is_no_loss_and_no_gradient(memory):
  fresh, _, video = memory
  alone = fresh.replace(has_action=np.zeros_like(fresh.has_action))
  empty = dcc.empty(7, 2, 3, 4)
  value, grad = jax.value_and_grad(
    lambda a: dcc.contrast(alone.replace(action=a), empty, video, temperature=0.1)[0]
  )(jnp.asarray(fresh.action))
  assert value == 0
  assert np.all(np.asarray(grad) == 0)


def test_gradient_is_finite_where_regions_coincide_or_cancel():
  x = jnp.zeros((1, 8, 3)).at[:, 4:].set(1.0)
  pseudo = jnp.asarray(np.tile([[True], [False]], (4, 1))[None])
  classes, ones = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 8, 1))

  def value(x):
    fresh = dcc.pool(x, pseudo, ones, classes, TRUE, 4)
    return dcc.contrast(fresh, None, jnp.array([0]), temperature=0.1, scope="batch")[0]

  loss, grad = jax.jit(jax.value_and_grad(value))(x)
  assert np.isfinite(loss)
  assert np.isfinite(grad).all()


def test_memory_is_overwritten_where_the_batch_is(memory):
  fresh, bank, video = memory
  after = dcc.remember(jax.tree.map(jnp.asarray, bank), fresh, video)
  for a, b, f in zip(*map(jax.tree.leaves, (after, bank, fresh)), strict=True):
    np.testing.assert_array_equal(a[video], f)
    rest = np.setdiff1d(np.arange(7), video)
    np.testing.assert_array_equal(a[rest], b[rest])
