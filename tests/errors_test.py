"""One line out of any exception."""

from vssl_jax import errors


def test_brief_finds_the_users_line_in_a_nested_traceback():
  error = ValueError("Error whilst parsing:\nTraceback\n  File x\nvssl_jax.errors.UserError: a b\n")
  assert errors.brief(error) == "a b"
  assert errors.brief(KeyError("'x'\nDid you mean y?")) == "'x' Did you mean y?"
  assert errors.brief(errors.UserError("plain")) == "plain"
