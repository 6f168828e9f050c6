"""DCC around a tiny BaS-Net: its parts put together, the memory, devices, schedules, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small, tolerance
from tests.methods import rho
from vssl_jax import methods, parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import bas_net as bas_losses
from vssl_jax.losses import dcc as parts
from vssl_jax.methods import base
from vssl_jax.methods.dcc import inference, pseudo_labels
from vssl_jax.methods.dcc import method as method_lib
from vssl_jax.models.bas_net import BASE, SUPPRESSED, Activations, BasNet, top_mean
from vssl_jax.ops import step_keys
from vssl_jax.training import optim
from vssl_jax.training import step as step_lib

N, T, D, C, V = 8, 20, 6, 3, 16
TINY = {
  "dcc.hidden": 8,
  "dcc.filter": 4,
  "dcc.dim": 4,
  "dcc.clusters": 4,
  "dcc.regions": 2,
  "dcc.classes": C,
  "dcc.videos": V,
  "dcc.labels": 2,
  "dcc.width": D,
  "data.frames": T,
  "batch_size": N,
  "steps": 10,
  "dcc.cluster_iterations": 3,
  "dcc.warmup": 0.0,
  "dcc.temperature": 0.1,
  "dcc.cluster_on": "embedding",
}


def config(variant="demo", **values):
  c = small.load("dcc.py", variant)
  beta = {} if "as_reviewed" in variant else {"dcc.beta": (0.1, 1.0)}
  c.update_from_flattened_dict({**TINY, **beta, **values})
  return c.lock()


@functools.cache
def videos():
  rng = np.random.default_rng(0)
  labels = np.zeros((V, C), np.float32)
  labels[np.arange(V), np.arange(V) % C] = 1
  labels[::5, 0] = 1
  lengths = rng.integers(T // 2, T + 1, V)
  mask = np.arange(T) < lengths[:, None]
  x = rng.normal(size=(V, T, D)).astype(np.float32) * mask[..., None]
  return {"features": x, "mask": mask, "labels": labels, "video": np.arange(V)}


def batch(of=range(N)):
  return {k: x[list(of)] for k, x in videos().items()}


def start(c, devices=1):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  method = methods.load("dcc").build(c, mesh)
  params, state = small.init(method)
  params = parallel.put_replicated(mesh, params)
  return method, mesh, params, parallel.put(mesh, state, method.state_spec)


_compiled = {}


def gradients(c, devices=1, of=range(N), state=None):
  """((loss, (state, metrics)), gradients) on one batch, at step 5."""
  run, where = fifth_step(c, devices, of, state)
  return jax.device_get(run(*where))


def fifth_step(c, devices=1, of=range(N), state=None):
  """The same as a function, and the parameters and state to call it with."""
  key = c.to_json(), devices
  if key not in _compiled:
    method, mesh, params, first = start(c, devices)
    fn = base.value_and_grad(method, 1)

    def run(params, state, batch):
      rng, keys = step_keys.step_keys(0, jnp.int32(0), N)
      return fn(params, state, {**batch, "key": keys}, rng, jnp.int32(5))

    _compiled[key] = rho.hasty(run), method, mesh, params, first
  run, method, mesh, params, first = _compiled[key]
  state = first if state is None else parallel.put(mesh, state, method.state_spec)
  rows = parallel.put_batch(mesh, batch(of))
  return lambda params, state: run(params, state, rows), (params, state)


def test_loss_is_the_sum_of_its_parts():
  c = config(**{"dcc.denoise": False})
  (loss, (state, metrics)), _ = gradients(c)
  _, _, params, _ = start(c)
  _, keys = step_keys.step_keys(0, jnp.int32(0), N)
  b = batch()
  out = rho.hasty(BasNet(C, 8, 4, 4, 0.7).apply)({"params": params}, b["features"], b["mask"], keys)
  pair = rho.hasty(bas_losses.classification)(top_mean(out.cas, b["mask"]), b["labels"])
  np.testing.assert_allclose([metrics["loss_base"], metrics["loss_suppressed"]], pair, rtol=1e-5)
  classes = parts.slots(b["labels"], 2)
  pseudo = parts.pseudo_labels(parts.at_slots(out.clean[SUPPRESSED], classes), b["mask"])
  fresh = parts.pool(out.embedding[BASE], pseudo, jnp.ones(pseudo.shape), classes, b["mask"], 2)
  contrast = rho.hasty(functools.partial(parts.contrast, temperature=0.1))
  dcc, _ = contrast(fresh, parts.empty(V, 2, 2, 4), jnp.arange(N))
  np.testing.assert_allclose(metrics["loss_dcc"], dcc, rtol=1e-4)
  weight = 0.1 + 0.9 * 5 / 9
  np.testing.assert_allclose(metrics["beta"], weight, rtol=1e-5)
  want = sum(pair) + 1e-4 * bas_losses.sparsity(out.attention) + weight * dcc
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(state.bank.action[:N], fresh.action, rtol=1e-3, atol=1e-4)
  assert metrics["bank_filled"] == 0.5


@pytest.mark.slow
def test_denoising_lowers_trust_and_changes_the_gradient():
  (_, (_, with_it)), grads = gradients(config())
  (_, (_, without)), plain = gradients(config(**{"dcc.denoise": False}))
  assert with_it["confidence"] < without["confidence"] == 1
  assert with_it["confidence"] > 0.5  # the larger part of a cluster agrees with itself
  assert with_it["pseudo_share"] == without["pseudo_share"]
  gap = np.abs(grads["projection"]["kernel"] - plain["projection"]["kernel"]).max()
  assert gap > 1e-4


@pytest.mark.slow
def test_an_epoch_fills_the_memory_and_other_videos_entries_matter():
  c = config()
  (_, (state, _)), _ = gradients(c, of=range(N, V))
  (_, (state, metrics)), _ = gradients(c, state=state)
  assert metrics["bank_filled"] == 1
  assert np.all(state.bank.classes[:, 0] >= 0)
  np.testing.assert_array_equal(state.bank.classes, parts.slots(videos()["labels"], 2))
  assert np.all(state.bank.has_action.any((1, 2)))
  (loss, _), grads = gradients(c, state=state)
  other = state.replace(bank=jax.tree.map(np.array, state.bank))
  other.bank.action[N + 1] *= -1
  (changed, _), changed_grads = gradients(c, state=other)
  assert abs(loss - changed) > 1e-4
  kernel = lambda g: g["projection"]["kernel"]
  assert np.abs(kernel(grads) - kernel(changed_grads)).max() > 1e-5
  # In a narrower scope they do not.
  for scope in ("video", "batch"):
    narrow = config(**{"dcc.contrast": scope})
    (a, _), _ = gradients(narrow)
    assert start(narrow)[3].bank.classes.shape == (1, 2)
    assert a > 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["demo", "demo,dataset_clusters"])
def test_one_device_equals_eight(variant):
  c = config(variant)
  (_, (state, _)), _ = gradients(c, of=range(N, V))
  state = state.replace(
    centers=np.random.default_rng(0).normal(size=state.centers.shape).astype(np.float32),
    shares=np.random.default_rng(1).random(state.shares.shape).astype(np.float32),
  )
  run, where = fifth_step(c, state=state)
  want, rounding = tolerance.value_and_rounding(run, *where)
  tolerance.close(gradients(c, devices=8, state=state), want, rounding)
  _, _, _, placed = start(c, devices=8)
  assert placed.bank.action.addressable_shards[0].data.shape == (V // 8, 2, 2, 4)
  _, _, _, whole = start(config(**{"dcc.videos": 18}), devices=8)
  assert whole.bank.action.sharding.is_fully_replicated


class Split:
  """The first of the videos as a source."""

  def __init__(self, count=V):
    self.count = count

  def sequence(self, video):
    return videos()["features"][video]

  def eval_example(self, video):
    return {k: x[video] for k, x in videos().items()}

  def eval_batches(self, batch_size):
    for first in range(0, V, batch_size):
      rows = np.arange(first, first + batch_size)
      yield {**batch(rows), "valid": rows < self.count}


@pytest.mark.slow
def test_videos_that_an_epoch_left_out_enter_the_memory_before_the_next():
  assert methods.load("dcc").build(config()).on_epoch_start is None  # batches of 8 divide 16 videos
  c = config(batch_size=6)
  method, _, params, state = start(c)
  _, state = method.on_epoch_start(
    params, state, Split()
  )  # before the first epoch there is nothing
  assert not np.any(np.asarray(state.bank.classes) >= 0)
  fill = rho.hasty(lambda s, b: method.loss(params, s, b, jax.random.key(0), 5)[1][0])
  for first in (0, 6):  # 12 to 15 are left out
    b = batch(range(first, first + 6))
    state = fill(state, {**b, "key": jax.random.split(jax.random.key(1), 6)})
  filled = np.asarray(state.bank.classes[:, 0]) >= 0
  np.testing.assert_array_equal(filled, np.arange(V) < 12)
  np.testing.assert_array_equal(state.visited, filled)
  before = jax.device_get(state.bank)
  _, after = method.on_epoch_start(params, state, Split())
  np.testing.assert_array_equal(after.bank.classes, parts.slots(videos()["labels"], 2))
  assert np.asarray(after.bank.has_action)[12:].any((1, 2)).all()
  np.testing.assert_array_equal(after.bank.action[:12], before.action[:12])
  assert not np.asarray(after.visited).any()
  assert after.epochs == 2
  _, again = method.on_epoch_start(params, state, Split())
  np.testing.assert_array_equal(after.bank.action, again.bank.action)


def test_bas_net_alone_has_no_memory_and_no_gradient_of_the_projection():
  (loss, (state, metrics)), grads = gradients(config("demo,bas_net"))
  assert "loss_dcc" not in metrics
  np.testing.assert_allclose(
    loss,
    metrics["loss_base"] + metrics["loss_suppressed"] + 1e-4 * metrics["loss_sparsity"],
    rtol=1e-5,
  )
  assert np.all(state.bank.classes == -1)
  assert np.all(grads["projection"]["kernel"] == 0)
  (_, (_, same)), _ = gradients(config())
  np.testing.assert_allclose(same["loss_base"], metrics["loss_base"], rtol=1e-6)


def test_weight_of_the_contrast_over_a_run():
  c = config(**{"steps": 101, "dcc.warmup": 0.2})
  at = lambda step: float(method_lib.beta(c, step))
  assert (at(0), at(19)) == (0, 0)
  np.testing.assert_allclose([at(20), at(60), at(100)], [0.1, 0.55, 1.0], rtol=1e-5)
  reviewed = config("demo,as_reviewed", steps=11)
  np.testing.assert_allclose(method_lib.beta(reviewed, 10), 1e4, rtol=1e-6)


def test_clusters_of_the_data_set_may_be_more_than_a_video_has_steps():
  methods.load("dcc").build(config("demo,dataset_clusters", **{"dcc.clusters": T + 1}))
  methods.load("dcc").build(config("demo,bas_net", **{"dcc.clusters": T + 1, "dcc.regions": T + 1}))


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "moves"), [("demo", True), ("demo,bas_net", False)])
def test_the_projection_waits_for_the_contrast(variant, moves):
  c = config(variant, **{"dcc.warmup": 0.3, "optim.weight_decay": 0.1})
  method, mesh, params, state = start(c)
  rate = optim.learning_rate(c.optim, N, 10, 0)
  tx = optim.build(c.optim, rate)
  step = step_lib.make_step(method, tx, rate, seed=0, accumulate=1, mesh=mesh)
  zero = jnp.int32(0)
  at = step_lib.TrainState(zero, zero, params, state, tx.init(params))
  first = jax.device_get(params)
  for k in range(4):
    at, metrics = step(at, parallel.put_batch(mesh, batch()))
    same = jax.tree.map(np.array_equal, first, jax.device_get(at.params))
    assert not any(jax.tree.leaves({**same, "projection": False}))
    assert same["projection"]["kernel"] == (k < 3 or not moves), k
  assert metrics.get("beta", 0) == (np.float32(0.1) if moves else 0)


def test_refresh_clusters_the_data_set_every_so_many_epochs():
  c = config("demo,dataset_clusters", **{"dcc.refresh": 2, "batch_size": N})
  method, _, params, state = start(c)
  assert methods.load("dcc").build(config()).on_epoch_start is None
  _, first = method.on_epoch_start(params, state, Split())
  assert first.centers.shape == (4 * C, 4)  # K a class
  assert np.asarray(first.centers).any()
  assert np.all((np.asarray(first.shares) >= 0) & (np.asarray(first.shares) <= 1))
  # Shares times sizes are the pseudo-labeled snippets of each class: roughly half of its videos'.
  assert np.asarray(first.shares).max() > 0.05
  moved = jax.tree.map(lambda p: 1.1 * p + 0.01, params)
  _, second = method.on_epoch_start(moved, first, Split())
  np.testing.assert_array_equal(second.centers, first.centers)
  _, third = method.on_epoch_start(moved, second, Split())
  assert np.abs(third.centers - first.centers).max() > 1e-4
  assert third.epochs == 3


def test_clusters_of_the_data_set_are_the_same_over_eight_devices():
  c = config("demo,dataset_clusters", batch_size=N)
  found = []
  for devices in (1, 8):
    method, _, params, state = start(c, devices)
    _, state = method.on_epoch_start(
      params, state, Split(13)
    )  # 260 snippets: eight does not divide them
    found.append(jax.device_get((state.centers, state.shares)))
  for one, eight in zip(*found, strict=True):
    np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"dcc.contrast": "all"}, "config.dcc.contrast is 'all': choose one of none, video"),
    ({"dcc.protocol": "ava"}, "config.dcc.protocol is 'ava'"),
    ({"dcc.cluster_on": "trunk"}, "config.dcc.cluster_on is 'trunk': choose one of embedding"),
    ({"dcc.pseudo_of": "cas"}, "config.dcc.pseudo_of is 'cas': choose one of logits, softmax"),
    ({"dcc.threshold_sets": ((0.5, 0.2, 0.1),)}, r"is not \(first, last, step\) with 0 ≤ first"),
    (
      {"dcc.threshold_sets": ((0.0, 0.2, 0.1),), "data.localization.validation": 0.0},
      "thresholds are chosen on held-out videos; hold out",
    ),
    ({"dcc.temperature": 0.0}, "config.dcc.temperature is 0.0: it must be positive"),
    ({"dcc.dropout": 1.0}, r"config.dcc.dropout is 1.0: it must lie in \[0, 1\)"),
    ({"dcc.beta": (1.0,)}, r"config.dcc.beta is \(1.0,\): give two weights"),
    ({"dcc.proposals.smooth": 4}, "smooth must be odd"),
    ({"dcc.proposals.thresholds": (1.2,)}, r"thresholds must be in \[0, 1\)"),
    ({"dcc.proposals.nms": 1.5}, r"nms must lie in \(0, 1\]"),
    ({"dcc.proposals.sigma": -1.0}, "sigma must not be negative"),
    ({"dcc.pseudo": "annotated"}, "set config.data.localization.truth=True"),
    ({"dcc.clusters": T + 1}, "clusters is 21: a video has only config.data.frames = 20 steps"),
    ({"dcc.regions": T + 1}, "regions is 21: a video has only config.data.frames = 20 steps"),
  ],
)
def test_impossible_fields_are_named(values, message):
  with pytest.raises(UserError, match=message):
    methods.load("dcc").build(config(**values))


def test_sizes_come_from_the_data_and_other_data_is_refused():
  c = config(**{k: 0 for k in ("dcc.classes", "dcc.videos", "dcc.labels", "dcc.width")})
  assumed = methods.resolve(c, None).dcc
  assert (assumed.classes, assumed.width) == (20, 2048)

  class Clips:
    label_names, num_videos, steps_per_epoch, fingerprint = ("a",), 3, 1, ""

  with pytest.raises(UserError, match="dcc needs features of untrimmed videos"):
    methods.resolve(c, Clips())


@pytest.mark.parametrize("scope", ["video", "dataset"])
def test_input_features_may_be_what_is_clustered(scope):
  values = {"dcc.cluster_scope": scope, "dcc.cluster_on": "features", "batch_size": N}
  c = config(**values)
  method, _, params, state = start(c)
  assert state.centers.shape[1] == c.dcc.width
  if scope == "dataset":
    _, state = method.on_epoch_start(params, state, Split())
    assert np.asarray(state.centers).any()
  trust = inference.look(c, params, state)(batch())["trust"]
  moved = jax.tree.map(lambda x: x, params)
  moved["projection"] = jax.tree.map(lambda x: -2 * x + 1, params["projection"])
  same = inference.look(c, moved, state)(batch())["trust"]  # whatever the embedding
  np.testing.assert_array_equal(trust, same)


def test_true_pseudo_labels_are_the_annotation_whatever_the_network_says():
  c = config("demo,true_pseudo_labels", **{"dcc.denoise": False})
  method, _, params, state = start(c)
  assert method.example(2)["truth"].shape == (2, T, C)
  truth = np.random.default_rng(1).random((N, T, C)) < 0.3
  given = {**batch(), "truth": truth}
  net = inference.network(c)
  out = net.apply({"params": params}, given["features"], given["mask"])
  classes, pseudo = pseudo_labels.pseudo_labels(c.dcc, out, given, 2)
  for i, (slots, own) in enumerate(zip(np.asarray(classes), np.asarray(pseudo), strict=True)):
    for label, marked in zip(slots, own.T, strict=True):
      expected = truth[i, :, label] & given["mask"][i] if label >= 0 else np.zeros(T, bool)
      np.testing.assert_array_equal(marked, expected)
  keyed = {**given, "key": jax.random.split(jax.random.key(1), N)}
  _, (_, metrics) = method.loss(params, state, keyed, jax.random.key(0), 5)
  real = (classes >= 0)[:, None, :] & given["mask"][..., None]
  np.testing.assert_allclose(metrics["pseudo_share"], np.sum(pseudo) / np.sum(real), rtol=1e-6)
  # Where nothing is annotated, as in a look at other videos, they are the suppression branch's.
  plain = pseudo_labels.pseudo_labels(config().dcc, out, batch(), 2)[1]
  np.testing.assert_array_equal(pseudo_labels.pseudo_labels(c.dcc, out, batch(), 2)[1], plain)


def test_pseudo_labels_of_probabilities():
  rng = np.random.default_rng(3)
  cas = rng.normal(size=(2, N, T, C + 1)).astype(np.float32)
  out = Activations(None, None, cas, None, None)
  rows, found = batch(), {}
  for scale, values in {"logits": cas, "softmax": np.exp(np.float64(cas))}.items():
    if scale == "softmax":
      values = values / values.sum(-1, keepdims=True)
    c = config(**{"dcc.pseudo_of": scale}).dcc
    classes, found[scale] = pseudo_labels.pseudo_labels(c, out, rows, 2)
    for v, (x, inside) in enumerate(zip(values[SUPPRESSED], rows["mask"], strict=True)):
      for slot, label in enumerate(np.asarray(classes[v])):
        if label >= 0:
          expected = inside & (x[:, label] > x[inside, label].mean())
          np.testing.assert_array_equal(found[scale][v, :, slot], expected)
  assert np.any(found["logits"] != found["softmax"])


@pytest.mark.parametrize("change", ["", ",no_denoising", ",bas_net", ",dataset_clusters"])
def test_a_look_into_the_network(change):
  c = config("demo" + change, **{"dcc.labels": 1})
  method, _, params, state = start(c)
  if "dataset" in change:
    _, state = method.on_epoch_start(params, state, Split())
  rows = batch(range(4, 12))
  seen = inference.look(c, params, state)(rows)
  assert seen["cas"].shape == (N, T, C)
  assert ("trust" in seen) == (change in ("", ",dataset_clusters"))
  assert ("contrasted embedding" in seen["spaces"]) == (change != ",bas_net")
  # All labels of a video are there, also where training videos have but one each.
  np.testing.assert_array_equal((seen["classes"] >= 0).sum(1), rows["labels"].sum(1))
  assert rows["labels"].sum(1).max() == 2
  if "trust" in seen:
    own = (np.asarray(seen["classes"]) >= 0)[:, None, :] & rows["mask"][..., None]
    trust = np.asarray(seen["trust"])[own]
    assert 0 <= trust.min() < trust.max() <= 1
