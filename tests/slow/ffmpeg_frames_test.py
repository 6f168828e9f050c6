"""Frames and times of made videos of all kinds against those of the program `ffmpeg`.

`python -m pytest -s -m slow tests/slow/ffmpeg_frames_test.py` prints a table.
"""

import concurrent.futures
import fractions
import io
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from data_pipelines.videos import decode
from data_pipelines.videos.decode import FrameSettings

ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs ffmpeg, of the extra 'test'")
pytestmark = pytest.mark.slow

SIZE = (64, 48)
X264 = "-c:v libx264 -preset ultrafast -bf 2 -x264-params b-adapt=0"
NTSC, FILM = "30000/1001", "24000/1001"
# File, frames per second, how it is encoded, and how what was encoded is then packed.
MADE: tuple[tuple[str, str, str] | tuple[str, str, str, str], ...] = (
  # Containers.
  ("mp4.mp4", "30", X264),
  ("mov.mov", "25", X264),
  ("m4v.m4v", "25", X264),
  ("3gp.3gp", "15", "-c:v mpeg4"),
  ("mkv.mkv", "30", X264),
  ("webm.webm", "30", "-c:v libvpx -deadline realtime"),
  ("avi.avi", "25", "-c:v mpeg4 -vtag xvid"),
  ("flv.flv", "30", X264),
  ("f4v.f4v", "30", X264),
  ("ts.ts", "25", X264),
  ("m2ts.m2ts", "25", X264),
  ("mpg.mpg", "25", "-c:v mpeg1video -bf 2"),
  ("vob.vob", "25", "-c:v mpeg2video -bf 2"),
  ("wmv.wmv", "25", "-c:v wmv2"),
  ("asf.asf", "25", "-c:v msmpeg4v3"),
  ("ogv.ogv", "25", "-c:v libtheora -q:v 7"),
  ("mxf.mxf", "25", "-c:v mpeg2video -bf 2"),
  ("nut.nut", "25", "-c:v mpeg4 -bf 2"),
  ("gif.gif", "20", "-c:v gif"),
  ("y4m.y4m", "25", "-c:v rawvideo"),
  ("ivf.ivf", "25", "-c:v libvpx -deadline realtime"),
  ("fragments.mp4", "30", f"{X264} -g 15 -movflags frag_keyframe+empty_moov"),
  ("faststart.mp4", "30", f"{X264} -movflags +faststart"),
  # Codecs.
  ("hevc.mp4", "25", "-c:v libx265 -preset ultrafast -x265-params log-level=none -tag:v hvc1"),
  ("vp9.webm", "25", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8"),
  ("av1.mp4", "25", "-c:v libaom-av1 -cpu-used 8 -usage realtime"),
  ("mpeg4_b.mp4", "25", "-c:v mpeg4 -bf 2"),
  ("mjpeg.mov", "25", "-c:v mjpeg -q:v 3"),
  ("mjpeg.avi", "25", "-c:v mjpeg -q:v 3"),
  ("prores.mov", "25", "-c:v prores_ks"),
  ("dnxhr.mov", "25", "-c:v dnxhd -profile:v dnxhr_lb -s 256x128"),
  ("ffv1.mkv", "25", "-c:v ffv1"),
  ("huffyuv.avi", "25", "-c:v huffyuv -pix_fmt yuv422p"),
  ("utvideo.avi", "25", "-c:v utvideo"),
  ("raw.avi", "25", "-c:v rawvideo -pix_fmt yuv420p"),
  ("png.mov", "25", "-c:v png"),
  ("svq1.mov", "25", "-c:v svq1"),
  ("h263.avi", "25", "-c:v h263 -s 176x144"),
  ("flv1.flv", "25", "-c:v flv"),
  ("snow.avi", "25", "-c:v snow -strict -2"),
  ("cinepak.avi", "10", "-c:v cinepak"),
  # Pixel formats.
  ("yuv422.mp4", "25", f"{X264} -pix_fmt yuv422p"),
  ("yuv444.mp4", "25", f"{X264} -pix_fmt yuv444p"),
  ("ten_bits.mp4", "25", f"{X264} -pix_fmt yuv420p10le"),
  ("gray.mkv", "25", "-c:v ffv1 -pix_fmt gray"),
  ("gray16.mkv", "25", "-c:v ffv1 -pix_fmt gray16le"),
  ("rgb.mkv", "25", "-c:v ffv1 -pix_fmt bgr0"),
  ("alpha.mov", "25", "-c:v png -pix_fmt rgba"),
  ("yuv411.avi", "25", "-c:v rawvideo -pix_fmt yuv411p"),
  ("full_range.mp4", "25", f"{X264} -pix_fmt yuvj420p"),
  # Rates.
  ("ntsc.mp4", NTSC, X264),
  ("ntsc.mkv", NTSC, X264),
  ("film.mov", FILM, X264),
  ("sixty.mp4", "60", X264),
  ("fast.mp4", "120", X264),
  ("slow.mp4", "2", X264),
  ("one_a_second.mkv", "1", X264),
  ("variable.mp4", "30", f"-vf select='not(between(n,9,14))*gt(mod(n,4),0)' {X264} -fps_mode vfr"),
  ("variable.mkv", "30", f"-vf select='not(between(n,9,14))*gt(mod(n,4),0)' {X264} -fps_mode vfr"),
  ("dropped.avi", "30", "-vf select='lt(mod(n,6),3)' -c:v mpeg4 -fps_mode vfr"),
  ("late.mp4", "25", f"{X264} -output_ts_offset 1.5"),
  # Order of frames that the container does not store.
  ("b_frames.avi", "25", "-c:v mpeg4 -bf 2 -vtag xvid"),
  ("h264.avi", "25", X264),
  # Streams without a container.
  ("stream.h264", "30", X264),
  ("stream.h265", "24", "-c:v libx265 -preset ultrafast -x265-params log-level=none"),
  ("stream.m2v", "25", "-c:v mpeg2video -bf 2"),
  ("stream.m4v", "25", "-c:v mpeg4 -f m4v"),
  ("stream.mjpeg", "25", "-c:v mjpeg -q:v 3"),
  # Cuts without encoding again; in MP4 an edit list hides what comes before.
  ("cut.mp4", "30", f"{X264} -g 40", "-ss 1.0 -t 0.8"),
  ("cut.mov", "30", f"{X264} -g 40", "-ss 0.5 -t 1.2"),
  ("cut.mkv", "30", f"{X264} -g 40", "-ss 1.0 -t 0.8"),
  # Rotations and mirrors.
  *(
    (f"{name}.{kind}", "25", X264, f"-display_rotation {turn} {flip}".strip())
    for kind in ("mp4", "mov")
    for name, turn, flip in (
      ("turned_90", 90, ""),
      ("turned_180", 180, ""),
      ("turned_270", -90, ""),
      ("mirrored", 0, "-display_hflip"),
      ("flipped", 0, "-display_vflip"),
      ("mirrored_90", 90, "-display_hflip"),
      ("mirrored_270", -90, "-display_hflip"),
      ("tilted", 30, ""),
    )
  ),
  ("turned_90.mkv", "25", X264, "-display_rotation 90"),
  # Pixels that are not square.
  ("wide.mp4", "25", f"{X264} -vf setsar=16/11"),
  ("narrow.mp4", "25", f"{X264} -vf setsar=8/9"),
  ("wide.mkv", "25", f"{X264} -vf setsar=4/3"),
  ("wide.mpg", "25", "-c:v mpeg2video -vf setdar=16/9"),
  ("wide.avi", "25", "-c:v mpeg4 -vf setsar=4/3"),
  ("nearly_square.mp4", "25", f"{X264} -vf setsar=255/256"),
  ("wide_90.mp4", "25", f"{X264} -vf setsar=4/3", "-display_rotation 90"),
)  # fmt: skip

# Where ffmpeg is not told how chroma lies, it resamples it differently from release to release.
RESAMPLED = ("ten_bits", "wide", "narrow")


def run(*argv):
  command = [ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", *argv]
  done = subprocess.run(command, capture_output=True, timeout=120, check=False)
  assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
  return done


def make(folder, name, rate, how, again=""):
  """Writes a video of moving patterns; `again` are flags with which it is packed once more."""
  path = folder / name
  first = path if not again else folder / f"first_{name}"
  seconds = max(2.0, 8 / float(fractions.Fraction(rate)))
  source = "testsrc2=s={}x{}:r={}:d={}".format(*SIZE, rate, seconds)
  own = "-pix_fmt" in how or re.search("gif|png|prores|svq1|cinepak", how)
  pixels = "" if own else "-pix_fmt yuv420p"
  flags = f"{how} {pixels} -threads 1".split()
  run("-f", "lavfi", "-i", source, *flags, str(first))
  if again:
    run(*again.split(), "-i", str(first), "-c", "copy", str(path))
  return path


def by_ffmpeg(path):
  """Frames as players show them, uint8 `[T, H, W, 3]`, and their seconds from the first."""
  scale = "scale=round(iw*sar):ih:flags=bicubic"
  if path.name.startswith(RESAMPLED):
    scale += ":in_h_chr_pos=0:in_v_chr_pos=128"
  # ffmpeg turns before it scales, so that the bicubic filter sees another picture.
  by_hand = path.name == "wide_90.mp4"
  done = run(
    *(["-noautorotate"] if by_hand else []), "-i", str(path), "-map", "0:v:0",
    "-vf", f"{scale},format=rgb24,setsar=1,showinfo", "-fps_mode", "passthrough",
    "-f", "rawvideo", "-",
  )  # fmt: skip
  log = done.stderr.decode(errors="replace")
  width, height = (int(x) for x in re.findall(r"showinfo.* s:(\d+)x(\d+)", log)[0])
  times = np.array([float(x) for x in re.findall(r"pts_time:\s*(-?[\d.]+)", log)])
  frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
  return np.rot90(frames, 1, (1, 2)) if by_hand else frames, times - times[0]


def ours(path):
  """The same by the module under test."""
  (part,) = decode.decode(path, FrameSettings(short_side=0))
  with decode.opened(path) as source:
    times = np.array([time for time, _ in source])
  frames = np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in part.frames])
  return frames, times - times[0], part


@pytest.fixture
def lossless(monkeypatch):
  """Frames are stored without loss instead of as JPEGs."""
  save = Image.Image.save
  monkeypatch.setattr(
    Image.Image, "save", lambda self, file, kind, quality: save(self, file, "PPM")
  )


def test_the_frames_are_those_of_ffmpeg(tmp_path, lossless):
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    paths = [*pool.map(lambda row: make(tmp_path, *row), MADE)]
    expected = [*pool.map(by_ffmpeg, paths)]
  wrong = {}
  print("\n| file | frames | of ffmpeg | size | fps | largest difference | of times, ms |")
  print("|---|---|---|---|---|---|---|")
  for path, (want, want_times) in zip(paths, expected, strict=True):
    got, times, part = ours(path)
    row = f"| {path.name} | {len(got)} | {len(want)} | {part.size} | {part.source_fps:.5g} |"
    if got.shape != want.shape:
      wrong[path.name] = f"{got.shape}, not {want.shape}"
      print(f"{row} shape | |")
      continue
    pixels = np.abs(got.astype(int) - want).mean((1, 2, 3)).max()
    late = np.abs(times - want_times).max() * 1e3
    print(f"{row} {pixels:.3f} | {late:.2f} |")
    # Tilted frames are interpolated: ffmpeg's filter is bilinear.
    if pixels > (15 if path.name.startswith("tilted") else 0) or late > 0.5 or part.notes:
      wrong[path.name] = f"pixels {pixels}, times {late} ms, {part.notes}"
  assert len(paths) >= 60
  assert not wrong
