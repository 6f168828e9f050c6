"""The inputs that `pyslowfast.json` was computed from, in NumPy alone, and the numbers themselves.

Tests rebuild from formulas what PySlowFast's own code was given (`make_pyslowfast.py` says how it
was run) and compare with what it computed. Arrays are float64 in this library's layouts: kernels
`[in, out]`, clips channels last.
"""

import json
import pathlib

import numpy as np

VIDEOS, DIM, QUEUE, PROTOTYPES = 8, 5, 48, 7
# A run of EPOCHS × STEPS updates, of which the first UPDATES are made.
EPOCHS, STEPS, UPDATES = 5, 2, 4
WARMUP_EPOCHS, WARMUP_LR = 1.0, 0.02
LR = {"moco": 0.05, "simclr": 4.8, "byol": 4.8, "swav": 4.8}
WEIGHT_DECAY, MOMENTUM = 0.01, 0.9
TEMPERATURE = {"moco": 0.1, "simclr": 0.1, "byol": 0.5, "swav": 0.1}


def wave(seed, *shape):
  """Numbers in (−1, 1) without a pattern: sin of (1 + 0.37 seed) i^1.5, i = 1, 2, …"""
  i = np.arange(1, np.prod(shape) + 1, dtype=np.float64)
  return np.sin(i**1.5 * (1 + 0.37 * seed)).reshape(shape)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embeddings(rho):
  """Queries, projections or predictions of each clip, `[ρ, N, D]`, near a video's own."""
  return wave(1, 1, VIDEOS, DIM) + 0.5 * wave(2, rho, VIDEOS, DIM)


def keys(rho):
  """Keys or target projections of each clip, `[ρ, N, D]`."""
  return wave(1, 1, VIDEOS, DIM) + 0.5 * wave(3, rho, VIDEOS, DIM)


def queue():
  """Unit rows `[K, D]`."""
  return unit(wave(4, QUEUE, DIM))


def prototypes():
  """`[P, D]`, not normalized: their code does that first."""
  return wave(5, PROTOTYPES, DIM)


def swav_queue(length):
  """Unit rows `[2, L, D]`, one list for each clip that codes are made from."""
  return unit(wave(6, 2, length, DIM))


def scores():
  """Cosines `[N, P]`."""
  return unit(wave(7, VIDEOS, DIM)) @ unit(prototypes()).T


def clips(rho, step):
  """Uint8 values `[ρ, N, T=2, H=2, W=2, 3]`, a batch of its own each step."""
  shared, own = wave(10 + step, 1, VIDEOS, 2, 2, 2, 3), wave(20 + step, rho, VIDEOS, 2, 2, 2, 3)
  return np.round(127.5 + 127.5 * (0.7 * shared + 0.3 * own)).astype(np.uint8)


def parameters(method):
  """Encoder: one kernel `[24, 6]`, no bias, then ReLU. Head (and BYOL's predictor): one hidden
  layer of 8 with batch norm, but MoCo without; a layer before batch norm has bias 0.
  """

  def mlp(seed, width):
    bn = method != "moco"
    out = {
      "dense_0": {
        "kernel": 0.8 * wave(seed, width, 8),
        "bias": np.zeros(8) if bn else 0.1 * wave(seed + 1, 8),
      },
      "out": {"kernel": 0.8 * wave(seed + 2, 8, DIM), "bias": 0.1 * wave(seed + 3, DIM)},
    }
    norm = {"scale": 1 + 0.2 * wave(seed + 4, 8), "bias": 0.2 * wave(seed + 5, 8)}
    return out | ({"norm_0": norm} if bn else {})

  out = {"encoder": {"kernel": 0.4 * wave(30, 24, 6)}, "head": mlp(31, 6)}
  return out | ({"predictor": mlp(41, DIM)} if method == "byol" else {})


def optimized():
  """Parameters of the optimizer's own test."""
  return {
    "layer": {"kernel": wave(50, 3, 4), "bias": wave(51, 4)},
    "norm": {"scale": wave(52, 4), "bias": wave(53, 4)},
  }


def gradient(step):
  """Gradients of the optimizer's own test, at rate 0.3."""
  return {
    "layer": {"kernel": wave(60 + step, 3, 4), "bias": wave(70 + step, 4)},
    "norm": {"scale": wave(80 + step, 4), "bias": wave(90 + step, 4)},
  }


def numbers():
  """What PySlowFast computed; see `make_pyslowfast.py` for the fields."""
  return json.loads((pathlib.Path(__file__).parent / "pyslowfast.json").read_text())
