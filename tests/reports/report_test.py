"""The page of made-up folders: what is in it, what is escaped, what is said to be missing."""

import base64
import html.parser
import http.client
import io
import json
import re
import threading
import zipfile

import numpy as np
import pytest

import vssl_jax
from tests import small
from tests.reports.conftest import EVIL, make_evaluation, make_run, webp, write
from vssl_jax.errors import UserError
from vssl_jax.localization.annotations import Prediction, Segment, Video
from vssl_jax.reports import clips, differences, figures, folders, markup, serve
from vssl_jax.reports import report as reports
from vssl_jax.reports.parts import curves, localized


class Page(html.parser.HTMLParser):
  """The elements of a page, their texts, and whether they are closed in order."""

  VOID = ("meta", "img", "br", "link", "input")

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.texts, self.attributes = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append((self.open[-1] if self.open else "", data))

  def text(self, *but):
    return " ".join(t for tag, t in self.texts if tag not in ("script", "style", *but))

  @property
  def data(self):
    return json.loads(next(t for tag, t in self.texts if tag == "script" and t.startswith("{")))


def show(*runs, output=None):
  return Page(vssl_jax.report(list(runs), output).read_text(encoding="utf-8"))


def test_a_run_is_shown_and_nothing_of_it_is_taken_for_html(run):
  page = show(run)
  assert page.tags.count("script") == 3  # data, Plotly, the page's own
  assert EVIL in page.text()
  assert not [v for k, v in page.attributes if k in ("src", "href") and not v.startswith("#")]
  assert "default-src 'none'" in dict(page.attributes)["content"] + str(page.attributes)
  told = page.text()
  for words in ("62.5", "25.0", "finished", "1 min 15 s", "batch_size", "48", "cvrl"):
    assert words in told, words
  loss = page.data["figures"]["curve-loss"]["data"]
  assert loss[0]["x"] == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
  np.testing.assert_allclose(loss[0]["y"], [1 / i for i in range(1, 7)], rtol=1e-5)
  assert loss[1]["y"] == [0.1] * 6
  for bad in ("no better than guessing", "rank is 2.0", "50 % of the time"):
    assert bad in told, bad
  assert "odd-one" in str(page.data["figures"].keys())


def test_a_run_that_goes_on_is_shown_with_what_is_missing(tmp_path):
  page = show(make_run(tmp_path / "run", finished=False))
  assert "not finished" in page.text()
  assert "There is no result.json yet" in page.text()
  started = tmp_path / "started"
  write(started / "config.json", json.loads((tmp_path / "run" / "config.json").read_text()))
  page = show(started)
  assert "started, nothing logged yet" in page.text()
  assert not page.data["figures"]


def test_seeds_are_summed_up_and_other_runs_overlaid(tmp_path):
  runs = [make_run(tmp_path / f"s{i}", seed=i, steps=4 + i) for i in range(3)]
  other = make_run(tmp_path / "o", batch_size=7)
  page = show(*runs, other, output=tmp_path / "page.html")
  band, mean, _, single, _ = page.data["figures"]["curve-loss"]["data"]
  x = [10.0, 20.0, 30.0, 40.0]  # what the shortest has reached
  assert mean["x"] == x
  np.testing.assert_allclose(mean["y"], [1 + 1 / i for i in range(1, 5)], rtol=1e-5)
  np.testing.assert_allclose(band["y"][:4], [2 + 1 / i for i in range(1, 5)], rtol=1e-5)
  np.testing.assert_allclose(band["y"][:3:-1], [1 / i for i in range(1, 5)], rtol=1e-5)
  assert len(single["x"]) == 6
  assert single["line"]["dash"] != mean["line"]["dash"]
  assert "s0 and 2 more seeds" in str(page.data)


def test_the_recipe_of_the_name_is_compared_and_nothing_else_runs(tmp_path):
  config = small.load("cvrl.py", "demo")
  config.batch_size = 12
  words, rows = differences.against_base(json.loads(config.to_json()))
  assert words == "the recipe cvrl:demo"
  assert rows == [("batch_size", str(small.load("cvrl.py", "demo").batch_size), "12")]
  (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
  for name in (f"{tmp_path}/evil.py:x", "../evil_x", 3, None):
    assert differences.against_base({"name": name, "method": "cvrl"})[0] == "the defaults of cvrl"
  assert differences.against_base({"name": "x", "method": "os.system"}) == ("", [])


def test_names_of_equal_folders_differ(tmp_path):
  runs = [make_run(tmp_path / x / "run") for x in "ab"]
  assert [r.name for r in folders.read_all(runs)] == ["a/run", "b/run"]


@pytest.mark.parametrize(
  ("files", "told"),
  [
    ({}, "neither a run (config.json) nor an evaluation"),
    ({"config.json": "{"}, "config.json: damaged, not JSON"),
    ({"config.json": "[]"}, "config.json: damaged, no JSON object"),
    ({"config.json": '{"a": 1}'}, "names no method"),
    ({"summary.json": '{"job": "else"}'}, "neither a run"),
    ({"summary.json": "\x00"}, "summary.json: damaged"),
  ],
)
def test_folders_that_hold_no_run_are_one_line(files, told, tmp_path, capsys):
  for name, text in files.items():
    (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=re.escape(told)):
    vssl_jax.report(tmp_path)
  assert small.vssl("report", tmp_path) == 2
  assert capsys.readouterr().err.count("\n") == 1
  assert not (tmp_path / "report.html").exists()
  with pytest.raises(UserError, match="no such folder"):
    vssl_jax.report(tmp_path / "none")


def _spoilt(value, put):
  """The value with each of its parts in turn replaced, as far as two levels down."""
  yield put
  if isinstance(value, dict):
    for k, v in value.items():
      for other in _spoilt(v, put):
        yield value | {k: other}


@pytest.mark.parametrize("put", [None, [], {}, "x", -1, 1e999, True, {"a": {"b": [EVIL]}}])
def test_a_damaged_result_never_ends_in_a_traceback(put, run):
  whole = json.loads((run / "result.json").read_text())
  for spoilt in _spoilt(whole, put):
    write(run / "result.json", spoilt)
    show(run)
  (run / "result.json").write_text("{")
  assert "result.json is damaged" in show(run).text()
  config = json.loads((run / "config.json").read_text())
  for name in ("data", "encoder", "name", "seed", "cvrl"):
    write(run / "config.json", config | {name: put})
    show(run)
  text = json.dumps({"step": 80, "loss": put, EVIL: 1.0, "lr": "nan"})
  with (run / "metrics.jsonl").open("a") as f:
    f.write("\n" + text + "\n")
  assert show(run).data["figures"]


def test_texts_in_scripts_and_figures_are_harmless():
  text = "</script><!-- \u2028 & \udcff"
  found = markup.in_script({text: [text]})
  assert not re.search("[<>&\u2028]", found)
  assert json.loads(found) == {text.replace("\udcff", "?"): [text.replace("\udcff", "?")]}
  assert markup.figure_text("<b>&") == "&lt;b&gt;&amp;"
  assert markup.tag("a", "<", title='"<') == '<a title="&quot;&lt;">&lt;</a>'


def test_long_curves_are_averaged():
  run = folders.Run("x", None, rows=[{"step": i, "loss": float(i)} for i in range(1000)])
  steps, values = curves._series(run, "loss")
  assert len(steps) == curves._MOST
  assert steps[-1] == 999
  np.testing.assert_allclose(values[:2], [1.0, 4.0])


def _luminance(tone):
  x = np.array([int(tone[i : i + 2], 16) / 255 for i in (1, 3, 5)])
  x = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
  return x @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("back", ["#f6f7f9", "#1d2027"])
def test_colors_are_seen_on_both_backgrounds(back):
  """WCAG 2.1, 1.4.11: graphics need a contrast of 3 : 1."""
  for tone in figures.COLORS:
    low, high = sorted([_luminance(tone), _luminance(back)])
    assert (high + 0.05) / (low + 0.05) >= 3, tone


def test_an_evaluation_is_shown_with_classes_confusions_motion_and_videos(evaluation):
  page = show(evaluation)
  told, drawn = page.text(), page.data["figures"]
  for words in ("<b>up</b>", EVIL, "a note", "37.5", "evaluation of a checkpoint"):
    assert words in told, words
  bars = drawn["classes-0-0"]
  assert bars["data"][0]["x"] == [0.0, 25.0, 50.0]
  assert bars["layout"]["yaxis"]["ticktext"][0] == "&lt;b&gt;up&lt;/b&gt;"
  cells = drawn["confusion-0-mine-knn"]["data"][0]
  assert cells["customdata"] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
  np.testing.assert_allclose(cells["z"][1], [25, 33.3, 41.7])
  knn, r1 = zip(*([x for x in t["y"]] for t in drawn["motion-0-0"]["data"]), strict=True)
  assert (knn, r1) == ((75.0, 25.0), (50.0, 50.0))
  assert "+50.0" in told
  shown = page.data["videos"]["videos-0-0"]
  assert len(shown["queries"]) == 6
  assert shown["queries"][2]["near"] == [{"of": 2, "cosine": 0.9}, {"of": 3, "cosine": 0.125}]
  assert shown["bank"]["3"] == {"name": "b3", "label": 0, "clip": "bank3"}
  assert sorted(shown["clips"]) == sorted(f"{p}{i}" for p in ("bank", "query") for i in range(6))
  assert base64.b64decode(shown["clips"]["bank3"])[8:12] == b"WEBP"
  right = [t for t in drawn["map-videos-0-0"]["data"] if t["name"].endswith("✓")]
  assert sorted(i for t in right for i in t["customdata"]) == [1, 2, 3, 4, 5]
  assert all(t["marker"]["symbol"].endswith("-open") == ("✗" in t["name"]) for t in right)


def test_an_evaluation_in_the_folder_of_a_run_is_shown_with_it(run, rng):
  make_evaluation(run / "evaluation", rng)
  drawn = show(run).data["figures"]
  assert {"curve-loss", "classes-0-0", "motion-0-0", "map-videos-0-0"} <= drawn.keys()


def test_classes_that_moved(tmp_path, rng):
  a = make_evaluation(tmp_path / "a", rng, clips=False)
  b = make_evaluation(tmp_path / "b", rng, clips=False)
  scores = {"<b>up</b>": 0.75, "down": 0.25, EVIL: 0.125}
  write(b / "mine" / "knn.json", {"protocol_name": "knn", "key": "k", "per_class": scores})
  page = show(a, b)
  moved = page.data["figures"]["moved"]
  assert moved["data"][0]["x"] == [-37.5, 0.0, 75.0]
  assert moved["layout"]["yaxis"]["ticktext"][-1] == "&lt;b&gt;up&lt;/b&gt;"
  assert page.text().count("clips of videos cannot be shown") == 2


@pytest.mark.parametrize("put", [None, [], "x", 1e400, {"mine": {"a": "b"}}])
def test_a_damaged_evaluation_never_ends_in_a_traceback(put, evaluation):
  for name in ("summary.json", "mine/knn.json", "mine/motion.json", "mine/page/videos.json"):
    file = evaluation / name
    text = file.read_text()
    for spoilt in _spoilt(json.loads(text), put):
      if name == "summary.json" and (
        not isinstance(spoilt, dict) or spoilt.get("job") != "evaluate"
      ):
        continue
      write(file, spoilt)
      show(evaluation)
    file.write_text(text)
  videos = json.loads((evaluation / "mine/page/videos.json").read_text())
  for key in videos["query"][0]:
    write(
      evaluation / "mine/page/videos.json",
      videos | {"query": [videos["query"][0] | {key: put}, videos["query"][1]]},
    )
    show(evaluation)


def test_damaged_tables_and_clips_are_said(evaluation):
  (evaluation / "mine" / "knn_confusion.csv").write_text("a,b\n1,2\n")
  (evaluation / "mine" / "page" / "clips.zip").write_bytes(b"PK no zip")
  page = show(evaluation)
  assert "knn_confusion.csv is damaged" in page.text()
  assert "clips of videos cannot be shown" in page.text()
  summary = json.loads((evaluation / "summary.json").read_text())
  write(evaluation / "summary.json", summary | {"splits": {"../../x": {}}})
  assert "which is no folder" in show(evaluation).text()


def _sides(shown):
  from PIL import Image

  images = [Image.open(io.BytesIO(base64.b64decode(x))) for x in shown.values()]
  return {(max(i.size), getattr(i, "n_frames", 1)) for i in images}


def test_a_page_keeps_to_its_size(evaluation, monkeypatch, rng):
  clipped = show(evaluation).data["videos"]["videos-0-0"]["clips"]
  bare = len((evaluation / "report.html").read_bytes()) - len(json.dumps(clipped))
  monkeypatch.setattr(reports, "_MARGIN", 500)  # the sentence about smaller clips
  noise = [webp(rng, 80, 6) for i in range(6)]
  with zipfile.ZipFile(evaluation / "mine" / "page" / "clips.zip", "w") as file:
    for i, data in enumerate(noise):
      file.writestr(f"query{i}.webp", data)
  sizes = []
  for room in (60_000, 12_000, 4_000):
    monkeypatch.setattr(reports, "LARGEST", bare + room)
    page = show(evaluation)
    assert (evaluation / "report.html").stat().st_size <= bare + room
    assert "made smaller" in page.text()
    sizes.append(page.data["videos"]["videos-0-0"]["clips"])
  assert [len(x) for x in sizes[:2]] == [6, 6]
  assert max(_sides(sizes[0])) > max(_sides(sizes[1])) >= max(_sides(sizes[2]))
  assert 0 < len(sizes[2]) < 6
  assert f"{6 - len(sizes[2])} have none" in page.text()


def test_clips_that_are_none_are_left_out(tmp_path, rng):
  good = webp(rng)
  with zipfile.ZipFile(tmp_path / "clips.zip", "w") as file:
    file.writestr("a.webp", good)
    file.writestr("b.webp", b"<svg onload=alert(1)>")
    file.writestr("c.webp", b"x" * (1 << 21))
  assert clips.read(tmp_path / "clips.zip", ["a", "b", "c", "d"]) == {"a": good}
  assert clips.smaller(b"RIFF0000WEBPnothing", clips.LEVELS[0]) is None


def _segments(start, end, label):
  return {"segment": [start, end], "label": label}


def test_actions_in_time_and_their_errors(tmp_path):
  """Each kind once, worked out by hand."""
  named = [("a", 0, 10), ("a", 20, 30), ("b", 40, 50), (EVIL, 60, 70)]
  segments = tuple(Segment(start, end, name) for name, start, end in named)
  truth = {"v": Video("test", 100.0, segments)}
  found = {
    "v": [
      Prediction(1, 9, "a", 0.9),  # tIoU 0.8
      Prediction(0, 10, "a", 0.8),  # the same action, less certain
      Prediction(24, 34, "a", 0.7),  # 6 / 14
      Prediction(41, 50, "a", 0.6),  # b's time
      Prediction(68, 78, "b", 0.5),  # 2 / 18 of another class
      Prediction(85, 90, "b", 0.4),
    ]
  }
  expected = ["hit", "again", "time", "class", "both", "nothing"]
  assert localized.kinds(found, truth) == {"v": expected}
  counts = localized.counted(found, truth)  # two of a, one of b
  assert counts == dict.fromkeys(localized.KINDS, 0) | {
    "hit": 1,
    "again": 1,
    "both": 1,
    "missed": 3,
  }
  results = {"v": [_segments(p.start, p.end, p.label) | {"score": p.score} for p in found["v"]]}
  write(tmp_path / "predictions.json", {"results": results})
  own = [_segments(s.start, s.end, s.label) for s in segments]
  database = {"v": {"subset": "test", "duration": 100.0, "annotations": own}}
  page = show(tmp_path)
  assert "only predictions are shown" in page.text()
  assert page.data["videos"]["segments-0"]["annotated"] is False
  write(tmp_path / "truth.json", {"database": database})
  page = show(tmp_path)
  (video,) = page.data["videos"]["segments-0"]["segments"]
  assert video["truth"][3] == [60.0, 70.0, EVIL]
  assert page.data["videos"]["segments-0"]["annotated"] is True
  assert [f[4] for f in video["found"]] == expected
  assert page.data["figures"]["errors-segments-0"]["data"][0]["x"] == list(counts.values())
  write(tmp_path / "truth.json", {"database": []})
  run = make_run(tmp_path)
  assert "Predicted segments are not shown" in show(run).text()


def test_the_server_shows_the_page_on_this_machine_alone(tmp_path):
  file = tmp_path / "page.html"
  file.write_text("ä")
  (tmp_path / "secret").write_text("x")
  with serve.server(file) as running:
    host, port = running.server_address[:2]
    assert host == "127.0.0.1"
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
      answers = []
      for path, name in (("/", host), ("/secret", host), ("/../secret", host), ("/", "evil.org")):
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.request("GET", path, headers={"Host": f"{name}:{port}"})
        answer = connection.getresponse()
        answers.append((answer.status, answer.read()))
        connection.close()
    finally:
      running.shutdown()
      thread.join()
    with pytest.raises(UserError, match=f"--port={port}: cannot be used"):
      serve.server(file, port)
  assert answers[0] == (200, "ä".encode())
  assert [status for status, _ in answers[1:]] == [404, 404, 403]
