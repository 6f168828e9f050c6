"""Every test sees eight virtual CPU devices; all share one compilation cache.

Programs over several devices stay out of it (`vssl_jax.parallel.make_mesh`), so a test makes its
meshes there.
"""

import os
import pathlib
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Read once per process, by the first checkpoint; the client of TensorFlow cannot ask an emulator.
os.environ.setdefault("EPATH_USE_TF", "false")
_FLAG = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  str(pathlib.Path(__file__).resolve().parent.parent / ".cache" / "jax"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import hypothesis  # noqa: E402
import jax  # noqa: E402  the environment above is read at import
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

# The same examples in each run and on each machine.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="session")
def ctrl_c():
  """As in the foreground: a shell lets programs in the background ignore Ctrl-C."""
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def cache_until_several_devices():
  """Each module begins with the cache, which its first mesh of several devices switches off."""
  jax.config.update("jax_enable_compilation_cache", True)
  compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def one_device():
  """Commands of a module use one device: for eight, each would compile anew what the cache has."""
  from vssl_jax import parallel

  whole, only = parallel.make_mesh, jax.devices()[:1]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parallel, "make_mesh", lambda devices=None: whole(only))
    yield


@pytest.fixture(scope="session")
def tf():
  """TensorFlow; a test that asks for it, or whose source reads with it, is skipped without."""
  return pytest.importorskip("tensorflow", reason="needs TensorFlow, of the extra 'data'")


@pytest.fixture
def bucket(tmp_path):
  """The address of an empty folder in a bucket that is in this process's memory."""
  pytest.importorskip("upath")
  from vssl_jax import files

  folder = files.path(f"memory://bucket{tmp_path}")
  yield folder
  files.remove_tree(folder)
