"""ProViCo around a tiny encoder: its parts, devices, accumulation, monitors, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import small, tolerance
from tests.methods import rho
from vssl_jax import methods
from vssl_jax.errors import UserError
from vssl_jax.losses.provico import provico
from vssl_jax.methods import provico as method_lib
from vssl_jax.ops import embed_stats
from vssl_jax.training import optim

pytestmark = pytest.mark.usefixtures("flat")


def config(variant="demo", **values):
  return rho.config("provico", variant, **{"data.clips": 4, "provico.samples": 3, **values})


@pytest.mark.parametrize("variant", ["demo", "demo,log,softmax"])
def test_objective_is_the_loss_of_what_embed_gives(variant):
  c = config(variant)
  slope, offset, settings = c.provico.slope, c.provico.offset, method_lib.settings(c)
  method, _, params, state = rho.start(c)
  batch, rng = rho.keyed(c)

  def run(params, state, batch):  # one program: compiling is what takes the time
    e, after = method.embed(params, state, batch)
    loss, (_, metrics) = method.objective(params, after, e, batch, rng, 0)
    keys = jax.vmap(lambda k: jax.random.fold_in(k, 4))(batch["key"])
    want = provico(e["mean"], e["log_variance"], keys, slope, offset, settings=settings)
    return e, loss, metrics, want

  e, loss, metrics, (want, terms) = rho.hasty(run)(params, state, batch)
  assert e["mean"].shape == e["log_variance"].shape == (rho.N, 4, 8)
  np.testing.assert_allclose(np.linalg.norm(e["mean"], axis=-1), 1, rtol=1e-5)
  np.testing.assert_allclose(loss, want, rtol=1e-4)
  for name in ("loss_match", "loss_kl", "uncertainty", "positives_per_anchor"):
    np.testing.assert_allclose(metrics[name], terms[name], rtol=1e-4)
  np.testing.assert_allclose([metrics["slope"], metrics["offset"]], [slope, offset], rtol=1e-6)
  np.testing.assert_array_equal(metrics["embeddings"], e["mean"])
  np.testing.assert_allclose(metrics["log_variance_mean"], -np.log(8), rtol=1e-5)


@pytest.mark.slow
def test_one_device_equals_eight():
  c = config("demo,mutual,halves")
  want, rounding = rho.gradients_and_rounding(c)
  tolerance.close(rho.gradients(c, devices=8), want, rounding)
  _, grads = want
  assert set(grads) == {"encoder", "head", "match"}
  for name in ("mean", "log_variance"):
    assert np.abs(grads["head"][name]["kernel"]).max() > 0
  assert np.abs(grads["match"]["slope"]) > 0


@pytest.mark.slow
def test_accumulation_equals_one_pass_with_the_same_statistics():
  k = 2
  order = np.arange(rho.N).reshape(rho.N // k, k).T.reshape(-1)
  whole = config(**{"encoder.bn_groups": k, "head.bn_groups": k})
  (loss, _), grads = rho.gradients(config(accumulate=k))
  method, _, params, state = rho.start(whole)
  batch, rng = rho.keyed(whole)
  permuted = jax.tree.map(lambda x: x[order], batch)
  fn = rho.hasty(methods.base.value_and_grad(method, 1))

  def at_once(params, state):
    (loss, _), grads = fn(params, state, permuted, rng, 0)
    return loss, grads

  tolerance.close((loss, grads), *tolerance.value_and_rounding(at_once, params, state))


def test_monitors_see_the_range_and_both_ends_of_the_clamp():
  x = jnp.float32([[-16, -16, 0], [4, 1, -2]])
  got = method_lib.monitors(x, (-16.0, 4.0))
  want = {"min": -16, "mean": -29 / 6, "max": 4, "at_low": 2 / 6, "at_high": 1 / 6}
  for name, value in want.items():
    np.testing.assert_allclose(got[f"log_variance_{name}"], value, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("change", "values", "cause"),
  [
    ("own,no_kl", {"provico.clamp": (-3.0, 4.0), "provico.offset": 30.0}, "collapsed variance"),
    ("geometric", {"provico.offset": 15.0}, "exploded variance"),
  ],
)
def test_a_provoked_failure_of_the_variance_is_named(change, values, cause):
  """Own pairs alone leave little loss, so σ² falls to its clamp; geometric means ask for noise."""
  c = config(f"demo,{change}", **{"optim.name": "adamw", "optim.lr": 0.05, **values})
  _, rows = rho.steps(c, 60)
  plain = [{k: float(v) for k, v in r.items() if np.ndim(v) == 0} for r in (rows[0], rows[-1])]
  assert embed_stats.diagnose(plain[0]) is None
  said = embed_stats.diagnose(plain[1])
  assert said.startswith(cause), plain[1]
  assert "\n" not in said


def test_evaluation_scores_both_rankings():
  c = config()
  _, _, params, state = rho.start(c)

  class Split:
    num_videos, label_names = 6, ("a", "b")

    def eval_batches(self, batch_size, *, clips, frames, size, **views):
      rng = np.random.default_rng(0)
      yield {
        "clips": rng.integers(0, 256, (6, clips, frames, size, size, 3), np.uint8),
        "label": np.arange(6, dtype=np.int32) % 2,
        "video": np.arange(6),
        "offset": np.zeros((6, clips), np.int32),
      }

  c.data.eval.frames, c.data.eval.size = c.data.frames, c.data.size
  scores = methods.evaluator(c).scores
  got = scores(jax.device_get(params), jax.device_get(state), Split(), Split())["retrieval"]
  assert set(got) == {"mean", "bhattacharyya", "uncertainty"}
  assert got["mean"]["R@1"] == got["bhattacharyya"]["R@1"] == 1  # each finds itself


def test_probes_see_the_backbone():
  method, _, params, state = rho.start(config())
  got = method.encoder(params, state)
  assert got["params"] is params["encoder"]
  assert got["batch_stats"] is state.stats["encoder"]


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"data.clips": 1}, "2 or more"),
    ({"provico.mining": "best"}, "provico.mining is 'best'"),
    ({"provico.threshold": 2.0}, r"\(0, 1\]"),
    ({"provico.slope": 0.0}, "slope is 0"),
    ({"provico.parametrization": "square"}, "value, log"),
    ({"provico.parametrization": "log", "provico.offset": -1.0}, "offset is -1"),
    ({"provico.margin": -1.0}, "config.provico.margin is -1"),
    ({"provico.match": "best"}, "config.provico.match is 'best'"),
    ({"provico.own": "same"}, "draws, halves"),
    ({"provico.statistics": "sync"}, "clip, joint"),
    ({"provico.clamp": (-1.0, 4.0)}, "a range that contains it"),
    ({"provico.samples": 0}, "samples is 0"),
    ({"provico.mining": "absolute", "provico.threshold": -1.0}, "provico.threshold is -1.0"),
    ({"provico.mining": "absolute", "provico.threshold": 0.0}, "a distance above 0"),
    ({"provico.mining": "absolute", "provico.threshold": float("nan")}, "threshold is nan"),
    ({"provico.distance": -1.0}, "config.provico.distance is -1"),
    ({"provico.clamp": (-40.0, 4.0)}, "exact only within a range of 40"),
    ({"head.out_bn": True}, "set it to False"),
  ],
)
def test_impossible_settings_name_the_field(values, message):
  with pytest.raises(UserError, match=message):
    methods.load("provico").build(config(**values))


@pytest.mark.parametrize("slope", [0.01, 30.0, 500.0])
def test_the_slope_starts_where_it_is_told(slope):
  method = methods.load("provico").build(config(**{"provico.slope": slope}))
  params, _ = small.init(method)
  np.testing.assert_allclose(jax.nn.softplus(params["match"]["slope"]), slope, rtol=1e-5)


def test_steps_of_adamw_are_absolute_or_relative():
  """Adam's first step is the learning rate times the sign of the gradient."""
  rate, by = 0.01, np.exp(-0.01)
  want = {"value": (30 - rate, 45 - rate), "log": (30 * by, 45 * by)}
  optimizer = config().optim
  optimizer.name = "adamw"
  tx = optim.build(optimizer, lambda step: rate)
  for kind, values in want.items():
    match = method_lib.encode_match(30.0, 45.0, kind)
    np.testing.assert_allclose(method_lib.decode_match(match, kind), [30, 45], rtol=1e-6)
    grads = jax.grad(lambda m, kind=kind: sum(method_lib.decode_match(m, kind)))(match)
    updates, _ = tx.update(grads, tx.init(match), match)
    stepped = method_lib.decode_match(optax.apply_updates(match, updates), kind)
    np.testing.assert_allclose(stepped, values, rtol=1e-6)


def test_old_runs_keep_their_form():
  """A config of before the fields were there stands for the published form."""
  c = config()
  for field in ("parametrization", "margin", "match"):
    del c.provico[field]
  p = methods.complete(c).provico
  assert (p.parametrization, p.margin, p.match) == ("value", 0.0, "sigmoid")


def test_published_settings():
  c = small.load("provico.py")
  assert c.provico.beta == 1e-4
  assert (c.provico.match, c.provico.own, c.provico.margin) == ("sigmoid", "draws", 0)
  assert c.provico.distance == 0.25
  assert c.head.hidden == ()
  assert c.batch_size < 512
  assert c.data.size < 224
  assert small.load("provico.py", "k400,no_kl").provico.beta == 0
  assert c.provico.scalar == "trace"
