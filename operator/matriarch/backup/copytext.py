r"""The rows in a plain dump's text: which table a stretch of lines belongs to, and the sum over them.

    COPY public.orders (id, note) FROM stdin;      a line of its own; names as pg_dump quotes them
    1\tone                                         COPY's text: a newline or a backslash in a value is escaped
    \.                                             so this is never a row

A function's body may hold a line that looks like the first one. Then what follows is taken for another table's rows, up
to an end of rows. Either that is in the body too, and the table comes a second time, or there are lines among the rows
that begin as the command does: then the table is doubtful, and whoever uses what is found here counts, see dump.
"""

from __future__ import annotations

import queue
import re
import threading
from dataclasses import dataclass

from matriarch.backup.rowsum import RowSum

_HEAD = re.compile(rb"^COPY ([^\n]+) FROM stdin;\n", re.MULTILINE)
_END = b"\\.\n"
_LINE = 1 << 20  # bytes of a line outside of rows; the names of 1600 columns fit in, a longer one is no COPY
_BEHIND = 4  # pieces of a MiB
_IDENTIFIER = re.compile(r'[a-z_][a-z0-9_]*|"(?:[^"]|"")+"')


@dataclass(frozen=True, slots=True)
class Rows:
    """Of one table in the stream. `columns` in the order of its lines."""

    columns: tuple[str, ...]
    rows: int
    digest: str
    doubtful: bool = False


class CopyText:
    """Fed with a dump in UTF-8 in pieces of any size; `tables` by (schema, name), None where one came twice."""

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], Rows | None] = {}
        self._held = b""
        self._skipping = False  # the rest of a line that is too long to be one of ours
        self._open: tuple[str, str, tuple[str, ...]] | None = None
        self._sum: RowSum | None = None

    def update(self, text: bytes) -> None:
        data = self._held + text if self._held else text
        self._held = b""
        while data:
            data = self._rows(data) if self._sum is not None else self._other(data)

    def _other(self, data: bytes) -> bytes:
        """Up to the next rows; what follows the line that begins them."""
        if self._skipping:
            at = data.find(b"\n")
            if at < 0:
                return b""
            self._skipping, data = False, data[at + 1 :]
        found = _HEAD.search(data)
        if found is None:
            held = data[data.rfind(b"\n") + 1 :]
            self._skipping = len(held) > _LINE
            self._held = b"" if self._skipping else held
            return b""
        self._open, self._sum = _names(found[1]), RowSum()
        return data[found.end() :]

    def _rows(self, data: bytes) -> bytes:
        """`data` begins with a line, or goes on with one that `_sum` has the beginning of."""
        assert self._sum is not None
        begins = self._sum.at_line_start
        if begins and data.startswith(_END):
            return self._finish(data[len(_END) :])
        first = data.find(b"\\")  # one character is looked for six times as fast as four
        at = data.find(b"\n" + _END, max(first - 1, 0)) if first >= 0 else -1
        if at >= 0:
            self._sum.update(memoryview(data)[: at + 1])
            return self._finish(data[at + 1 + len(_END) :])
        # The end may be cut in two: its beginning, always at the start of a line, stays here.
        last = data.rfind(b"\n") + 1
        cut = last if (last or begins) and data[last:] in (b"\\", b"\\.") else len(data)
        self._sum.update(memoryview(data)[:cut])
        self._held = data[cut:]
        return b""

    def _finish(self, rest: bytes) -> bytes:
        assert self._sum is not None
        if self._open is not None:
            schema, name, columns = self._open
            again = (schema, name) in self.tables
            self.tables[schema, name] = None if again else _seen(columns, self._sum)
        self._open = self._sum = None
        return rest


def _seen(columns: tuple[str, ...], found: RowSum) -> Rows:
    return Rows(columns, found.rows, found.digest(), doubtful=found.heads > 0)


def _names(head: bytes) -> tuple[str, str, tuple[str, ...]] | None:
    """Schema, table and columns out of `public.orders (id, note)`; None for what pg_dump does not write."""
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return None
    schema = _IDENTIFIER.match(text)
    table = _IDENTIFIER.match(text, schema.end() + 1) if schema and text[schema.end() :].startswith(".") else None
    if schema is None or table is None:
        return None
    columns, at = [], table.end() + 2
    if not (text[table.end() :].startswith(" (") and text.endswith(")")):
        return None
    while (column := _IDENTIFIER.match(text, at)) is not None:
        columns.append(_unquoted(column[0]))
        at = column.end() + (2 if text.startswith(", ", column.end()) else 0)
    return (_unquoted(schema[0]), _unquoted(table[0]), tuple(columns)) if at == len(text) - 1 and columns else None


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


class Aside:
    """A CopyText in a thread of its own, a few pieces behind whoever feeds it."""

    def __init__(self) -> None:
        self._found = CopyText()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(maxsize=_BEHIND)
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rows", daemon=True)
        self._thread.start()

    @property
    def tables(self) -> int:
        """How many have ended by now."""
        return len(self._found.tables)

    def update(self, text: memoryview) -> None:
        """May wait; the text is copied. Raises what failed in the thread."""
        if self._failed is not None:
            raise self._failed
        self._pieces.put(bytes(text))

    def finish(self) -> CopyText:
        """After the last piece. Raises what failed in the thread."""
        self.end()
        if self._failed is not None:
            raise self._failed
        return self._found

    def end(self) -> None:
        """The thread is gone when it returns; may be called again."""
        if self._thread.is_alive():
            self._pieces.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if self._failed is None:  # afterwards it only empties the queue, so that nobody waits for ever
                try:
                    self._found.update(piece)
                except BaseException as error:  # noqa: BLE001 - raised by whoever feeds
                    self._failed = error
