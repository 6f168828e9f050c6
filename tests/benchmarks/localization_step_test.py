import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
# As the original's files are: a network and a step by these names.
MODEL = """
import torch
class BaS_Net(torch.nn.Module):
  def __init__(self, width, classes, segments):
    super().__init__()
    self.layer = torch.nn.Linear(width, classes)
  def forward(self, x):
    return self.layer(x)
"""
TRAIN = """
class BaS_Net_loss:
  def __init__(self, alpha):
    self.alpha = alpha
def train(net, loader, loader_iter, optimizer, criterion, logger, step):
  x, label, _, _, _ = next(loader_iter)
  loss = (net(x.cuda()).mean(1) - label.cuda()).square().mean()
  optimizer.zero_grad(); loss.backward(); optimizer.step()
  logger.log_value("loss_total", loss.item(), step)
"""


def run(tmp_path, *flags):
  sizes = ["--batch=2", "--steps=20", "--width=6", "--hidden=8", "--rounds=1"]
  return subprocess.run(
    [sys.executable, ROOT / "benchmarks" / "localization_step.py", *sizes, *flags],
    capture_output=True,
    text=True,
    timeout=900,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )


def test_three_of_ours_and_a_rival_where_there_is_one(tmp_path):
  report = tmp_path / "r.json"
  (tmp_path / "model.py").write_text(MODEL)
  (tmp_path / "train.py").write_text(TRAIN)
  done = run(tmp_path, f"--json={report}", f"--rival={tmp_path}", "--clock=cpu")
  if "PyTorch is not installed" in done.stderr:
    done = run(tmp_path, f"--json={report}", "--clock=cpu")
  assert done.returncode == 0, done.stderr
  result = json.loads(report.read_text())
  assert json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT ")) == result
  assert {"bas_net", "dcc, not denoised", "dcc"} <= result["steps_per_second"].keys()
  assert result["loss"]["dcc"] != result["loss"]["bas_net"]  # the contrast is in it
  rates = result["steps_per_second"]
  assert abs(result["dcc_adds"] - (rates["bas_net"] / rates["dcc"] - 1)) < 1e-9
  if "times_the_rival" in result:
    assert result["times_the_rival"].keys() == rates.keys() - {"BaSNet-pytorch"}
