"""One line out of any exception."""

import pytest
from ml_collections import ConfigDict

from vssl_jax import errors


def test_brief_finds_the_users_line_in_a_nested_traceback():
  error = ValueError("Error whilst parsing:\nTraceback\n  File x\nvssl_jax.errors.UserError: a b\n")
  assert errors.brief(error) == "a b"
  assert errors.brief(KeyError("x is\nnot there")) == "x is not there"
  assert errors.brief(errors.UserError("plain")) == "plain"


def test_an_unknown_config_field_is_named_plainly():
  text = '\'epoch\'\nDid you mean "epochs" instead of "epoch"?'
  said = 'the config has no field \'epoch\'. Did you mean "epochs" instead of "epoch"?'
  assert errors.brief(KeyError(text)) == said


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize(
  ("field", "near"), [("lrr", ' Did you mean "lr" instead of "lrr"?'), ("foo", "")]
)
def test_an_unknown_field_of_a_config_file_is_named_too(locked, field, near):
  config = ConfigDict({"lr": 0.1, "name": "sgd"})
  with pytest.raises(AttributeError) as e:
    setattr(config.lock(), field, 1) if locked else getattr(config, field)
  assert errors.brief(e.value) == f"the config has no field {field!r}.{near}"


def test_a_missing_key_of_something_else_stays_as_it_is():
  assert errors.brief(KeyError("foo")) == "foo"
