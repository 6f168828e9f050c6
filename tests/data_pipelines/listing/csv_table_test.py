"""CSVs as spreadsheets, pandas and people write them."""

import csv
import io

import pytest

from data_pipelines.listing import csv_table
from vssl_jax.errors import UserError

KNOWN = ("path", "label", "split")


def read(tmp_path, text):
  (tmp_path / "list.csv").write_text(text, encoding="utf-8", newline="")
  return csv_table.read(tmp_path / "list.csv", KNOWN)


def test_rows_are_those_of_pythons_reader(tmp_path):
  text = 'path,label,note\r\n"a, b.mp4",x,"two\r\nlines"\r\nb.mp4,"say ""no""",\r\n'
  found = read(tmp_path, text)
  expected = [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
  assert [row for _, row in found.rows] == expected
  assert [line for line, _ in found.rows] == [3, 4]


@pytest.mark.parametrize(
  "header", ["Path,LABEL,Split", "\ufeffPATH , Label,split", "path,label,split,,"]
)
def test_capitals_of_known_columns_do_not_matter(tmp_path, header):
  found = read(tmp_path, f"{header}\na.mp4,x,train\n")
  assert found.columns == KNOWN
  assert found.rows == ((2, {"path": "a.mp4", "label": "x", "split": "train"}),)


def test_other_columns_keep_theirs(tmp_path):
  found = read(tmp_path, "path,Split1,Note\na.mp4,train,x\n")
  assert found.columns == ("path", "Split1", "Note")
  assert found.column("Split1", required=True) == found.column("split1", required=True) == "Split1"
  assert found.column("none", required=False) is None
  with pytest.raises(UserError, match="no column 'none'; it has path, Split1, Note"):
    found.column("none", required=True)


def test_the_index_of_pandas_is_a_column_without_a_name(tmp_path):
  found = read(tmp_path, ",path,label\n0,a.mp4,x\n")
  assert found.rows == ((2, {"": "0", "path": "a.mp4", "label": "x"}),)


@pytest.mark.parametrize("empty", ["", ",,", ",,,,,", "  ,\t, ", "\n\n"])
def test_empty_rows_are_ignored(tmp_path, empty):
  found = read(
    tmp_path, f"{empty}\npath,label,split\na.mp4,x,train\n{empty}\nb.mp4,,\n{empty}\n{empty}\n"
  )
  assert [row["path"] for _, row in found.rows] == ["a.mp4", "b.mp4"]


def test_empty_cells_at_the_end_of_a_row_are_ignored(tmp_path):
  found = read(tmp_path, "path,label\na.mp4,x,,, \nb.mp4\n")
  assert [row for _, row in found.rows] == [
    {"path": "a.mp4", "label": "x"},
    {"path": "b.mp4", "label": ""},
  ]


@pytest.mark.parametrize(
  ("text", "line", "value"),
  [
    ("path,label\na.mp4,b.mp4,jump\n", 2, "jump"),
    ("path,label\na.mp4,x\nclip, the first.mp4,x\n", 3, "x"),
    ("path\na.mp4\n\nb.mp4,x\n", 4, "x"),
    ("path,label,,\na.mp4,x,,more\n", 2, "more"),
  ],
)
def test_rows_longer_than_the_header_are_refused(tmp_path, text, line, value):
  with pytest.raises(UserError, match=rf"list\.csv, line {line}: .*'{value}' is of none") as error:
    read(tmp_path, text)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("end", ["", "\n", ',"k"\n', 'd.mp4,"said"\n'])
def test_a_quotation_mark_that_swallows_rows_is_refused(tmp_path, end):
  with pytest.raises(UserError, match=r"list\.csv, line 4: a quotation mark .* before line \d"):
    read(tmp_path, f'path,caption\na.mp4,"x\ny"\nb.mp4,"He said\nc.mp4,z\nd.mp4,z{end}')


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_separators_are_named(tmp_path, mark):
  with pytest.raises(
    UserError, match=r"list\.csv: its columns are separated by '.{1,2}' .* commas"
  ):
    read(tmp_path, f"path{mark}label\na, b.mp4{mark}x\n")


@pytest.mark.parametrize("header", ["path,label,label", "path,Path", "path,LABEL,label"])
def test_two_columns_of_one_name_are_refused(tmp_path, header):
  with pytest.raises(UserError, match=r"two columns are named '(path|label)'"):
    read(tmp_path, f"{header}\n")
  assert read(tmp_path, "path,note,note\na.mp4,x,y\n").rows[0][1]["path"] == "a.mp4"
  with pytest.raises(UserError, match="several columns are named 'note'"):
    read(tmp_path, "path,note,note\n").column("note", required=True)


def test_an_empty_file_has_no_columns(tmp_path):
  assert read(tmp_path, "").columns == ()
