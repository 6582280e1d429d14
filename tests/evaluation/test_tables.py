"""Tables in and out, as R, Excel and pandas write and read them."""
import csv
import io

import pytest
from conftest import run_script

from evaluation.formats import neural_complexity_rows
from evaluation.scoring import Scores
from evaluation.tables import FORMATS, Dialect, read_table, write_rows
from evaluation.text import Text
from runtime.errors import InputError

LITERAL, MINIMAL, WORDS = csv.QUOTE_NONE, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC
AWKWARD = ['"', "#", "NA", "a,b", "a;b", "it's", 'say "no"', "", "<eos>", "žluť"]


def read(tmp_path, text, column="text", name="items.tsv"):
    (tmp_path / name).write_text(text)
    return read_table(str(tmp_path / name), name, column)


@pytest.mark.parametrize(("text", "rows", "dialect"), [
    ("id\ttext\n1\tw1 w2\n", [("1", "w1 w2")], ("\t", LITERAL)),
    ("id\ttext\n1\tw1 w2\n\n\n", [("1", "w1 w2")], ("\t", LITERAL)),                  # blank lines at the end
    ("id,text\n1,w1 w2\n", [("1", "w1 w2")], (",", WORDS)),
    ("id;text\n1;w1, w2\n", [("1", "w1, w2")], (";", WORDS)),
    ('"id"\t"text"\n"1"\t"w1 w2"\n', [("1", "w1 w2")], ("\t", WORDS)),                   # R's write.table
    ('id,text\n1,"w1, w2"\n2,w3\n', [("1", "w1, w2"), ("2", "w3")], (",", WORDS)),        # Excel
    ('"a; b; c",text\nx,w1\n', [("x", "w1")], (",", WORDS)),                             # marks within a name
    ('"a\tb";text\n1;w1\n', [("1", "w1")], (";", WORDS)),
    ('id\ttext\n1\t"he said ""w1"" <eos>"\n', [("1", 'he said "w1" <eos>')], ("\t", MINIMAL)),
    ('id\ttext\n1\tw1 "w2" w3\n', [("1", 'w1 "w2" w3')], ("\t", MINIMAL)),              # not at a cell's beginning
    ("\ufefftext\r\nw1\r\nw2\r\n", [("w1",), ("w2",)], (",", WORDS))])
def test_a_table_is_read_by_the_rules_of_its_writer(text, rows, dialect, tmp_path):
    found, of_table = read(tmp_path, text)
    assert [tuple(row.values()) for row in found] == rows and of_table == dialect


@pytest.mark.parametrize(("text", "said"), [
    ("", "empty"), ("\n\n", "empty"), ("id\tsentence\n1\ta\n", "no column 'text'"),
    ("id\ttext\n1\n", "line 2 has 1 column, the heading 2"), ("id\ttext\n1\ta\n\n2\tb\n", "line 3 has 1 column,"),
    ('id\ttext\n1\t"a\n', "quote"), ('id\ttext\n1\t"a" b\n', "quote"),
    ('id\ttext\n1\t"a\nb"\n', "line break"), ("text\ttext\na\tb\n", "two columns 'text'")])
def test_what_is_no_table_is_refused(text, said, tmp_path):
    with pytest.raises(InputError, match=said) as error:
        read(tmp_path, text)
    assert "items.tsv" in str(error.value)


@pytest.mark.parametrize("dialect", [Dialect("\t", MINIMAL), Dialect(";", WORDS), FORMATS["csv"]])
def test_what_is_written_is_read_back(dialect, tmp_path):
    rows = [{"number": number, "word": word, "share": 0.1 + 0.2} for number, word in enumerate(AWKWARD)]
    write_rows(str(tmp_path / "rows"), rows, "tsv", dialect)
    with open(tmp_path / "rows", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, delimiter=dialect.delimiter))
    assert [row["word"] for row in found] == AWKWARD and float(found[0]["share"]) == 0.1 + 0.2
    if dialect.quoting == WORDS:
        assert all(line.count('"') >= 2 for line in (tmp_path / "rows").read_text().splitlines())


@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_tabs_and_line_breaks_in_a_cell_end_none(kind, tmp_path):
    """As in sentences of JSON, or in another column of a CSV file; csv's quotes keep them."""
    path, rows = tmp_path / "rows", [{"a": "x\ty", "b\n": "w1\r\nw2", "n": 1}, {"a": "", "b\n": " z ", "n": 2}]
    write_rows(str(path), rows, kind)
    with open(path, newline="") as file:
        found = [*csv.reader(file, delimiter=FORMATS[kind].delimiter, quoting=csv.QUOTE_NONE if kind == "tsv" else
                             csv.QUOTE_MINIMAL)]
    expected = [list(rows[0]), *(list(map(str, row.values())) for row in rows)]
    if kind == "tsv":
        expected = [[cell.replace("\t", " ").replace("\r", " ").replace("\n", " ") for cell in row] for row in expected]
    assert found == expected


def test_what_is_left_out_is_said(trained, tmp_path, capsys):
    read(tmp_path, "id\ttext\n1\ta\n\n\n")
    assert "| items.tsv: 2 empty lines at the end left out" in capsys.readouterr().err
    read(tmp_path, "id\ttext\n1\ta\n")
    assert not capsys.readouterr().err
    (tmp_path / "text").write_text("w1 w8\n\nw3\n")
    common = ["evaluate.py", "--checkpoint", trained / "toy.pt", "--text", "text", "--context", "reset", "--device",
              "cpu"]
    for format_name, said in ("neural-complexity", True), ("lm-zoo", False):
        done = run_script(*common, "--format", format_name, cwd=tmp_path)
        assert ("1 empty line without a row" in done.stderr) == said


def test_tsv_stays_as_it_was(tmp_path):
    write_rows(str(tmp_path / "rows"), [{"word": '"', "n": 1}], "tsv")
    assert (tmp_path / "rows").read_text() == 'word\tn\n"\t1\n'


def test_a_literal_eos_in_a_stimulus_keeps_its_row():
    text = Text("text", ["a", "<eos>", "b", "<eos>"], [False, False, False, True], [False] * 4, [])
    rows = list(neural_complexity_rows(text, Scores([-1.0] * 4, None, [1.0] * 4)))
    assert [(row["word"], row["sentpos"]) for row in rows] == [("a", 0), ("<eos>", 1), ("b", 2)]


@pytest.mark.parametrize(("heading", "rows"), [
    ('"item"\t"text"', ['"1"\t"w1 w8"', '"2"\t"w3 w22"']),
    ("item,text,note", ['1,w1 w8,"a, b"', '2,w3 w22,"say ""no"""']),
    ("item\ttext", ["1\tw1 w8", "2\tw3 w22", ""])])
def test_columns_come_back_in_the_dialect_they_came_in(heading, rows, trained, tmp_path):
    (tmp_path / "items").write_text("\n".join([heading, *rows]) + "\n")
    delimiter = "\t" if "\t" in heading else ","
    given = [row for row in csv.DictReader(io.StringIO((tmp_path / "items").read_text()), delimiter=delimiter)
             if row["item"]]
    common = ["--checkpoint", trained / "toy.pt", "--text", "items", "--column", "text", "--context", "reset",
              "--device", "cpu"]
    for flag in "--per-sentence", "--per-token":
        out = run_script("evaluate.py", *common, flag, "-", cwd=tmp_path).stdout
        found = list(csv.DictReader(io.StringIO(out), delimiter=delimiter))
        for name in [name for name in given[0] if name != "text"]:
            assert list(dict.fromkeys(row[name] for row in found)) == [row[name] for row in given]
    out = run_script("evaluate.py", *common, "--per-token", "-", "--format", "csv", cwd=tmp_path).stdout
    assert [row["word"] for row in csv.DictReader(io.StringIO(out))] == ["w1", "w8", "<eos>", "w3", "w22", "<eos>"]
