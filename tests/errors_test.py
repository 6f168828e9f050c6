"""One line out of any exception."""

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
