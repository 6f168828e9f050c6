"""One line out of any exception, and what comes from the storage."""

import errno

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


def _caught(raises):
  with pytest.raises(Exception) as e:  # noqa: PT011
    raises()
  return e.value


def _raised_while_handling(error, cause, how):
  def raises():
    try:
      raise cause
    except Exception as e:
      if how == "context":
        raise error  # noqa: B904
      raise error from (e if how == "cause" else None)

  return _caught(raises)


FULL = "Error writing /data/x: No space left on device"
MISTAKES = (TypeError, AttributeError, NameError, AssertionError, KeyError, IndexError)


@pytest.mark.parametrize("kind", [*MISTAKES, NotImplementedError, UnboundLocalError])
def test_a_mistake_in_a_program_is_no_fault_of_the_storage(kind):
  """Whatever it quotes, and whatever was handled when it happened."""
  assert errors.storage_fault(kind(FULL)) is None
  full = OSError(errno.ENOSPC, "No space left on device")
  assert errors.storage_fault(_raised_while_handling(kind("x"), full, "context")) is None
  assert (
    errors.storage_fault(_raised_while_handling(RuntimeError("y"), kind(FULL), "cause")) is None
  )
  # A library may raise its own error from that of the system, and says so.
  assert errors.storage_fault(_raised_while_handling(kind("x"), full, "cause")) is full


@pytest.mark.parametrize(
  ("how", "found"), [("cause", True), ("context", True), ("from None", False)]
)
def test_a_fault_is_found_behind_another_unless_it_is_hidden(how, found):
  for cause in (OSError(errno.ENOSPC, "No space left on device"), ValueError(FULL)):
    fault = errors.storage_fault(_raised_while_handling(RuntimeError("x"), cause, how))
    assert (fault is not None) == found
    if found:
      assert fault.errno == errno.ENOSPC


def test_only_the_reasons_that_are_asked_for_count():
  error = OSError(errno.ETIMEDOUT, "Connection timed out", "x")
  assert errors.storage_fault(error) is None
  assert errors.storage_fault(error, (errno.ETIMEDOUT,)) is error
  assert errors.storage_fault(ValueError(FULL), (errno.ETIMEDOUT,)) is None
