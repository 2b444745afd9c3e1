# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the engines against R2: libFuzzer where clang++ has it, else the plain driver, which says so.

    python tests/native/fuzz.py [SECONDS] [--merge]      600 seconds; prints one line of JSON

New inputs go to build/fuzz; the stored corpus stays as it is, unless --merge then stores what covers the most
with the fewest files. An input that fails is left in build/fuzz/failed-*, and its bytes are printed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import build

FOUND = build.simt_build.ROOT / "build" / "fuzz"
LIMITS = ["-max_len=600", "-len_control=0", "-timeout=60", "-rss_limit_mb=4096"]
MOST_FILES = 80


def run(command, **more):
    return subprocess.run([str(word) for word in command], stderr=subprocess.PIPE, text=True, **more)


def by_libfuzzer(seconds, seed):
    program = build.build("fuzz", "fuzzer")
    (FOUND / "corpus").mkdir(parents=True, exist_ok=True)
    command = [
        program,
        FOUND / "corpus",
        build.CORPUS,
        *LIMITS,
        f"-max_total_time={seconds}",
        f"-seed={seed}",
    ]
    done = run([*command, "-print_final_stats=1", f"-artifact_prefix={FOUND}/failed-"])
    said = done.stderr
    covered = re.findall(r"cov: (\d+) ft: (\d+)", said)
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
    result = {
        "by": "libFuzzer",
        "seconds": seconds,
        "runs": int(runs[1]) if runs else 0,
        "edges": int(covered[-1][0]) if covered else 0,
        "features": int(covered[-1][1]) if covered else 0,
        "failed": done.returncode != 0,
    }
    return result, said


def by_driver(seconds, seed):
    print(
        "no clang++ with libFuzzer (apt-get install clang-14 libclang-rt-14-dev): the plain driver",
        flush=True,
    )
    FOUND.mkdir(parents=True, exist_ok=True)
    program = build.build("drive", "asan")
    done = run([program, seconds, seed, build.CORPUS, FOUND / "failed-bytes"], stdout=subprocess.PIPE)
    counts = json.loads(done.stdout) if done.returncode == 0 else {}
    return {"by": "driver", **counts, "failed": done.returncode != 0}, done.stderr


def chosen(control):
    """Of the inputs of a merge, the MOST_FILES that cover the most, each with what the others leave."""
    lines = control.read_text().splitlines()
    names, covers = lines[2 : 2 + int(lines[0])], {}
    for words in map(str.split, lines[2 + len(names) :]):
        if words[0] == "FT":
            covers[names[int(words[1])]] = set(words[2:])
    best, covered = [], set()
    while covers and len(best) < MOST_FILES:
        name = max(covers, key=lambda name: (len(covers[name] - covered), name))
        covered |= covers.pop(name)
        best.append(Path(name))
    return best


def merge(folders):
    """The stored corpus anew, from these folders: by edges, without how often each is taken."""
    program = build.build("fuzz", "fuzzer")
    with tempfile.TemporaryDirectory() as folder:
        control, out = Path(folder) / "control", Path(folder) / "out"
        out.mkdir()
        how = ["-set_cover_merge=1", "-use_counters=0", f"-merge_control_file={control}", *LIMITS]
        done = run([program, *how, out, *folders])
        if done.returncode != 0:
            sys.exit(done.stderr[-4000:])
        kept = {path.name: path.read_bytes() for path in chosen(control)}
    for old in build.CORPUS.iterdir():
        old.unlink()
    for name, data in kept.items():
        (build.CORPUS / name).write_bytes(data)
    return len(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("seconds", type=int, nargs="?", default=600)
    parser.add_argument("--merge", action="store_true")
    options = parser.parse_args()
    if (line := build.missing()) is not None:
        sys.exit(line)
    seed = os.getpid()
    fuzz = by_libfuzzer if build.clang() else by_driver
    result, said = fuzz(options.seconds, seed)
    if result["failed"]:
        print(said[-6000:], file=sys.stderr)
        for path in FOUND.glob("failed-*"):
            print(path, path.read_bytes().hex(), file=sys.stderr)
    elif options.merge and build.clang():
        result["stored"] = merge([FOUND / "corpus", build.CORPUS])
    print(json.dumps({"seed": seed, **result}))
    sys.exit(result["failed"])


if __name__ == "__main__":
    main()
