"""What the pictures show; that they can be drawn at all, small and large, is seen by their size."""

import numpy as np
import PIL.Image
import pytest

from vssl_jax.evaluation.pictures import class_bars, embedding_plot, gallery


def _size(path):
  with PIL.Image.open(path) as image:
    return image.size


def test_weakest_and_strongest_classes():
  scores = np.array([np.arange(10.0), np.arange(10.0)])
  scores[:, 3] = np.nan
  np.testing.assert_array_equal(class_bars.select(scores, 4), [0, 1, 8, 9])
  np.testing.assert_array_equal(class_bars.select(scores, 9), [0, 1, 2, 4, 5, 6, 7, 8, 9])
  scores[0] = -scores[0]  # by the mean over protocols, all alike: ties by number
  np.testing.assert_array_equal(class_bars.select(scores, 4), [0, 1, 8, 9])


def test_bars_of_few_and_many_classes(tmp_path):
  rng = np.random.default_rng(0)
  few, many = tmp_path / "few.png", tmp_path / "many.png"
  class_bars.draw(few, {"a": [0.5, None], "b": [1.0, None]}, ("x", "$y"), [3, None], "t")
  rows = {"a": rng.random(60).tolist()}
  class_bars.draw(many, rows, [f"class {i}" for i in range(60)], range(60))
  assert _size(many)[1] > 3 * _size(few)[1]


def test_neighbors_stay_neighbors_on_the_plane():
  rng = np.random.default_rng(0)
  label = np.repeat([0, 1, 2], 12)
  x = np.eye(6)[label] + 0.05 * rng.normal(size=(36, 6))
  places = embedding_plot.project(x, "t-SNE", 0)
  np.testing.assert_array_equal(places, embedding_plot.project(x, "t-SNE", 0))
  apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(36)
  assert np.all(label[apart.argmin(1)] == label)
  assert "t-SNE" in embedding_plot.methods()


def test_the_sample_is_of_labeled_videos():
  label = np.array([-1, 0, 1, -1, 2, 0])
  np.testing.assert_array_equal(embedding_plot.sample(label, 0), [1, 2, 4, 5])
  assert len(embedding_plot.sample(label, 0, 2)) == 2


@pytest.mark.parametrize("classes", [3, 30, 70])
def test_points_of_few_and_many_classes(tmp_path, classes):
  label = np.arange(140) % classes
  places = np.random.default_rng(0).normal(size=(140, 2))
  names = [f"class {i}" for i in range(classes)]
  embedding_plot.draw(tmp_path / "p.png", places, label, names, "t")
  assert _size(tmp_path / "p.png")[0] > 500


def test_every_class_has_its_query():
  label = np.array([0] * 10 + [1] * 2 + [-1] * 5 + [2])
  chosen = gallery.choose(label, 3, 0)
  assert label[chosen].tolist() == [0, 1, 2]
  assert label[gallery.choose(label, 5, 0)].tolist() == [0, 0, 1, 1, 2]
  assert len(gallery.choose(label, 100, 0)) == 13
  assert {gallery.choose(label, 3, s)[0] for s in range(20)} > {0}  # not the first of its class


def test_nearest_by_cosine():
  rng = np.random.default_rng(0)
  bank, queries = rng.normal(size=(9, 4)), rng.normal(size=(3, 4))
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  similarity = unit(queries) @ unit(bank).T
  cosine, found = gallery.nearest(bank, queries, 5)
  np.testing.assert_array_equal(found, np.argsort(-similarity, axis=1)[:, :5])
  np.testing.assert_allclose(cosine, -np.sort(-similarity, axis=1)[:, :5], rtol=1e-5)
  assert gallery.nearest(bank, queries, 50)[1].shape == (3, 9)


class _Source:
  """Videos 0 to 9, each of one grey; of odd ones nothing can be read."""

  def __init__(self, ids=range(10)):
    self.ids = list(ids)

  def only(self, videos):
    return _Source([self.ids[v] for v in videos])

  def eval_batches(self, batch_size, *, clips, crops, frames, stride, resize, size):
    for first in range(0, len(self.ids), batch_size):
      ids = self.ids[first : first + batch_size]
      shape = (len(ids), clips * crops, frames, size, size, 3)
      grey = np.broadcast_to(np.reshape(ids, (-1, 1, 1, 1, 1, 1)), shape).astype(np.uint8)
      yield {
        "clips": 10 * grey,
        "video": np.arange(first, first + len(ids)),
        "valid": np.array(ids) % 2 == 0,
      }


def test_frames_are_those_of_the_videos():
  found = gallery.frames(_Source(), [6, 2, 3, 6], size=8)
  assert set(found) == {2, 6}
  assert found[6].shape == (8, 8, 3)
  assert int(found[6].mean()) == 60
  assert int(found[2].mean()) == 20


def test_a_gallery_with_a_missing_frame(tmp_path):
  frame = np.zeros((8, 8, 3), np.uint8)
  near = [
    {"frame": None, "label": "b", "name": "", "cosine": 0.9, "right": False},
    {"frame": frame, "label": "a", "name": "x/y.avi", "cosine": 0.5, "right": True},
  ]
  query = {"frame": frame, "label": "a", "name": "q/long_name_of_a_video.avi"}
  rows = [{"query": query, "neighbors": near}, {"query": query, "neighbors": near[:1]}]
  gallery.draw(tmp_path / "g.png", rows, "title")
  width, height = _size(tmp_path / "g.png")
  pixels = np.asarray(PIL.Image.open(tmp_path / "g.png").convert("RGB")).reshape(-1, 3)
  for color in ((0x2A, 0x8A, 0x3E), (0xC0, 0x39, 0x2B)):
    assert np.all(pixels == color, axis=1).sum() > 50
  assert width > height / 2
