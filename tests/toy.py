"""A method and a source small enough to test the loop itself: regression on features."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vssl_jax import methods
from vssl_jax.methods.base import Method

DIM = 6


@flax.struct.dataclass
class State:
  seen: jax.Array  # steps, counted by the loss
  slow: jax.Array  # moving average of the weights


def config(**values):
  """A config that the loop accepts; `values` use dotted names."""
  c = methods.base_config("cvrl")
  c.batch_size, c.epochs, c.log_every = 8, 3.0, 4
  c.optim.lr, c.optim.lr_batch, c.optim.warmup_epochs, c.optim.weight_decay = 0.1, 8, 0.5, 0.01
  c.save.every, c.data.clips = 5, 1
  c.update_from_flattened_dict(values)
  return c


class Source:
  """32 videos of fixed features; batch k depends on (seed, k) alone."""

  num_videos, steps_per_epoch, label_names = 32, 4, ("a", "b")
  video_names, unreadable, fingerprint = (), 0, ""

  def __init__(self, batch_size=8, poison=-1):
    self.batch_size, self.poison = batch_size, poison

  def batch(self, k):
    rng = np.random.default_rng([7, k])
    x = rng.normal(size=(self.batch_size, DIM)).astype(np.float32)
    if k == self.poison:
      x[0] = np.nan
    video = rng.integers(0, 32, self.batch_size)
    return {"features": x, "label": (x.sum(1) > 0).astype(np.int32), "video": video}

  def train_batches(self, start=0):
    k = start
    while True:
      yield self.batch(k)
      k += 1


def method(*, update_mask=None, collapse=False, two_part=True, on_epoch_start=None):
  """Noisy logistic regression with a moving average, as a `Method`."""

  def init(rng, batch):
    kernel = 0.1 * jax.random.normal(rng, (batch["features"].shape[-1], 4))
    return {"kernel": kernel, "bias": jnp.zeros(4)}, State(jnp.zeros((), jnp.int32), kernel)

  def embed(params, state, batch):
    noise = jax.vmap(lambda k: jax.random.normal(k, (4,)))(batch["key"])
    return batch["features"] @ params["kernel"] + params["bias"] + 0.1 * noise, state

  def objective(params, state, z, batch, rng, step):
    del params, rng, step
    target = jnp.where(batch["label"][:, None] > 0, 1.0, -1.0)
    loss = jnp.mean(jnp.logaddexp(0.0, -target * z))
    shown = jnp.ones_like(z) if collapse else z
    return loss, (state.replace(seen=state.seen + 1), {"embeddings": shown})

  def loss(params, state, batch, rng, step):
    z, state = embed(params, state, batch)
    return objective(params, state, z, batch, rng, step)

  def after_update(params, state, updates):
    m = 1 - 1 / (1.0 + updates)
    return params, state.replace(slow=m * state.slow + (1 - m) * params["kernel"])

  parts = {"embed": embed, "objective": objective} if two_part else {"loss": loss}
  return Method(
    init,
    lambda params, state: {"params": params},
    {"features": jax.ShapeDtypeStruct((DIM,), jnp.float32)},
    update_mask=update_mask,
    after_update=after_update,
    on_epoch_start=on_epoch_start,
    **parts,
  )
