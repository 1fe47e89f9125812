"""The rows of a CSV; of one that is none, where it goes wrong: a quote that is never closed runs to the file's end."""

import csv
from collections.abc import Iterator


def csv_rows(reader: "csv.DictReader[str]") -> Iterator[dict[str, str]]:
    """The rows of a reader. Raises: csv.Error that says where the row begins that is none, blank lines before it."""
    while True:
        begins = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise csv.Error(f"the row in or after line {begins}: {error}") from error
        if row is None:
            return
        yield row
