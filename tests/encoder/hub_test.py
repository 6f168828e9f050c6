"""Repositories of the Hub, played by a server on this machine: there and back, and all refusals."""

import base64
import hashlib
import http.server
import json
import sys
import threading
import time

import jax
import numpy as np
import pytest
import yaml

import vssl_jax
from tests import small
from tests.encoder.encoder_test import make
from vssl_jax.encoder import exported
from vssl_jax.encoder.hub import model_card, repository
from vssl_jax.errors import UserError

COMMIT = "c" * 40
PRIVATE = ("me/private", "me/closed")


class Server(http.server.BaseHTTPRequestHandler):
  """What the library asks of the Hub: files of a revision, a new repository, a commit."""

  protocol_version = "HTTP/1.1"

  def log_message(self, *args):
    pass

  def answer(self, status, body=b"", **headers):
    self.send_response(status)
    names = {"Content-Length": str(len(body)), **headers}
    for name, value in names.items():
      self.send_header(name.replace("_", "-"), value)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(body)

  def do_HEAD(self):
    self.server.seen.append(self.path)
    owner, name, resolve, revision, *rest = self.path.lstrip("/").split("/")
    repo, file = f"{owner}/{name}", "/".join(rest)
    found = self.server.repos.get(repo)
    token = self.headers.get("Authorization")
    if resolve != "resolve" or found is None or (repo in PRIVATE and token != "Bearer hf_ok"):
      self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
    elif repo == "me/gated":
      self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
    elif revision not in ("main", COMMIT):
      self.answer(404, X_Error_Code="RevisionNotFound")
    elif file not in found:
      self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
    else:
      tag = hashlib.sha256(found[file]).hexdigest()
      self.answer(200, found[file], ETag=f'"{tag}"', X_Repo_Commit=COMMIT)

  do_GET = do_HEAD

  def do_POST(self):
    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
    self.server.seen.append(self.path)
    if self.path == "/api/validate-yaml":
      return self.answer(200, b"{}", Content_Type="application/json")
    if self.headers.get("Authorization") != "Bearer hf_ok":
      return self.answer(401, b'{"error": "Invalid credentials"}')
    if self.path == "/api/repos/create":
      told = json.loads(body)
      self.server.made.append(told)
      self.server.repos.setdefault(f"{told['organization']}/{told['name']}", {})
      return self.say({"url": f"{self.server.url}/{told['organization']}/{told['name']}"})
    if "/preupload/" in self.path:
      names = [x["path"] for x in json.loads(body)["files"]]
      rows = [{"path": x, "uploadMode": "regular", "shouldIgnore": False} for x in names]
      return self.say({"files": rows})
    repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
    for row in map(json.loads, body.splitlines()):
      if row["key"] == "file":
        self.server.repos[repo][row["value"]["path"]] = base64.b64decode(row["value"]["content"])
    return self.say({"commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

  def say(self, value):
    self.answer(200, json.dumps(value).encode(), Content_Type="application/json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("exported")
  make(path)
  return path


def endpoint(monkeypatch, url):
  """What HF_ENDPOINT sets when the library is imported."""
  from huggingface_hub import constants

  monkeypatch.setattr(constants, "ENDPOINT", url)
  template = url + "/{repo_id}/resolve/{revision}/{filename}"
  monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def server(tmp_path, monkeypatch):
  constants = pytest.importorskip("huggingface_hub.constants")
  served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
  served.url = f"http://127.0.0.1:{served.server_port}"
  served.repos, served.made, served.seen = {}, [], []
  threading.Thread(target=served.serve_forever, daemon=True).start()
  endpoint(monkeypatch, served.url)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
  monkeypatch.setenv("HF_TOKEN", "hf_ok")
  yield served
  served.shutdown()
  served.server_close()


def test_there_and_back(server, folder, tmp_path, capfd):
  flags = [f"--checkpoint={folder}", "--push=hf://me/mine/small", "--license=apache-2.0"]
  assert small.vssl("export", *flags, f"--output={tmp_path / 'out'}", "--private") == 0
  told = capfd.readouterr()
  assert f"of {tmp_path / 'out'} to hf://me/mine/small" in told.err
  assert told.out.split()[-1] == str(tmp_path / "out" / "README.md")
  assert server.made[0] | {"private": 0, "visibility": 0} == {
    "name": "mine", "organization": "me", "private": 0, "visibility": 0
  }  # fmt: skip
  assert "private" in json.dumps(server.made[0])
  stored = server.repos["me/mine"]
  assert set(stored) == {f"small/{x}" for x in (exported.CARD, exported.WEIGHTS, "README.md")}
  for name, data in stored.items():
    assert (tmp_path / "out" / name.removeprefix("small/")).read_bytes() == data

  # Files of the same repository that nobody asked for.
  stored |= {"small/config.json": b"{}", "small/modeling.py": b"raise SystemExit"}
  server.seen.clear()
  one, other = vssl_jax.load(folder), vssl_jax.load("hf://me/mine/small")
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
  assert str(tmp_path / "cache") in capfd.readouterr().err
  assert {x.rpartition("/")[2] for x in server.seen} == {exported.CARD, exported.WEIGHTS}
  for address in ("hf://me/mine@main/small", f"hf://me/mine@{COMMIT}/small/"):
    assert vssl_jax.load(address).config.to_json() == one.config.to_json()
  again = vssl_jax.export("hf://me/mine/small", tmp_path / "again")
  assert again[0].read_bytes() == (folder / exported.WEIGHTS).read_bytes()


def test_what_cannot_be_loaded_is_one_line(server, folder, monkeypatch):
  from huggingface_hub import constants

  both = {x: (folder / x).read_bytes() for x in (exported.CARD, exported.WEIGHTS)}
  server.repos |= {"me/mine": both, "me/other": {"a": b"b"}, "me/gated": both}
  server.repos |= dict.fromkeys(PRIVATE, both)
  assert vssl_jax.load("hf://me/private").info["step"] == 5
  monkeypatch.setenv("HF_TOKEN", "hf_wrong")
  outside = json.loads(both[exported.CARD])
  outside["weights"]["file"] = "../../encoder.safetensors"
  server.repos["me/outside"] = both | {exported.CARD: json.dumps(outside).encode()}
  server.repos["me/broken"] = both | {exported.WEIGHTS: b"x"}
  for address, told in (
    ("hf://me/none", "cannot load hf://me/none: there is no such repository, or it is private"),
    ("hf://me/closed@main", "or it is private: .*HF_TOKEN"),
    ("hf://me/gated", "grants access on request"),
    ("hf://me/mine@v9", "has no revision 'v9'"),
    ("hf://me/other", r"holds no encoder\.json"),
    ("hf://me/mine/there", r"holds no encoder\.json"),
    ("hf://me/outside", "leads out of the folder"),
    ("hf://me/broken", "damaged or replaced"),
    ("hf://mine", "not the address of a repository; give it as hf://owner/name"),
    ("hf://me/mine@", "not the address of a repository"),
    ("hf://me/mine/../../x", "leads out of the folder"),
    ("hf://me--/mine", "cannot load hf://me--/mine: "),
  ):
    with pytest.raises(UserError, match=told) as error:
      vssl_jax.load(address)
    assert "\n" not in str(error.value)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  with pytest.raises(UserError, match=r"cannot load hf://me/mine: .*HF_HUB_OFFLINE"):
    vssl_jax.load("hf://me/mine")
  # What was downloaded before is found.
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
  vssl_jax.load("hf://me/mine")
  endpoint(monkeypatch, "http://127.0.0.1:9")
  monkeypatch.setattr(time, "sleep", lambda _: None)  # between its attempts
  vssl_jax.load("hf://me/mine")
  with pytest.raises(UserError, match=r"cannot load hf://me/new: .*cannot be reached"):
    vssl_jax.load("hf://me/new")


def test_what_cannot_be_pushed_is_one_line(server, folder, tmp_path, monkeypatch, capsys):
  from huggingface_hub import constants

  def pushed(*flags):
    given = [f"--checkpoint={folder}", f"--output={tmp_path / 'out'}", "--overwrite", *flags]
    assert small.vssl("export", *given) == 2
    return capsys.readouterr().err.splitlines()[-1]

  assert "--push=me/mine: not an address" in pushed("--push=me/mine")
  assert "leave @v1 out" in pushed("--push=hf://me/mine@v1")
  assert "--license is of --push" in pushed("--license=mit")
  assert not (tmp_path / "out").exists()
  assert not server.seen
  monkeypatch.delenv("HF_TOKEN")
  assert "cannot push to hf://me/mine: " in pushed("--push=hf://me/mine")
  monkeypatch.setenv("HF_TOKEN", "hf_wrong")
  assert "cannot push to hf://me/mine: " in pushed("--push=hf://me/mine")
  assert (tmp_path / "out" / exported.CARD).is_file()
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert "HF_HUB_OFFLINE is set" in pushed("--push=hf://me/mine")
  assert not server.repos


def test_without_the_library(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(
    UserError, match=r"needs huggingface_hub, which is not installed.*pip install"
  ):
    vssl_jax.load("hf://me/mine")
  assert not repository.is_address("gs://me/mine")


def test_the_model_card(folder):
  card = exported.load_card(folder)
  card["results"] = {
    "trained": {"linear": {"top1": 0.25}, "encoder_sha256": "x"},
    "evaluation": {"mean": {"knn": {"top1": 1 / 3}}},
  }
  card["data"]["name"] = "<script>|`"
  text = model_card.text(card, address="hf://me/mine", license_name="mit")
  head = yaml.safe_load(text.split("---\n")[1])
  assert (head["license"], head["library_name"]) == ("mit", "vssl_jax")
  for part in (
    "| trained.linear.top1 | 0.25 |", "| evaluation.knn.top1 | 0.333333 |", "&lt;script>&#124;",
    'vssl_jax.load("hf://me/mine")', "| mean | [0.4, 0.5, 0.6] |", card["weights"]["sha256"],
  ):  # fmt: skip
    assert part in text
  card["results"] = {}
  plain = model_card.text(card, address="hf://me/mine")
  assert "license" not in yaml.safe_load(plain.split("---\n")[1])
  assert "not stated" in plain
  assert "None were measured" in plain
