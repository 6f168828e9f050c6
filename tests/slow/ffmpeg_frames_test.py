"""Frames and times of made videos of all kinds against those of the program `ffmpeg`.

Printed as a table by `python -m pytest -s -m slow tests/slow/ffmpeg_frames_test.py`.
"""

import io
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from data_pipelines.videos import decode, jpeg
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


def run(*argv):
  command = [ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", *argv]
  done = subprocess.run(command, capture_output=True, timeout=60, check=False)
  assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
  return done


def make(path, rate, how, again=""):
  seconds = max(2.0, 8 / eval(rate))
  source = "testsrc2=s={}x{}:r={}:d={}".format(*SIZE, rate, seconds)
  first = path if not again else path.with_name(f"first{path.suffix}")
  pixels = "" if "-pix_fmt" in how else "-pix_fmt yuv420p"
  if re.search(r"gif|png|prores|svq1|cinepak", how):
    pixels = ""
  threads = "-threads 1 -fflags +bitexact"
  run("-f", "lavfi", "-i", source, *how.split(), *pixels.split(), *threads.split(), str(first))
  if again:
    run(*again.split(), "-i", str(first), "-c", "copy", str(path))


def by_ffmpeg(path, sideways):
  """Frames as shown, uint8 `[T, H, W, 3]`, and their seconds from the first."""
  square = "iw:round(ih/sar)" if sideways else "round(iw*sar):ih"
  graph = (
    f"scale={square}:flags=bicubic:in_h_chr_pos=0:in_v_chr_pos=128,format=rgb24,setsar=1,showinfo"
  )
  done = run(
    "-i", str(path), "-map", "0:v:0", "-vf", graph, "-fps_mode", "passthrough",
    "-f", "rawvideo", "-pix_fmt", "rgb24", "-",
  )  # fmt: skip
  log = done.stderr.decode(errors="replace")
  width, height = (int(x) for x in re.findall(r"showinfo.* s:(\d+)x(\d+)", log)[0])
  times = np.array([float(x) for x in re.findall(r"pts_time:\s*(-?[\d.]+)", log)])
  frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
  return frames, times - times[0]


def ours(path, monkeypatch):
  """The same by the module under test, with frames stored without loss."""
  times = []
  with monkeypatch.context() as patch:
    save = Image.Image.save
    patch.setattr(Image.Image, "save", lambda self, file, form, quality: save(self, file, "PPM"))
    (part,) = decode.decode(path, FrameSettings(short_side=0))
  with decode.opened(path) as source:
    times = np.array([time for time, _ in source])
  frames = np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in part.frames])
  return frames, times, part


def test_the_frames_are_those_of_ffmpeg(tmp_path, monkeypatch):
  assert jpeg.Image is Image  # what `ours` patches
  rows, wrong = [], []
  for name, rate, how, *again in MADE:
    path = tmp_path / name
    try:
      make(path, rate, how, *again)
    except AssertionError as error:
      print(name, "cannot be made:", str(error).strip().splitlines()[-1][:150])
      continue
    try:
      got, got_times, part = ours(path, monkeypatch)
    except decode.UnreadableError as error:
      wrong.append((name, str(error)))
      continue
    sideways = "90" in name or "270" in name
    want, want_times = by_ffmpeg(path, sideways)
    row = [name, len(got), len(want), "{}x{}".format(*part.size), f"{part.source_fps:.4g}"]
    if got.shape != want.shape:
      wrong.append((name, "shape", got.shape, want.shape))
      rows.append([*row, "", "", ""])
      continue
    difference = np.abs(got.astype(int) - want).mean((1, 2, 3))
    late = np.abs(got_times - got_times[0] - want_times).max()
    rows.append([*row, f"{difference.max():.3f}", f"{late * 1e3:.1f}", "; ".join(part.notes)])
    if difference.max() > 1.5:
      wrong.append((name, "pixels", difference.max()))
    if late > 2e-3:
      wrong.append((name, "times", got_times[:5], want_times[:5]))
  print()
  for row in rows:
    print("| " + " | ".join(map(str, row)) + " |")
  assert len(rows) >= 60
  assert not wrong, wrong
