"""Which modules are methods, and which config they get."""

import pytest

from tests import small
from vssl_jax import methods
from vssl_jax.errors import UserError


@pytest.mark.parametrize("name", ["base", "momentum", "network", "multiclip", "dcc.memory"])
def test_a_module_that_is_no_method_is_told(name):
  with pytest.raises(UserError, match=rf"config\.method: '{name}' .* no method, it has no "):
    methods.load(name)
  config = small.load("cvrl.py", "demo")
  config.method = name
  with pytest.raises(UserError, match=r"config\.method"):
    methods.resolve(config, None)


@pytest.mark.parametrize("name", ["guess", "", "guess.memory", "cvrl.guess"])
def test_no_such_module_is_told(name):
  with pytest.raises(UserError, match=rf"config\.method: there is no method '{name}'"):
    methods.load(name)


def test_what_a_method_imports_and_lacks_is_no_missing_method(tmp_path, monkeypatch):
  (tmp_path / "mine.py").write_text("import surely_not_installed")
  monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
  with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
    methods.load("mine")


@pytest.mark.parametrize("source", [None, "given"])
def test_a_config_of_another_method_gets_the_methods_defaults(source):
  class Labelled:
    label_names, steps_per_epoch, fingerprint = ("a", "b", "c"), 7, "f"

  config = small.load("cvrl.py", "demo").lock()
  with config.unlocked():
    config.method = "classify"
  found = methods.resolve(config, source and Labelled())
  assert found.classify.frozen
  assert found.classify.classes == (3 if source else 2)
  assert found.is_locked
  assert "classify" not in config
  assert methods.freezes_encoder(found)
  assert methods.learns_from_labels(found)
  config = small.load("cvrl.py", "demo")
  assert not methods.freezes_encoder(config)
  assert not methods.learns_from_labels(config)
