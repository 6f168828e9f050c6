"""DCC's ablations (Li et al., CVPR 2022)."""

from vssl_jax.studies.study import Score, Setting, Study

_MAP = "mean average precision over tIoU"
_SCORES = {
  "average mAP": Score("headline/*/trained", about=f"{_MAP}, last iteration"),
  "average mAP, chosen": Score(
    "headline/*/validation_chosen",
    about=f"{_MAP}, of the checkpoint that each run chose on held-out training videos",
  ),
}
_PSEUDO = "precision of the pseudo-labels for actions"
_DENOISED = _SCORES | {
  "correct pseudo-labels": Score("dcc/pseudo_labels/action/before/precision", about=_PSEUDO),
  "… denoised": Score(
    "dcc/pseudo_labels/action/after/precision", about=f"{_PSEUDO}, weighted by confidence"
  ),
}


def _study(about, axis, settings, scores=_SCORES, line=""):
  return Study(
    about, "dcc", {axis: settings}, fields={}, scores=scores, line=line, records="localization"
  )


STUDIES = {
  "dcc_components": _study(
    "DCC: BaS-Net, with contrast, with denoised contrast",
    "loss",
    {
      "BaS-Net": Setting("bas_net"),
      "contrast": Setting("no_denoising"),
      "denoised contrast": Setting(),
    },
    _DENOISED,
  ),
  "dcc_scope": _study(
    "DCC: contrast within a video, a batch, or the memory of all videos",
    "scope",
    {
      "none": Setting("bas_net"),
      "video": Setting("intra_video"),
      "batch": Setting("mini_batch"),
      "memory": Setting("memory_bank"),
    },
  ),
  "dcc_denoising": _study(
    "DCC: what is clustered to denoise pseudo-labels, and how widely",
    "denoising",
    {
      "none": Setting("no_denoising"),
      "features of a video": Setting("input_clusters"),
      "embeddings of a video": Setting("embedding_clusters"),
      "features of all videos": Setting("input_clusters,dataset_clusters"),
      "embeddings of all videos": Setting("embedding_clusters,dataset_clusters"),
    },
    _DENOISED,
  ),
  "dcc_memory": _study(
    "DCC: M = 1 to 32 regions per video in the memory",
    "M",
    {str(m): Setting(fields={"dcc.regions": m}) for m in (1, 2, 5, 10, 32)},
    line="M",
  ),
}
