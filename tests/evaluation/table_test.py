import statistics

from vssl_jax.evaluation import table

HEADLINES = {
  "split1": {"retrieval": {"mAP": 0.3, "R@10": 0.9, "R@5": 0.8}, "knn": {"top-1": 0.5}},
  "split2": {"retrieval": {"mAP": 0.5, "R@10": 0.7, "R@5": 0.6}},
}


def test_averages_are_of_what_every_split_has():
  found = table.averages(list(HEADLINES.values()))
  assert set(found) == {"retrieval"}
  assert found["retrieval"]["mAP"] == {
    "mean": 0.4,
    "splits": 2,
    "std": statistics.stdev([0.3, 0.5]),
  }
  assert "std" not in table.averages([HEADLINES["split1"]])["knn"]["top-1"]


def test_markdown_row_by_row():
  text = table.markdown("T", {"seed": "0"}, HEADLINES, {"knn": "votes"}, ["one was lost"])
  rows = [line for line in text.splitlines() if line.startswith("|")]
  assert rows[0] == "| protocol | figure | split1 | split2 | mean ± std |"
  assert rows[2:] == [
    "| retrieval | R@5 | 80.0 | 60.0 | 70.0 ± 14.1 |",
    "| retrieval | R@10 | 90.0 | 70.0 | 80.0 ± 14.1 |",
    "| retrieval | mAP | 30.0 | 50.0 | 40.0 ± 14.1 |",
    "| knn | top-1 | 50.0 | – | – |",
  ]
  assert all(row.count("|") == 6 for row in rows)
  assert "- seed: 0" in text
  assert "- **note**: one was lost" in text.split("|")[0]
  assert "- **knn**: votes" in text
  assert "mean" not in table.markdown("T", {}, {"a": HEADLINES["split1"]}, {})


def test_names_are_no_markup():
  text = table.markdown("<b>", {"x": "a|b"}, {"my|set": HEADLINES["split1"]}, {}, ["<i>"])
  assert "| protocol | figure | my\\|set |" in text
  assert "<" not in text
  assert r"- x: a\|b" in text
