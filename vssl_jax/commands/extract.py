"""`vssl extract`: the flags of `vssl_jax.extract_features`."""

from __future__ import annotations

import argparse

from vssl_jax.cli import arguments

RESUMES = True
DESCRIPTION = """\
Slides an encoder over untrimmed videos: one .npy file of snippet features [T, D] per video.

The checkpoint may be of any method with an encoder of clips. The files are what
config.data.source = "localization" reads, once annotations.json lies beside them (or is named); set
config.data.localization.step_seconds to what is printed. manifest.json says what they were made
from. A killed run goes on when started again: each file appears whole, and is made once.
Only one process at a time may write to a folder.
"""
EXAMPLES = """\
vssl extract --checkpoint=runs/mine --videos=UNTRIMMED --output=FEATURES
vssl extract --checkpoint=exported --videos=UNTRIMMED --output=FEATURES --fps=0 --stride=8
vssl extract --checkpoint=runs/mine --videos=UNTRIMMED --output=FEATURES --engine=ray
"""
_LISTED = 10  # unreadable or noted videos printed; the manifest has all


def parser() -> arguments.Parser:
  """The flags."""
  p = arguments.Parser("vssl extract", DESCRIPTION, EXAMPLES)
  add = p.add_argument
  arguments.checkpoint(p)
  add("--videos", required=True, metavar="DIR", help="folder of videos")
  arguments.output(p, "folder for the features", "--out")
  add("--frames", type=int, default=16, help="frames per snippet (default: 16)")
  add("--step", type=int, default=1, help="distance of a snippet's frames, in frames (default: 1)")
  add("--stride", type=int, default=16, help="distance of snippets, in frames (default: 16)")
  add(
    "--fps",
    type=float,
    default=25.0,
    help="frames per second to read; 0: each video's own (default: 25)",
  )
  add("--resize", type=int, help="shorter side of the frames, pixels (default: the checkpoint's)")
  add("--size", type=int, help="side of the central square, pixels (default: the checkpoint's)")
  arguments.reading(p)
  add("--batch_size", type=int, default=16, help="snippets per call of the encoder (default: 16)")
  add(
    "--workers",
    type=int,
    default=0,
    help="number of decoding processes, with ray for each encoder; 0: one per core (default: 0)",
  )
  add(
    "--timeout",
    type=float,
    default=600.0,
    metavar="SECONDS",
    help="longest time to decode a video, or each two minutes of a longer one; 0: no limit "
    "(default: 600)",
  )
  arguments.engine(p, "--checkpoint and --videos")
  return p


def run(args: argparse.Namespace) -> int:
  """Extracts, and prints a summary; returns 3 if some videos could not be read."""
  from vssl_jax.encoder.snippet_features import MANIFEST, extract_features

  manifest = extract_features(**arguments.given(args), progress=True)
  counts, step = manifest["counts"], manifest["step_seconds"]
  print(
    f"{args.output}: {counts['snippets']} features of width {manifest['width']} of "
    f"{counts['videos']} videos; step_seconds "
    + (f"{step:g}" if step else "differs from video to video (--fps=0)")
  )
  for lost in manifest["unreadable"][:_LISTED]:
    print(f"  unreadable: {lost['path']}: {lost['reason']}")
  if len(manifest["unreadable"]) > _LISTED:
    print(f"  and {len(manifest['unreadable']) - _LISTED} more, see {MANIFEST}")
  noted = [(name, facts["notes"]) for name, facts in manifest["videos"].items() if "notes" in facts]
  for name, notes in noted[:_LISTED]:
    print(f"  kept: {name}: {'; '.join(notes)}")
  if len(noted) > _LISTED:
    print(f"  and {len(noted) - _LISTED} more videos with notes, see {MANIFEST}")
  return 3 if manifest["unreadable"] else 0
