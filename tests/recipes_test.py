"""Shared recipe pieces: fit for any method, and nothing of a method's own in them."""

import pytest

from tests import small
from vssl_jax import methods, recipes
from vssl_jax.errors import UserError


@pytest.mark.parametrize(
  "piece", [recipes.small, recipes.mild_color, recipes.demo, recipes.motion, recipes.ucf6]
)
@pytest.mark.parametrize("method", ["cvrl", "classify"])
def test_pieces_leave_the_method_alone(piece, method):
  c, base = methods.base_config(method), methods.base_config(method)
  piece(c)
  assert c.method == method
  assert c[method] == base[method]
  assert c.to_json() != base.to_json()


@pytest.mark.parametrize("recipe", [recipes.demo, recipes.ucf6])
def test_probes_read_clips_of_the_size_trained_on(recipe):
  c = methods.base_config("cvrl")
  recipe(c)
  d, p = c.data, c.probe
  assert (d.frames, d.stride, d.size) == (p.frames, p.stride, p.size)
  assert (d.frames, d.stride, d.size) == (d.eval.frames, d.eval.stride, d.eval.size)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ("rho1,span10", "'span10' undoes 'rho1' (both set config.data.interval.distribution)"),
    ("span10,rho1", "'rho1' undoes 'span10'"),
    ("no_color,aug_plus", "'aug_plus' undoes 'no_color'"),
    ("4x16,16x4", "'16x4' undoes '4x16' (both set config.data."),
  ],
)
def test_changes_that_undo_each_other_are_refused(changes, message):
  with pytest.raises(UserError) as e:
    small.load("rho_simclr.py", f"k400,{changes}")
  assert message in str(e.value)


def test_changes_of_different_things_add_up():
  c = small.load("rho_simclr.py", "k400,span0,rho3,aug_plus,no_color")
  assert (c.data.clips, c.data.interval.distribution, c.augment.jitter_p) == (3, "same", 0.0)
  assert c.name == "rho_simclr_k400_span0_rho3_aug_plus_no_color"


def test_the_study_s_crops_are_by_the_short_side_in_probes_too():
  c = small.load("rho_byol.py")
  assert c.data.crop.short == c.probe.crop_short == (0.7, 0.875)
  assert (c.encoder.bn_groups, c.head.bn_groups) == (8, 8)
  assert small.load("rho_byol.py", "k400,aug_plus").data.crop.short == (0.0, 0.0)


@pytest.mark.parametrize(
  "method", ["cvrl", "rho_simclr", "rho_moco", "rho_byol", "rho_swav", "provico"]
)
def test_motion_is_the_demo_with_other_videos_and_nothing_that_mixes_classes(method):
  motion, demo = small.load(f"{method}.py", "motion"), small.load(f"{method}.py", "demo")
  assert (motion.data.source, motion.name) == ("motion", f"{method}_motion")
  assert motion.augment.flip == motion.augment.rotation_p == motion.probe.flip == 0
  assert motion.probe.protocols == ("motion",)
  d, p = motion.data, motion.probe
  assert (d.frames, d.stride, d.size) == (p.frames, p.stride, p.size)
  assert (d.frames, d.stride, d.size) == (d.eval.frames, d.eval.stride, d.eval.size)
  for part in ("optim", "encoder", "head", method):
    assert motion[part] == demo[part]
