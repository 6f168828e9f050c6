"""The usual sizes of vision transformers."""

from __future__ import annotations

# size -> (channels, heads, blocks); g is that of VideoMAE v2 and, but for its 22 heads, V-JEPA 2
SIZES = {
  "S": (384, 6, 12),
  "B": (768, 12, 12),
  "L": (1024, 16, 24),
  "H": (1280, 16, 32),
  "g": (1408, 16, 40),
}
MLPS = {"g": 48 / 11}  # channels inside an MLP per channel outside, where it is not 4
DEPTH = SIZES["B"][2]
