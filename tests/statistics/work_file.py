# SPDX-License-Identifier: Apache-2.0
"""Where pieces are kept as they come: JSON lines, the first of which says what they are pieces of."""

import json
import os


class WorkFile:
    """header: what must be the same for pieces to add up. A half-written last line is dropped."""

    def __init__(self, path, header):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().split("\n") if path.exists() else []
        whole = [json.loads(line) for line in lines[:-1]]
        if whole and whole[0] != header:
            raise SystemExit(
                f"{path} holds pieces of {whole[0]}, not of {header}: give --fresh to begin anew, or --work"
            )
        self.pieces = whole[1:]
        if len(lines) > 1 and lines[-1]:
            path.write_text("".join(line + "\n" for line in lines[:-1]))
        self.file = path.open("a")
        if not whole:
            self.write(header)

    def write(self, line):
        self.file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def add(self, piece):
        self.write(piece)
        self.pieces.append(piece)
