"""The bar: nothing for a short step, few lines in a log, none for other processes."""

from vssl_jax.cli import progress


def _whole(*args, **kwargs):
  with progress.bar(*args, **kwargs) as bar:
    for _ in range(5):
      bar.update()


def test_a_short_step_shows_no_bar(capsys):
  _whole("features", 5)
  assert capsys.readouterr().err == ""


def test_a_long_step_shows_title_count_and_rate(capsys, monkeypatch):
  monkeypatch.setattr(progress, "DELAY", 0.0)
  _whole("features", 8, done=3)
  lines = capsys.readouterr().err.split("\r")
  last = lines[-1]
  assert last.startswith("features: 100%")
  assert "8/8" in last
  assert "videos/s" in last
  assert len(lines) <= 4  # not a line per update


def test_an_unknown_total_and_another_unit(capsys, monkeypatch):
  monkeypatch.setattr(progress, "DELAY", 0.0)
  _whole("logistic regression", unit="fit")
  assert "5 fits [" in capsys.readouterr().err.split("\r")[-1]


def test_not_shown(capsys, monkeypatch):
  monkeypatch.setattr(progress, "DELAY", 0.0)
  _whole("features", 5, shown=False)
  assert capsys.readouterr().err == ""
