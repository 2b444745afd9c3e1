# SPDX-License-Identifier: Apache-2.0
"""How CUDA gets into the extension: finding nvcc, choosing architectures, compiling what is out of date. And
the result loads where there is no driver."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import fusedraw
import pytest
import torch
from fusedraw import _device

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "setup.py").is_file():
    pytest.skip(f"no sources beside the tests: {ROOT}", allow_module_level=True)
sys.path.insert(0, str(ROOT))
import build_cuda  # noqa: E402
from build_cuda import CudaError, choose_archs  # noqa: E402

KNOWN = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1")  # of some nvcc
LIBRARY = Path(fusedraw._C.__file__)


# Architectures


@pytest.mark.parametrize("text", ["", "  ", " ; "])
def test_default_archs(text):
    expected = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]
    assert choose_archs(text, KNOWN) == expected
    assert choose_archs(text, KNOWN[:6]) == ["7.5", "8.0", "8.6", "8.9", "9.0+PTX"]  # as of CUDA 12.4
    with pytest.raises(CudaError, match=r"none of 7\.5, .*, but for 13\.0"):
        choose_archs(text, ("13.0",))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("9.0", ["9.0"]),
        ("9.0+PTX", ["9.0+PTX"]),
        ("7.5;9.0+PTX", ["7.5", "9.0+PTX"]),
        ("9.0 7.5", ["7.5", "9.0"]),
        ("9.0, 10.0,12.1;", ["9.0", "10.0", "12.1"]),
        ("9.0a;10.0f", ["9.0", "10.0"]),
        ("9.0;9.0+PTX;9.0a", ["9.0+PTX"]),
    ],
)
def test_listed_archs(text, expected):
    assert choose_archs(text, KNOWN) == expected


@pytest.mark.parametrize("text", ["7.0", "9.0;6.1+PTX", "13.0"])
def test_unknown_arch(text):
    with pytest.raises(CudaError, match=r"asks for (7\.0|6\.1\+PTX|13\.0), this nvcc compiles for 7\.5, "):
        choose_archs(text, KNOWN)


@pytest.mark.parametrize("text", ["Hopper", "90", "9", "sm_90", "9.0+ptx", "9.0b", "all"])
def test_malformed_arch(text):
    with pytest.raises(CudaError, match=f"entries like 9.0 or 9.0\\+PTX, got '{re.escape(text)}'"):
        choose_archs(text, KNOWN)


def test_arch_flags():
    assert build_cuda.arch_flags(["7.5", "12.0+PTX"]) == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


# Finding nvcc: a script that answers like one, in a folder that looks like a toolkit


@pytest.fixture
def root(tmp_path):
    """A toolkit whose nvcc is reached through a wrapper elsewhere."""
    root = tmp_path / "cuda"
    (root / "bin").mkdir(parents=True)
    (root / "targets" / "lib").mkdir(parents=True)
    (root / "targets" / "lib" / "libcudart_static.a").touch()
    write_nvcc(root, root / "bin" / "nvcc")
    (tmp_path / "elsewhere").mkdir()
    wrapper = tmp_path / "elsewhere" / "nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {root}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    return root


def write_nvcc(root, path, archs="compute_75\\ncompute_90\\ncompute_100"):
    path.write_text(
        f"""#!/bin/sh
case "$1" in
--list-gpu-arch) printf '{archs}\\n' ;;
--version) echo 'Cuda compilation tools, release 12.4, V12.4.131' ;;
-v) echo '#$ TOP={root}/bin/..' >&2
    echo '#$ LIBRARIES=  "-L{root}/bin/../targets/lib/stubs" "-L{root}/bin/../targets/lib"' >&2 ;;
*)  for last in "$@"; do :; done
    [ -z "$FAIL" ] || {{ echo 'no such thing' >&2; exit 1; }}
    echo "$@" >> {root}/calls
    echo "$@" > "$last" ;;
esac
"""
    )
    path.chmod(0o755)


def test_toolkit_behind_a_wrapper(root):
    found = build_cuda.toolkit({"PATH": str(root.parent / "elsewhere")})
    assert found.nvcc == str(root.parent / "elsewhere" / "nvcc")
    assert (found.version, found.archs) == ("12.4.131", ("7.5", "9.0", "10.0"))
    assert found.cudart == str(root / "targets" / "lib" / "libcudart_static.a")


def test_cuda_home_comes_first(root, tmp_path):
    path = {"PATH": str(tmp_path / "elsewhere")}
    assert build_cuda.toolkit({"CUDA_HOME": str(root), **path}).nvcc == str(root / "bin" / "nvcc")
    assert build_cuda.toolkit({"CUDA_HOME": str(tmp_path), **path}).nvcc == str(
        tmp_path / "elsewhere" / "nvcc"
    )


def test_runtime_beside_top(root):
    shutil.move(root / "targets" / "lib", root / "lib64")
    assert build_cuda.probe(str(root / "bin" / "nvcc")).cudart == str(root / "lib64" / "libcudart_static.a")
    shutil.rmtree(root / "lib64")
    with pytest.raises(CudaError, match=r"nvcc comes without libcudart_static\.a: looked in .*targets/lib"):
        build_cuda.probe(str(root / "bin" / "nvcc"))


def test_no_nvcc(tmp_path):
    empty = {"PATH": str(tmp_path)}
    assert build_cuda.toolkit(empty) is None
    with pytest.raises(CudaError, match="FUSEDRAW_CUDA=1, but there is no nvcc: looked for nvcc on PATH"):
        build_cuda.toolkit({**empty, "FUSEDRAW_CUDA": "1"})
    with pytest.raises(CudaError, match=f"looked for {tmp_path}/bin/nvcc and nvcc on PATH"):
        build_cuda.toolkit({**empty, "FUSEDRAW_CUDA": "1", "CUDA_HOME": str(tmp_path)})


def test_switched_off(root):
    assert build_cuda.toolkit({"PATH": str(root / "bin"), "FUSEDRAW_CUDA": "0"}) is None


@pytest.mark.parametrize("value", ["yes", "2", "true", " 1"])
def test_other_values_of_the_switch(value):
    with pytest.raises(CudaError, match="FUSEDRAW_CUDA must be 0, 1 or unset, got"):
        build_cuda.toolkit({"FUSEDRAW_CUDA": value})


def test_broken_nvcc(tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'no licence' >&2; exit 3\n")
    nvcc.chmod(0o755)
    with pytest.raises(CudaError, match="nvcc --list-gpu-arch failed: no licence"):
        build_cuda.toolkit({"PATH": str(tmp_path)})


def test_setup_says_what_is_wrong(tmp_path):
    for environment, said in (
        ({"FUSEDRAW_CUDA": "1", "PATH": str(tmp_path), "CUDA_HOME": ""}, "no nvcc: looked for nvcc on PATH"),
        ({"FUSEDRAW_CUDA": "on"}, "FUSEDRAW_CUDA must be 0, 1 or unset, got 'on'"),
    ):
        done = subprocess.run(
            [sys.executable, "setup.py", "--version"],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("fusedraw: ")
        assert said in done.stderr


# Compiling


def test_only_what_is_out_of_date_is_compiled(root, tmp_path):
    toolkit = build_cuda.probe(str(root / "bin" / "nvcc"))
    header, sources = tmp_path / "x.cuh", [tmp_path / "a.cu", tmp_path / "b.cu"]
    for path in (header, *sources):
        path.touch()
        os.utime(path, (1000, 1000))

    def compiled(flags=("-O3",), of=toolkit):
        (root / "calls").unlink(missing_ok=True)
        objects = build_cuda.compile_objects(
            of, [str(s) for s in sources], list(flags), [header], tmp_path / "out", {"MAX_JOBS": "2"}
        )
        assert objects == [str(tmp_path / "out" / f"{name}.o") for name in "ab"]
        assert all(Path(o).read_text().startswith(f"{flags[0]} -c ") for o in objects)
        calls = (root / "calls").read_text() if (root / "calls").exists() else ""
        return sorted(re.findall(r"(\w+)\.cu ", calls))

    assert compiled() == ["a", "b"]
    assert compiled() == []
    os.utime(sources[1])
    assert compiled() == ["b"]
    assert compiled(("-O2",)) == ["a", "b"]
    os.utime(header, (2**31, 2**31))  # later than the objects
    assert compiled(("-O2",)) == ["a", "b"]
    os.utime(header, (1000, 1000))
    assert compiled(("-O2",)) == []
    assert compiled(("-O2",), toolkit._replace(version="13.0")) == ["a", "b"]


def test_failed_compilation(root, tmp_path, monkeypatch):
    source = tmp_path / "a.cu"
    source.touch()
    monkeypatch.setenv("FAIL", "1")
    toolkit = build_cuda.probe(str(root / "bin" / "nvcc"))
    with pytest.raises(CudaError, match=r"(?s)did not compile .*a\.cu .*FUSEDRAW_CUDA=0.*no such thing"):
        build_cuda.compile_objects(toolkit, [str(source)], [], [source], tmp_path / "out", {})
    assert list((tmp_path / "out").iterdir()) == []


def test_jobs_at_a_time():
    assert build_cuda.jobs_at_a_time({"MAX_JOBS": "1"}) == 1
    cores = len(os.sched_getaffinity(0))
    assert build_cuda.jobs_at_a_time({}) == build_cuda.jobs_at_a_time({"MAX_JOBS": "9999"}) == cores


# The result

FATBIN = b".nv_fatbin"  # the section that holds GPU code


def needed(library):
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    done = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True)
    return re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)


def check_library(library, archs):
    assert (FATBIN in library.read_bytes()) == bool(archs)
    assert not [name for name in needed(library) if re.search(r"cuda|cudart|nvrtc|c10_cuda", name)]


def test_this_build():
    assert LIBRARY.is_file()
    check_library(LIBRARY, _device.CUDA_ARCHS)
    built = fusedraw.info()["build"]
    assert bool(built["nvcc"]) == bool(_device.CUDA_ARCHS) and set(built) >= {"compiler", "cuda_archs"}


def test_cuda_runtime_is_hidden():
    """Nobody calls the runtime in this library, and it calls no other."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    done = subprocess.run(["nm", "-D", str(LIBRARY)], capture_output=True, text=True, check=True)
    ours = re.findall(r"\b(_*cuda[A-Z]\w*|cu[A-Z]\w*)", done.stdout)
    assert not ours


def clean_python(code, path):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(path), "CUDA_VISIBLE_DEVICES": ""},
        cwd=path,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.skipif(build_cuda.find_nvcc(os.environ)[0] is None, reason="there is no nvcc")
def test_wheel_holds_cuda_code_and_loads_without_a_driver(tmp_path):
    tree = tmp_path / "tree"
    names = [
        "csrc",
        "pyext",
        "setup.py",
        "build_cuda.py",
        "build_sdist.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ]
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tree / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, tree / name)
    for library in (tree / "pyext" / "fusedraw").glob("_C*.so"):
        library.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), "."],
        cwd=tree,
        env={
            **os.environ,
            "FUSEDRAW_CUDA": "1",
            "TORCH_CUDA_ARCH_LIST": "7.5+PTX",
            "FUSEDRAW_CXXFLAGS": "-O1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (library,) = (site / "fusedraw").glob("_C*.so")
    check_library(library, ["7.5"])
    code = (
        "import fusedraw, torch; print(fusedraw.__file__); print(fusedraw.info()['cuda_archs']); "
        "print(fusedraw.sample(torch.zeros(2, 5), seed=1).tolist())"
    )
    done = clean_python(code, site)
    assert done.returncode == 0, done.stderr
    file, archs, ids = done.stdout.splitlines()
    assert Path(file).parent.parent == site and archs == "['7.5+PTX']"
    expected = fusedraw.sample(torch.zeros(2, 5), seed=1).tolist()
    assert ids == str(expected)
