"""The one exception that speaks to the user."""


class UserError(ValueError):
  """Bad input, told in one line: which file or field, what was wrong, what to do.

  Command-line programs print its message without a traceback and exit with status 2.
  """
