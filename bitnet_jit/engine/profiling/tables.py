"""Tables in plain text, for the `display()` of results."""

import io
from collections.abc import Iterable, Sequence

WIDTH = 120


def as_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """Return a table as text: the first column to the left, the others to the right.

    >>> print(as_table("sizes", ["name", "bytes"], [["a", "10"]]).splitlines()[0].strip())
    sizes
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=note or None)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None, markup=False).print(table)
    return out.getvalue().rstrip()
