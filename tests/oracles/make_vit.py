"""Runs VideoMAE and V-JEPA 2 of transformers on random weights and writes down what blocks give.

  python tests/oracles/make_vit.py

It writes a folder for each model, tests/oracles/vit/<name>: `config.json` and `model.safetensors`
as `save_pretrained` writes them (weights rounded to float16), a `preprocessor_config.json`, and
`golden.npz` with a clip `[1, T, 3, H, W]`, the output of every block `[1, L, C]`, the features, and
the gradient of `features @ cos(0, 1, ...)` by the clip. They ran with PyTorch 2.13 and transformers
5.24 on CPU, in float32. `tests/weights/vit_test.py` reads them, and runs this where it can.
"""

import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "vit"
VIDEOMAE = {
  "image_size": 12,
  "patch_size": 4,
  "num_frames": 4,
  "hidden_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 48,
  "decoder_hidden_size": 12,
  "decoder_num_hidden_layers": 1,
  "decoder_num_attention_heads": 2,
  "decoder_intermediate_size": 12,
}
VJEPA2 = {
  "crop_size": 12,
  "patch_size": 4,
  "frames_per_clip": 4,
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,  # so that 4 of the 16 channels of a head are not turned
  "mlp_ratio": 2.0,
  "num_pooler_layers": 1,
  "pred_hidden_size": 12,
  "pred_num_hidden_layers": 1,
  "pred_num_attention_heads": 1,
  "pred_num_mask_tokens": 2,
}
PREPROCESSOR = {
  "do_resize": True,
  "do_center_crop": True,
  "do_rescale": True,
  "rescale_factor": 1 / 255,
  "do_normalize": True,
  "image_mean": [0.485, 0.456, 0.406],
  "image_std": [0.229, 0.224, 0.225],
  "size": {"shortest_edge": 14},
  "crop_size": {"height": 12, "width": 12},
}


def build(name, **fields):
  """The class `name` of transformers, small, with weights of which none is 0 or 1 exactly."""
  import torch
  import transformers

  kind, base = ("VideoMAE", VIDEOMAE) if name.startswith("VideoMAE") else ("VJEPA2", VJEPA2)
  torch.manual_seed(0)
  model = getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**{**base, **fields}))
  with torch.no_grad():
    for x in model.parameters():
      scale = (2 / x[0].numel()) ** 0.5 if x.ndim > 1 else 0.3
      x.copy_((torch.randn_like(x) * scale + (x if x.ndim == 1 else 0)).half().float())
  return model.eval()


def outputs(model):
  """A clip, every block's output, features and the gradient, as NumPy arrays by name."""
  import torch

  c, seen = model.config, {}
  videomae = c.model_type == "videomae"
  trunk = getattr(model, c.model_type, model)

  def watch(layer, name):
    def note(module, inputs, y):
      seen[name] = y[0] if isinstance(y, tuple) else y

    layer.register_forward_hook(note)

  for i, layer in enumerate(trunk.encoder.layer):
    watch(layer, f"block_{i}")
  frames, size = (c.num_frames, c.image_size) if videomae else (c.frames_per_clip, c.crop_size)
  clip = torch.randn((1, frames, 3, size, size), generator=torch.manual_seed(1)).requires_grad_()
  # The predictor is no part of the encoder, nor are class scores.
  tokens = (trunk(clip) if videomae else trunk(clip, skip_predictor=True)).last_hidden_state
  features = tokens.mean(1)
  if getattr(model, "fc_norm", None) is not None:
    features = model.fc_norm(features)
  (features @ torch.cos(torch.arange(features.shape[1]))).sum().backward()
  found = {"clip": clip, **seen, "features": features, "gradient": clip.grad}
  return {k: x.detach().numpy() for k, x in found.items()}


def save(model, folder, *, half=False):
  """Saves the model as its users have it, with a preprocessor."""
  folder.mkdir(parents=True, exist_ok=True)
  (model.half() if half else model).save_pretrained(folder)
  (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")


def main():
  for name, kind in (
    ("videomae", "VideoMAEForVideoClassification"),
    ("vjepa2", "VJEPA2Model"),
  ):
    model = build(kind)
    found = outputs(model)
    save(model, FOLDER / name, half=True)
    np.savez_compressed(FOLDER / name / "golden.npz", **found)


if __name__ == "__main__":
  main()
