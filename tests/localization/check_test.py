import numpy as np
import pytest

from vssl_jax.errors import UserError
from vssl_jax.localization import check
from vssl_jax.localization.annotations import Segment, Video


@pytest.fixture
def folder(tmp_path):
  np.save(tmp_path / "good.npy", np.ones((20, 4), np.float32))
  return tmp_path


def video(*segments, duration=10.0):
  return Video("train", duration, tuple(Segment(*s) for s in segments or [(1.0, 2.0, "run")]))


def found(folder, name="v", made=None, features=None, **kwargs):
  if features is not None:
    np.save(folder / f"{name}.npy", features)
  videos = {"good": video(), name: made or video()}
  return check.find_problems(videos, folder, step_seconds=0.5, **kwargs)


def test_nothing_to_find(folder):
  features = np.zeros((20, 4), np.float16)
  assert found(folder, features=features, label_names=["run"]) == []
  check.require([])


@pytest.mark.parametrize(
  ("features", "message"),
  [
    (np.ones((0, 4)), "no features"),
    (np.ones((20, 5)), "5 wide, those of the first video 4"),
    (np.ones(20), r"\[20\]"),
    (np.ones((20, 4), complex), r"complex128 \[20, 4\], not numbers"),
    (np.array([["a"]]), "not numbers"),
    (np.where(np.arange(20)[:, None] == 7, np.nan, np.ones((20, 4))), "1 of 20 rows, first 7"),
    (np.where(np.arange(20)[:, None] > 17, np.inf, np.ones((20, 4))), "2 of 20 rows, first 18"),
  ],
)
def test_bad_features_are_fatal(folder, features, message):
  problems = found(folder, features=features)
  assert [p.video for p in problems if p.fatal] == ["v"]
  with pytest.raises(UserError, match=message):
    check.require(problems)


def test_axes_of_length_1_are_dropped(tmp_path):
  x = np.random.default_rng(0).normal(size=(6, 4))
  path = tmp_path / "v.npy"
  for shape in ((6, 1, 1, 4), (6, 1, 4)):
    np.save(path, x.reshape(shape))
    for mapped in (False, True):
      np.testing.assert_array_equal(check.read_sequence(path, mapped=mapped), x)
  for shape in ((1, 6, 4), (6, 2, 2), (2, 3, 1, 4), (24,), ()):
    np.save(path, np.resize(x, shape))
    with pytest.raises(UserError, match="not numbers"):
      check.read_sequence(path)


def test_streams_are_joined_where_they_are_about_equally_long(tmp_path):
  paths = [tmp_path / f"{s}.npy" for s in ("rgb", "flow")]
  for lengths, told, fatal in (((9, 8), 0, 0), ((50, 46), 1, 0), ((50, 45), 1, 1), ((3, 1), 1, 1)):
    for path, n in zip(paths, lengths, strict=True):
      np.save(path, np.full((n, 2), n))
    found = check.streams_differ({"v": paths})
    assert (len(found), sum(p.fatal for p in found)) == (told, fatal)
    if fatal:
      with pytest.raises(UserError, match=f"{lengths[0]}, .*flow.npy {lengths[1]}; extract"):
        check.read_streams(paths)
    else:
      whole = check.read_streams(paths)
      np.testing.assert_array_equal(whole, np.repeat([lengths], min(lengths), 0).repeat(2, 1))
  assert check.streams_differ({"v": [*paths, tmp_path / "gone.npy"]}) == []


def test_files_may_be_given_by_video(folder):
  problems = check.find_problems({"a": video()}, {"a": folder / "good.npy"}, step_seconds=0.5)
  assert problems == []
  assert check.width_of({"a": folder / "good.npy"}, ["a"]) == 4


def test_missing_and_empty_files(folder):
  (folder / "empty.npy").touch()
  (folder / "text.npy").write_text("no array")
  (folder / "zip.npy").write_bytes(b"PK\x03\x04 no archive")
  np.savez(folder / "many.npz", np.ones((20, 4)))
  (folder / "many.npz").rename(folder / "many.npy")
  for name, message in {
    "gone": "is missing",
    "empty": "cannot be read",
    "text": "cannot be read",
    "zip": "cannot be read",
    "many": "is an archive of arrays",
  }.items():
    (problem,) = found(folder, name)
    assert message in problem.message
    assert problem.fatal


@pytest.mark.parametrize(
  ("segments", "message", "fatal"),
  [
    ([(1.0, 2.0, "fly")], "label 'fly' is none of the 2 classes", True),
    ([(10.0, 12.0, "run")], "starts past the end", True),
    ([(1.0, 2.0, "run"), (10.0, 12.0, "run")], "starts past the end", False),
    ([(9.0, 10.6, "run")], "ends past the end, 10.0 s", False),
    ([(3.0, 3.0, "run")], "no length", False),
    ([(-1.0, 3.0, "run")], "segment -1 to 3 s (run) starts before 0", False),
    ([(-3.0, -1.0, "run"), (1.0, 3.0, "run")], "segment -3 to -1 s (run) starts before 0", False),
    ([(-3.0, -1.0, "run")], "segment -3 to -1 s (run) starts before 0", True),
  ],
)
def test_segments(folder, segments, message, fatal):
  made = video(*segments)
  (problem,) = found(folder, made=made, features=np.ones((20, 4)), label_names=["run", "dive"])
  assert message in problem.message
  assert problem.fatal == fatal


def test_a_segment_around_the_whole_video_is_told_of_twice(folder):
  problems = found(folder, made=video((-1.0, 30.0, "run")), features=np.ones((20, 4)))
  assert [p.message.split("(run) ")[1] for p in problems] == [
    "starts before 0",
    "ends past the end, 10.0 s",
  ]
  mixed = video((-3.0, -1.0, "run"), (10.0, 12.0, "run"))
  assert [p.fatal for p in found(folder, made=mixed, features=np.ones((20, 4)))] == [True, True]


def test_length_against_duration(folder):
  features = np.ones((20, 4))  # 10 s
  for duration, number in {8.2: 0, 12.2: 0, 8.0: 1, 12.4: 1, None: 0}.items():
    problems = found(folder, made=video(duration=duration), features=features)
    assert len(problems) == number, duration
    assert not any(p.fatal for p in problems)
  beyond = video((9.0, 11.0, "run"), duration=None)
  assert "past the end, 10.0 s" in found(folder, made=beyond, features=features)[0].message


def test_the_width_of_other_videos_and_videos_that_need_no_action(folder):
  none = Video("test", 10.0, ())
  assert found(folder, made=none, features=np.ones((20, 4)), labeled=False, width=4) == []
  problems = found(folder, features=np.ones((20, 4)), width=5)
  assert [p.message for p in problems] == [
    "features are 4 wide, those of the training videos 5"
  ] * 2
  (folder / "bad.npy").touch()
  assert check.width_of(folder, ["gone", "bad", "good"]) == 4
  assert check.width_of(folder, ["gone", "bad"]) is None


def test_no_action_and_the_report(folder):
  none = Video("train", 10.0, ())
  problems = found(folder, made=none, features=np.ones((40, 4)))
  text = check.report(problems)
  assert text.splitlines() == [
    "error: v: has no annotated action",
    "note: v: features cover 20.0 s of a video of 10.0 s",
  ]
  assert check.report(problems, most=1).splitlines()[1:] == ["note: 1 more findings like these"]
  with pytest.raises(UserError, match=r"'v': has no annotated action.$"):
    check.require(problems)
  with pytest.raises(UserError, match=r"\(and 1 more problems\)"):
    check.require(problems + problems)
