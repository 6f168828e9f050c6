"""Shows one page to browsers on this machine, and to nobody else."""

from __future__ import annotations

import http.server
import pathlib

from vssl_jax.errors import UserError

HOST = "127.0.0.1"


def server(page: pathlib.Path, port: int = 0) -> http.server.ThreadingHTTPServer:
  """A server of one page, on loopback alone; it reads the page anew for each request.

  Args:
    page: the page, which may be in a bucket.
    port: its port; 0 for one that is free.

  Raises:
    UserError: the port cannot be used.
  """

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
      # A stranger's name that leads to this machine must not read the page through a browser.
      host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
      if host not in (HOST, "localhost"):
        self.send_error(403)
        return
      if self.path.partition("?")[0] not in ("/", f"/{page.name}"):
        self.send_error(404)
        return
      try:
        body = page.read_bytes()
      except OSError:
        self.send_error(404)
        return
      self.send_response(200)
      self.send_header("Content-Type", "text/html; charset=utf-8")
      self.send_header("Content-Length", str(len(body)))
      self.send_header("Cache-Control", "no-store")
      self.end_headers()
      self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
      """Says nothing for each request."""

  try:
    return http.server.ThreadingHTTPServer((HOST, port), Handler)
  except (OSError, OverflowError) as e:
    why = getattr(e, "strerror", None) or e
    raise UserError(f"--port={port}: cannot be used ({why}); give another port, or 0.") from None


def serve(page: pathlib.Path, port: int = 0) -> None:
  """Serves the page until Ctrl-C."""
  with server(page, port) as running:
    print(f"http://{HOST}:{running.server_address[1]}/  (Ctrl-C ends it)", flush=True)
    try:
      running.serve_forever()
    except KeyboardInterrupt:
      print("ended")
