# SPDX-License-Identifier: Apache-2.0
"""`make test-wheel`: the tests against an installed wheel, in an environment that has no compiler.

    python tests/wheel/run.py WHEEL [--part] [--torch 2.13.0] [--index-url URL] [pytest's arguments]
    python tests/wheel/run.py --installed [--part] [pytest's arguments]

The first makes a new environment with the wheel, its dependencies and requirements-test.txt; the second
takes the environment it is started in. Both copy the tests to a folder outside the checkout, start there with
a PATH without compilers, and check that fusedraw came from site-packages. --part: the files of PART, not all.

-k is taken (what needs a compiler is chosen by it): name files or tests instead. A pattern such as
tests/test_torch_*.py stands for those files of it that need no sources.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent

# They read, compile or count source files, or run programs of benchmarks/: nothing a wheel holds.
NEED_SOURCES = (
    "test_bad_input_page.py",
    "test_bench_tables.py",
    "test_build.py",
    "test_coverage_page.py",
    "test_docs.py",
    "test_gpu_suite.py",
    "test_layers.py",
    "test_limits.py",
    "test_mutants.py",
    "test_native.py",
    "test_perf_check.py",
    "test_release.py",
    "test_sass.py",
    "test_scaling.py",
    "test_simt_executor.py",
    "test_cuda_*.py",
)
# The contract from every side in a few minutes.
PART = (
    "test_bad_input_*.py",
    "test_concurrency.py",
    "test_endpoints.py",
    "test_facade_*.py",
    "test_import.py",
    "test_invariance_*.py",
    "test_laws_agree.py",
    "test_odd_input_*.py",
    "test_reference_*.py",
    "test_sampler_module.py",
    "test_torch_*.py",
    "test_verify_calls.py",
)
# torch.compile with its default backend calls a C++ compiler itself; the package does not. Run on their own,
# with the PATH of this machine.
NEED_COMPILER = (
    "inductor",
    "test_bench_suite",
    "test_compile_kept",
    "test_compile_default_generator",
    "test_compiled_bad_row",
    "test_compiled_gradient",
    "test_torch_contract",
)
COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "clang++", "nvcc", "ninja")

NO_TESTS = 5  # pytest's exit status where nothing was selected

# Run in the environment under test, in front of pytest.
PROBE = """
import os, shutil, sysconfig, fusedraw
place = os.path.realpath(fusedraw.__file__)
site = os.path.realpath(sysconfig.get_paths()["platlib"])
assert place.startswith(site + os.sep), f"fusedraw came from {place}, not from {site}"
found = [name for name in %r if shutil.which(name)]
assert not found, f"compilers on the PATH: {found}"
import json; print(json.dumps(fusedraw.info(), default=str, sort_keys=True))
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", nargs="?", type=Path)
    parser.add_argument("--installed", action="store_true")
    parser.add_argument("--part", action="store_true")
    parser.add_argument(
        "--torch", default="2.13.0", help="its version; without one, pip might take gigabytes"
    )
    parser.add_argument("--index-url", help="where torch is installed from; others come from the default")
    args, for_pytest = parser.parse_known_args()
    if args.installed and args.wheel:  # a file of tests, the first of them
        args.wheel, for_pytest = None, [str(args.wheel), *for_pytest]
    if args.installed == (args.wheel is not None):
        parser.error("give a wheel or --installed")
    if any(a.startswith("-k") for a in for_pytest):
        parser.error("-k is taken: name files or tests, e.g. tests/test_facade_keys.py")
    with tempfile.TemporaryDirectory(prefix="fusedraw-wheel-") as work:
        work = Path(work)
        python = sys.executable if args.installed else install(work / "env", args)
        shutil.copytree(TESTS, work / "tests", ignore=shutil.ignore_patterns("__pycache__", *NEED_SOURCES))
        shutil.copy(ROOT / "pyproject.toml", work)  # pytest's settings; no package lies beside it
        environment = bare_environment(python, work)
        run = [python, "-I", "-c", PROBE % (COMPILERS,)]
        subprocess.run(run, check=True, cwd=work, env=environment)
        files = [f"tests/{name}" for name in PART] if args.part else ["tests"]
        if any(a.split("::")[0].endswith(".py") for a in for_pytest):
            files = []
        chosen = expanded([*files, *for_pytest], work)
        pytest = [python, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", *chosen]
        compiled = " or ".join(NEED_COMPILER)
        run = [*pytest, "-k", f"not ({compiled})"]
        failed = subprocess.run(run, cwd=work, env=environment).returncode
        if shutil.which("g++") is None:
            print(f"no g++ here: tests of torch.compile's own compiler were not run ({compiled})")
            return failed
        run = [*pytest, "-k", compiled]
        code = subprocess.run(run, cwd=work, env={**environment, "PATH": os.environ["PATH"]}).returncode
        return failed or (0 if code == NO_TESTS else code)


def expanded(arguments, work):
    """With the files that were copied in the place of patterns."""
    chosen = []
    for argument in arguments:
        found = [argument]
        if argument.endswith(".py") and "*" in argument:
            found = sorted(str(path.relative_to(work)) for path in work.glob(argument))
            if not found:
                sys.exit(f"{argument}: no such file of tests")
        chosen += found
    return chosen


def install(where, args):
    """The python of a new environment with the wheel and what its tests need."""
    subprocess.run([sys.executable, "-m", "venv", str(where)], check=True)
    python = str(where / "bin" / "python")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    index = ["--index-url", args.index_url] if args.index_url else []
    subprocess.run([*pip, f"torch=={args.torch}", *index], check=True)
    # Only binaries: nothing may be compiled on the way.
    wanted = [str(args.wheel.resolve()), "-r", str(ROOT / "requirements-test.txt")]
    subprocess.run([*pip, "--only-binary", ":all:", *wanted], check=True)
    subprocess.run([python, "-m", "pip", "check", "--disable-pip-version-check"], check=True)
    return python


def bare_environment(python, work):
    """This environment without its PATH, PYTHONPATH and compilers. A folder of links to the few programs that
    the standard library or a test starts stands for the PATH: /usr/bin would bring gcc along."""
    links = work / "bin"
    links.mkdir()
    for name in ("env", "sh", "uname", "ldconfig"):
        if found := shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/bin:/bin:/sbin:/usr/sbin"):
            (links / name).symlink_to(found)
    for name in ("python", "python3"):
        (links / name).symlink_to(python)
    dropped = ("PYTHONPATH", "PYTHONHOME", "CXX", "CC", "CUDA_HOME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PATH": str(links)}


if __name__ == "__main__":
    sys.exit(main())
