"""The page in headless Chromium: every figure is drawn, nothing is loaded, choosing works."""

import os
import shutil

import pytest

import vssl_jax
from tests.reports.conftest import EVIL, make_evaluation, make_run, write

pytest.importorskip("plotly")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FLAGS = (
  *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
  *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def browser():
  with playwright.sync_playwright() as p:
    started = p.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
    yield started
    started.close()


@pytest.fixture
def page_of_all(tmp_path, rng):
  """Two seeds, one of them evaluated, and a localization."""
  runs = [make_run(tmp_path / f"s{i}", seed=i) for i in range(2)]
  make_evaluation(runs[0] / "evaluation", rng)
  segment = {"segment": [1.0, 4.0], "label": EVIL}
  found = tmp_path / "found"
  write(found / "predictions.json", {"results": {"v": [segment | {"score": 1.0}], "w": []}})
  videos = {n: {"subset": "t", "duration": 9.0, "annotations": [segment]} for n in "vw"}
  write(found / "truth.json", {"database": videos})
  return vssl_jax.report([*runs, found], tmp_path / "page.html")


def _open(browser, path, width=1400, dark=False):
  context = browser.new_context(
    viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
  )
  page = context.new_page()
  page.wrong, page.asked = [], []
  page.on("console", lambda m: m.type in ("error", "warning") and page.wrong.append(m.text))
  page.on("pageerror", lambda e: page.wrong.append(str(e)))
  page.on("dialog", lambda d: page.wrong.append(f"dialog {d.message}") or d.dismiss())
  page.on("request", lambda r: page.asked.append(r.url))
  page.goto(path.as_uri())
  page.wait_for_selector("html[data-ready]", timeout=60_000)
  return page


def _colors(page):
  return page.evaluate(
    "[...document.querySelectorAll('.xtick text')].map(x => x.style.fill)[0] + "
    "getComputedStyle(document.body).backgroundColor"
  )


def test_every_figure_is_drawn_at_every_width(browser, page_of_all):
  colors = set()
  for width, dark in ((1400, False), (800, True), (390, False)):
    page = _open(browser, page_of_all, width, dark)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.wait_for_timeout(200)
    named = page.evaluate("Object.keys(data.figures)")
    assert len(named) == 10
    for name in named:
      box = page.locator(f"#figure-{name} .main-svg").first.bounding_box()
      assert box["width"] > 100, name
      assert box["height"] > 100, name
      shapes = f"#figure-{name} :is(.scatterlayer path, .barlayer path, .heatmaplayer image)"
      assert page.locator(shapes).count(), name
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.wrong == []
    assert [u for u in page.asked if not u.startswith(("file:", "data:", "blob:"))] == []
    assert page.locator("text=<script>alert(1)</script>").count()
    colors.add(_colors(page))
    page.close()
  assert len(colors) == 2  # light and dark


def test_choosing_a_video_shows_its_neighbors(browser, page_of_all):
  page = _open(browser, page_of_all)
  part = page.locator("[data-explore]")
  assert part.locator(".query").inner_text().startswith("✗ <b>up</b>")  # the first is wrong
  part.locator(".choose").select_option("3")
  near = part.locator(".neighbors li")
  assert near.count() == 2
  assert [x.split("\n")[0] for x in near.all_inner_texts()] == ["✓ <b>up</b>", "✗ down"]
  assert "cosine 0.900" in near.first.inner_text()
  assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
  ring = "document.querySelector('[data-explore] .js-plotly-plot').data.at(-1).x"
  assert page.evaluate(ring) == [3]
  part.locator(".choose").focus()
  page.keyboard.press("ArrowDown")  # by keys alone
  assert page.evaluate(ring) == [4]
  page.keyboard.press("Tab")
  page.keyboard.press("Enter")  # previous
  assert page.evaluate(ring) == [3]
  part.locator(".only-wrong").check()
  assert part.locator(".choose option").count() == 1
  assert page.evaluate(ring) == [0]
  part.locator(".pause").click()
  page.wait_for_function("document.querySelector('.query img').src.startsWith('data:image/png')")
  part.locator(".pause").click()
  page.wait_for_function("document.querySelector('.query img').src.startsWith('data:image/webp')")
  point = part.locator(".scatterlayer .point").nth(2)
  point.scroll_into_view_if_needed()
  point.hover(force=True)
  page.wait_for_selector(".tip:not([hidden]) img")
  point.click(force=True)
  assert page.evaluate(ring) != [0]
  assert page.wrong == []
  page.close()


def test_choosing_a_video_in_time(browser, page_of_all):
  page = _open(browser, page_of_all)
  part = page.locator("[data-timelines]")
  assert part.locator("[id^=figure-timeline] .barlayer .point").count() == 2
  assert "✓" in part.locator("[id^=figure-timeline] .barlayer").text_content()
  part.locator(".next").click()
  page.wait_for_function("document.querySelector('[data-timelines] select').value === '1'")
  assert part.locator("[id^=figure-timeline] .barlayer .point").count() == 1
  assert part.locator(".list tr").count() == 2
  assert page.wrong == []
  page.close()
