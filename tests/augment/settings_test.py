"""Impossible settings are told in one line that names the field."""

import pytest

from vssl_jax import augment, config
from vssl_jax.augment import settings
from vssl_jax.errors import UserError


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("flip", 1.5),
    ("flip", -0.1),
    ("flip", float("nan")),
    ("jitter_p", "often"),
    ("gray_p", 2),
    ("rotation_p", -1.0),
    ("brightness", -0.2),
    ("contrast", float("inf")),
    ("saturation", float("nan")),
    ("hue", 0.6),
    ("contrast_mean", "gray"),
    ("blur_p", ()),
    ("blur_p", (0.5, 1.1)),
    ("blur_p", "half"),
    ("blur_sigma", (0.1,)),
    ("blur_sigma", (0.1, 1.0, 2.0)),
    ("blur_sigma", (2.0, 0.1)),
    ("blur_sigma", (0.0, 1.0)),
    ("blur_sigma", (0.1, float("inf"))),
    ("blur_kernel", 4),
    ("blur_kernel", -3),
    ("blur_kernel", 5.0),
    ("solarize_p", (0.0, None)),
    ("solarize_threshold", 128),
    ("consistent", "yes"),
    ("mean", (0.5, 0.5)),
    ("mean", (0.5, 0.5, float("nan"))),
    ("std", (1.0, 0.0, 1.0)),
    ("std", ()),
  ],
)
def test_impossible_value(field, value):
  cfg = config.augment()
  with cfg.ignore_type():
    cfg[field] = value
  with pytest.raises(UserError, match=rf"^config\.augment\.{field} = ") as error:
    augment.build(cfg, 56)
  assert "\n" not in str(error.value)


def test_views_take_turns():
  cfg = config.augment()
  cfg.blur_p, cfg.solarize_p = (1.0, 0.1), (0.0, 0.2, 0.3)
  assert settings.period(cfg) == 6
  views = [settings.view(cfg, v, 56) for v in range(7)]
  assert [v.blur_p for v in views] == [1.0, 0.1, 1.0, 0.1, 1.0, 0.1, 1.0]
  assert [v.solarize_p for v in views] == [0.0, 0.2, 0.3, 0.0, 0.2, 0.3, 0.0]


def test_a_number_stands_for_all_views():
  cfg = config.augment()
  with cfg.ignore_type():
    cfg.blur_p = 0.5
    cfg.std = 0.225
  assert settings.by_view(cfg, "blur_p") == (0.5,)
  assert settings.channels(cfg, "std") == (0.225,)
