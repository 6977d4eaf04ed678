"""Flips one byte of a stored record, as a bad disk would.

usage: damage_record.py DATA_DIR ID

Finds the SQLite files in DATA_DIR and, in whatever table, the row in which ID stands; flips a byte in the middle of
its largest BLOB. Prints what it did. Fails if there is no such row.
"""

import pathlib
import sqlite3
import sys


def main():
    folder, wanted = pathlib.Path(sys.argv[1]), sys.argv[2]
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not path.read_bytes()[:16].startswith(b"SQLite format 3"):
            continue
        database = sqlite3.connect(path)
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
            key = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")') if row[5]]
            for row in database.execute(f'SELECT * FROM "{table}"').fetchall():
                text = [value for value in row if isinstance(value, (str, bytes))]
                if not any(wanted in (v if isinstance(v, str) else v.decode("latin-1")) for v in text):
                    continue
                blobs = [(len(v), c) for c, v in zip(columns, row) if isinstance(v, bytes) and c not in key]
                if not blobs:
                    continue
                size, column = max(blobs)
                value = bytearray(row[columns.index(column)])
                value[size // 2] ^= 0x01
                where = " AND ".join(f'"{c}" = ?' for c in key) or "rowid = ?"
                keys = [row[columns.index(c)] for c in key]
                changed = database.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE {where}', [bytes(value), *keys])
                assert changed.rowcount == 1, where
                database.commit()
                database.close()
                print(f"{path.name}: {table}.{column}, byte {size // 2} of {size}")
                return
    sys.exit(f"no row mentions {wanted}")


if __name__ == "__main__":
    main()
