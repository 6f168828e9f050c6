"""Iterators: their elements, and that nobody who drops one waits for its reads."""

import gc
import threading

import pytest

pytestmark = pytest.mark.usefixtures("tf")


@pytest.fixture
def waiting(tf):
  """Makes iterators of 0 to 99, whose elements but the first wait until an event is set."""
  go = threading.Event()

  def read(x):
    if x:
      go.wait(60)
    return x

  def element(x):
    return tf.ensure_shape(tf.numpy_function(read, [x], tf.int64), [])

  dataset = tf.data.Dataset.range(100).map(element, num_parallel_calls=2).prefetch(2)
  yield (lambda: _iterator(dataset)), go
  go.set()


def _iterator(dataset):
  from data_pipelines.clips import iterators

  return iterators.Numpy(dataset)


def test_elements_are_those_of_the_dataset(waiting):
  make, go = waiting
  go.set()
  assert [int(x) for x in make()] == list(range(100))


@pytest.mark.parametrize("cycle", [False, True])
def test_who_drops_one_does_not_wait_for_its_reads(waiting, cycle):
  """In the thread for which the reads wait, this would never end."""
  box = [[waiting[0]()]]
  assert next(box[0][0]) == 0  # and so the reads of others have begun
  if cycle:
    box[0].append(box[0])

  def drop():
    box.clear()
    gc.collect()

  thread = threading.Thread(target=drop, daemon=True)
  thread.start()
  thread.join(20)
  assert not thread.is_alive()
