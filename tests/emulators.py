"""Storage servers on this machine that answer as Google's and Amazon's do, for tests.

As a program, `python tests/emulators.py gs 19023 0.02` serves one, each answer 20 ms late.
"""

import contextlib
import functools
import http.server
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

BUCKET = "bucket"


def free_port():
  """A port that nothing listens at."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def environment(kind, port):
  """The variables with which the storage libraries ask the server instead of the real one."""
  where = f"http://127.0.0.1:{port}"
  if kind == "s3":
    return {
      "AWS_ENDPOINT_URL": where,
      "AWS_ACCESS_KEY_ID": "testing",
      "AWS_SECRET_ACCESS_KEY": "testing",
      "AWS_REGION": "us-east-1",
      "AWS_DEFAULT_REGION": "us-east-1",
    }
  return {
    "STORAGE_EMULATOR_HOST": where,
    "TENSORSTORE_GCS_HTTP_URL": where,
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "dummy",
    "EPATH_USE_TF": "false",  # the address of TensorFlow's own client is fixed
    "GCE_METADATA_HOST": "127.0.0.1:1",
    "NO_GCE_CHECK": "true",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    "FSSPEC_GCS_TOKEN": "anon",
  }


@contextlib.contextmanager
def serve(kind, *, latency=0.0, port=0):
  """Starts a server with an empty bucket `bucket`; yields the environment for its clients.

  Args:
    kind: "gs" or "s3".
    latency: seconds that each answer comes late.
    port: where it listens; 0 for any. Clients keep the address that they began with.
  """
  port = port or free_port()
  command = [sys.executable, __file__, kind, str(port), str(latency)]
  server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  try:
    _wait(f"http://127.0.0.1:{port}/", server)
    if kind == "s3":
      request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
      urllib.request.urlopen(request).close()
    yield environment(kind, port)
  finally:
    server.kill()
    server.wait()


@contextlib.contextmanager
def used(environment):
  """Sets variables of this process for the time of a block."""
  before = {name: os.environ.get(name) for name in environment}
  os.environ.update(environment)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


def _wait(url, server):
  for _ in range(600):
    assert server.poll() is None, "the server ended"
    with contextlib.suppress(OSError):
      with contextlib.suppress(urllib.error.HTTPError):  # an error is an answer, too
        urllib.request.urlopen(url, timeout=1).close()
      return
    time.sleep(0.1)
  raise TimeoutError(url)


def _serve_gs(port, latency):
  from gcp_storage_emulator.handlers import objects

  # TensorStore relies on the generation of an object, which this server does not tell, and on
  # uploads that fail if there is one, which it does not know.
  download, insert = objects.download, objects.insert

  @functools.wraps(download)
  def told(request, response, storage, *args, **kwargs):
    time.sleep(latency)
    download(request, response, storage, *args, **kwargs)
    if response.status in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
      obj = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
      response["X-Goog-Generation"] = obj["generation"]
      if request.query.get("ifGenerationNotMatch") == [obj["generation"]]:
        response.status = http.HTTPStatus.NOT_MODIFIED
        response.write_file(b"")

  @functools.wraps(insert)
  def checked(request, response, storage, *args, **kwargs):
    time.sleep(latency)
    request.data  # noqa: B018  must be read from the connection
    names = request.query.get("name")
    if request.query.get("ifGenerationMatch") == ["0"] and names:
      with contextlib.suppress(Exception):
        storage.get_file_obj(request.params["bucket_name"], names[0])
        response.status = http.HTTPStatus.PRECONDITION_FAILED
        return
    insert(request, response, storage, *args, **kwargs)

  objects.download, objects.insert = told, checked
  from gcp_storage_emulator import server

  server.server.HTTPServer = http.server.ThreadingHTTPServer  # else one request at a time
  server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET).run()


def _serve_s3(port, latency):
  from moto.server import DomainDispatcherApplication, create_backend_app
  from werkzeug.serving import run_simple

  app = DomainDispatcherApplication(create_backend_app)

  def late(environ, start_response):
    time.sleep(latency)
    return app(environ, start_response)

  run_simple("127.0.0.1", port, late, threaded=True)


if __name__ == "__main__":
  sys.path.remove(str(pathlib.Path(__file__).parent))  # has modules named as libraries are
  {"gs": _serve_gs, "s3": _serve_s3}[sys.argv[1]](int(sys.argv[2]), float(sys.argv[3]))
