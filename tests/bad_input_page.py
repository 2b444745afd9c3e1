# SPDX-License-Identifier: Apache-2.0
"""Writes docs/bad-input.md from the table of bad input, each message as the call prints it.

python tests/bad_input_page.py [--check]

--check: writes nothing; exit status 1 and the first difference if the page is another.
"""

import difflib
import re
import sys
from pathlib import Path

import bad_input
from bad_input.rows import BAD

PAGE = Path(__file__).resolve().parent.parent / "docs" / "bad-input.md"
HEAD = """# Bad input

Written by `tests/bad_input_page.py` from the table in `tests/bad_input/`, whose rows are the tests too;
messages are what the calls print, but for the zeros of a huge number. A value is shown as `dtype [shape]`
where it is a tensor. Three things can happen:

- **Refused**: type, dtype, layout, shape, device, range of a number or a name is wrong. It raises before
  any work: no operator has run, no generator has moved, no output is written.
- **A status in its row**: data are bad. With `check="status"` the row gets a `Status`, id -1 (a law: NaN) and
  NaN, 0 or False for what else is asked; the rows beside it are as without it, to the bit. With
  `check="raise"`, the default on the CPU, the call raises `ValueError`; the message shown is that of row 2 of
  four. The first that holds is reported, in the order BAD_PARAM, NAN, POS_INF, EMPTY. Functions without a
  status raise.
- **Works**: odd, and no error.

What `torch.multinomial` within `replacing_torch_multinomial` refuses raises the kinds of torch. Tensors that
another thread writes to meanwhile give an undefined token of the row, or -1, and no crash
(`tests/test_odd_input_memory.py`). The arguments of `generate` are in [transformers.md](transformers.md).
"""


def cell(text: str) -> str:
    """One line, which no sign of Markdown changes, without most zeros of a huge number."""
    return re.sub("0{40,}", "0...0", " ".join(text.split())).replace("|", "\\|")


def code(text: str) -> str:
    return f"`{cell(text)}`"


def printed(call) -> str:
    """What the call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("the row is in the table as an error, and it raised none")


def grouped(rows) -> list:
    """Runs of places of one kind ("NaN at 0" ... "NaN at 69") as their first and last."""
    kept, seen = [], {}
    for row in rows:
        place = row.what.rsplit(" at ", 1)
        if len(place) == 2 and place[1].isdigit():
            seen.setdefault(place[0], []).append(row)
            if len(seen[place[0]]) > 1:
                continue
        kept.append(row)
    for i, row in enumerate(kept):
        group = seen.get(row.what.rsplit(" at ", 1)[0], [])
        if len(group) > 1:
            last = group[-1].what.rsplit(" ", 1)[1]
            kept[i] = row._replace(what=f"{row.what}, ..., at {last}")
    return kept


def section(function: str) -> list[str]:
    refused = [row for row in (*bad_input.REFUSED, *bad_input.REFUSED_AT_WORK) if row.function == function]
    bad = grouped([row for row in bad_input.BAD_ROWS if row.function == function])
    works = [row for row in bad_input.WORKS if row.function == function]
    lines = ["", f"## {function}"]
    if refused:
        lines += ["", "| refused | raises |", "|---|---|"]
        lines += [f"| {code(row.what)} | {code(printed(row.call))} |" for row in refused]
    if bad:
        lines += ["", f'| in row {BAD} | status | with `check="raise"` |', "|---|---|---|"]
        for row in bad:
            raised = printed(lambda row=row: row.call(None, "raise"))
            lines.append(f"| {code(row.what)} | {row.status.name} | {code(raised)} |")
    if works:
        lines += ["", "| works | result |", "|---|---|"]
        lines += [f"| {code(row.what)} | {cell(row.result)} |" for row in works]
    return lines


def functions() -> list[str]:
    """In the order of the table."""
    tables = (bad_input.REFUSED, bad_input.REFUSED_AT_WORK, bad_input.BAD_ROWS, bad_input.WORKS)
    return list(dict.fromkeys(row.function for table in tables for row in table))


def page() -> str:
    names = functions()
    counts = [
        len(bad_input.REFUSED) + len(bad_input.REFUSED_AT_WORK),
        len(bad_input.BAD_ROWS),
        len(bad_input.WORKS),
    ]
    lines = [HEAD, "{} rows refuse, {} give a status, {} work; {} functions.".format(*counts, len(names))]
    for name in names:
        lines += section(name)
    return "\n".join(lines) + "\n"


def main() -> int:
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    found = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    changes = [
        line
        for line in difflib.unified_diff(found.splitlines(), text.splitlines(), lineterm="", n=0)
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    for line in changes[:2]:
        print(line)
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
