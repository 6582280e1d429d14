"""Tables as other programs write and read them: TSV and CSV with a heading, by the rules of Python's csv module."""
import csv
import io
import json
import re
import sys
from typing import NamedTuple

from corpus.reading import naming, whole_text
from evaluation.text_files import writing
from runtime.errors import InputError
from runtime.log import counted
from runtime.record import finite

DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon"}
csv.field_size_limit(2**31 - 1)             # a cell may be as long as it likes


class Dialect(NamedTuple):
    """How a table is written: what stands between its cells, and which of them stand in quotes (csv.QUOTE_…)."""
    delimiter: str = "\t"
    quoting: int = csv.QUOTE_NONE


FORMATS = {"tsv": Dialect(), "csv": Dialect(",", csv.QUOTE_NONNUMERIC)}


def read_table(file, name, column):
    """A table's rows as dicts, and its `Dialect`. file: a path or descriptor of TSV or CSV with a heading.

    The heading tells the delimiter: a tab if there is one, else a semicolon or a comma, whichever there are more of.
    Cells may be in double quotes, a quote in them doubled, as R, Excel and pandas write them. Empty lines at the end
    are left out. Raises InputError where there is no such column, or a row is of another length.
    """
    text = whole_text(file, name)
    heading_line, quoted = text.split("\n", 1)[0], '"' in text
    delimiter = delimiter_of(heading_line)
    with naming(name):
        lines = list(rows_of(text.removesuffix("\n"), delimiter))
        rows = lines[:next((len(lines) - i for i, (_, row) in enumerate(reversed(lines)) if any(row)), 0)]
        if rows and len(rows) < len(lines):
            left = len(lines) - len(rows)
            print(f"| {name}: {left} empty line{'s' * (left > 1)} at the end left out", file=sys.stderr)
        if not rows:
            raise InputError("the text is empty")
        (_, heading), *rows = rows
        if column not in heading:
            raise InputError(f"has no column {column!r} in its heading: {', '.join(heading[:8])}")
        twice = next((name for name in filter(None, heading) if heading.count(name) > 1), None)
        if twice:
            raise InputError(f"has two columns {twice!r} in its heading; give one of them another name")
        table = by_name(heading, rows, delimiter)
        for number, row in rows:
            if any("\n" in cell for cell in row):
                raise InputError(f"line {number}: a cell has a line break in it; a text is read line by line")
    if delimiter != "\t" or heading_line.count('"') >= 2 * len(heading):
        quoting = csv.QUOTE_NONNUMERIC
    else:
        quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return table, Dialect(delimiter, quoting)


def delimiter_of(heading_line):
    unquoted = re.sub('"[^"]*"', "", heading_line)
    return "\t" if "\t" in unquoted else max(",;", key=unquoted.count)


def by_name(heading, rows, delimiter):
    """Rows with the numbers of their lines -> dicts. InputError where one is not as long as the heading."""
    for number, row in rows:
        if len(row) != len(heading):
            raise InputError(f"line {number} has {counted(len(row), 'columns')}, the heading {len(heading)}, with a "
                             f"{DELIMITERS[delimiter]} between two")
    return [dict(zip(heading, row)) for _, row in rows]


def rows_of(text, delimiter):
    """Yield the number of the line that each row ends in, from 1 on, and its cells."""
    if '"' not in text:
        yield from ((number, line.split(delimiter)) for number, line in enumerate(text.split("\n"), start=1))
        return
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            yield reader.line_num, row or [""]
    except csv.Error as error:
        raise InputError(f"line {reader.line_num}: {error}: a cell that begins with a quote ends with one, and a quote "
                         "in it is doubled") from None


BLANKS = str.maketrans("\t\n\r", "   ")


def _unquoted(cell):
    """A cell of a table without quotes, where a tab or a line break would end it: a space is in its place."""
    text = "" if cell is None else str(cell)
    return text.translate(BLANKS) if "\t" in text or "\n" in text or "\r" in text else text


def write_rows(path, rows, kind, dialect=None):
    """Rows, dicts with the same names, as one JSON object per line if `kind` is "json", else as a table with a heading.

    dialect: in which, if not in that of the `kind` in `FORMATS`. Where it has no quotes, tabs and line breaks within a
    cell become spaces.
    """
    with writing(path) as file:
        if kind == "json":
            file.writelines(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows)
            return
        delimiter, quoting = dialect or FORMATS.get(kind, Dialect())
        if quoting == csv.QUOTE_NONE:
            write = lambda cells: file.write(delimiter.join(map(_unquoted, cells)) + "\n")  # noqa: E731
        else:
            write = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerow
        for i, row in enumerate(rows):
            if i == 0:
                write(row)
            write(row.values())
