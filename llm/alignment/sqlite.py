"""SQLite, and sqlite-vec's functions in it where the extra `vectors` is installed.

Some builds of Python have an SQLite that loads no extensions. Then pysqlite3 (same interface, of the extra too) is
used in its place: in place, because two copies of SQLite in one process undo each other's locks of a file.
"""

from __future__ import annotations

import contextlib
import sqlite3

if not hasattr(sqlite3.Connection, "enable_load_extension"):
    with contextlib.suppress(ImportError):
        from pysqlite3 import dbapi2 as sqlite3  # type: ignore[no-redef]

__all__ = ["add_vector_functions", "sqlite3"]


def add_vector_functions(connection: sqlite3.Connection) -> bool:
    """Make sqlite-vec's functions known to a connection. Returns False where it, or what loads it, is not installed."""
    try:
        import sqlite_vec
    except ImportError:
        return False
    if not hasattr(connection, "enable_load_extension"):
        return False
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    connection.enable_load_extension(False)
    return True
