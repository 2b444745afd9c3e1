# SPDX-License-Identifier: Apache-2.0
"""A source archive whose bytes follow from its files alone, so that anyone can make it again and compare.

SOURCE_DATE_EPOCH: the one time, in seconds since 1970, that every member and the gzip header get. Unset: the
archive as setuptools makes it, with the times and owners of the files on this machine.
"""

import gzip
import os
import tarfile
from pathlib import Path

from setuptools.command.sdist import sdist


class Sdist(sdist):
    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
        if not epoch or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        if not epoch.isdecimal():
            raise SystemExit(f"SOURCE_DATE_EPOCH must be seconds since 1970, got {epoch!r}")
        path = f"{base_name}.tar.gz"
        write_archive(Path(path), Path(root_dir or os.curdir), base_dir, int(epoch))
        return path


def write_archive(path, root, base, time):
    """Files below root/base in the order of their names; one time, one owner, modes 644 and 755."""

    def uniform(member):
        member.mtime = time
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.mode & 0o100 else 0o644
        return member

    files = sorted(p for p in (root / base).rglob("*") if p.is_file())
    with (
        open(path, "wb") as raw,
        # Without a name: the header would hold the path.
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=time) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in files:
            archive.add(file, str(file.relative_to(root)), recursive=False, filter=uniform)
