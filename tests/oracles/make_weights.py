"""Runs other people's networks on random weights and writes down what every stage gives.

  python tests/oracles/make_weights.py pyslowfast path/to/SlowFast/slowfast
  python tests/oracles/make_weights.py torchvision
  python tests/oracles/make_weights.py tf_garden

Each writes tests/oracles/weights_<name>.json. They ran with PyTorch 2.13 and PySlowFast at commit
287ec00 (its networks, heads and contrastive model; stubs for what these import and do not need:
see `originals.py`), with torchvision 0.29, and with tf-models-official 2.20 on TensorFlow 2.20
(stem and blocks an eighth as wide). Their weights are drawn from the tensors' names, so that the
files hold names and shapes of the tensors, and digests of the outputs.
"""

import json
import sys
import tempfile

import originals


def case(state, seen, clips, **more):
  return {
    "tensors": {
      k: list(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")
    },
    "clips": list(clips.shape[:3]),
    "stages": {k: originals.digest(y) for k, y in seen.items()},
    **more,
  }


def main():
  kind, *rest = sys.argv[1:] or [""]
  if kind == "pyslowfast" and rest:
    modules = originals.load_pyslowfast(rest[0])
    out = {}
    for name in originals.PYSLOWFAST:
      state, seen, clips, cfg = originals.pyslowfast(modules, name)
      out[name] = case(state, seen, clips, cfg=cfg)
  elif kind == "torchvision":
    names = ("r3d_18", "r2plus1d_18", "s3d", "resnet18")
    out = {name: case(*originals.torchvision(name)) for name in names}
  elif kind == "tf_garden":
    with tempfile.TemporaryDirectory() as folder:
      out = {"cvrl": case(*originals.tf_garden(folder))}
  else:
    raise SystemExit(__doc__)
  text = json.dumps(out, separators=(",", ":")).replace('},"', '},\n"')
  (originals.FOLDER / f"weights_{kind}.json").write_text(text + "\n")


if __name__ == "__main__":
  main()
