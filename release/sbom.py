# SPDX-License-Identifier: Apache-2.0
"""`make sbom`: what a user of the wheel runs, as a CycloneDX document.

    python release/sbom.py PYTHON OUT.json

PYTHON: of an environment into which the wheel was installed; its packages are listed by cyclonedx-py. Added
is what the wheel's compiled module holds of others, which no environment can tell: headers, and with CUDA the
runtime. The result is checked against the schema and has no time and no serial number: same environment,
same bytes.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

SPEC = "1.6"

# Asked in the environment: versions as the module was built, not as this tool's environment would have them.
FACTS = """
import json, fusedraw, torch
from pathlib import Path
header = Path(torch.__file__).parent / "include" / "pybind11" / "detail" / "common.h"
facts = {"torch": torch.__version__, "pybind11": header.read_text(), "info": fusedraw.info()}
print(json.dumps(facts, default=str))
"""


def main(python, out):
    with tempfile.TemporaryDirectory() as work:
        raw = Path(work) / "environment.json"
        listed = ["environment", python, "--sv", SPEC, "--output-reproducible", "-o", str(raw)]
        subprocess.run([sys.executable, "-m", "cyclonedx_py", *listed], check=True)
        document = json.loads(raw.read_text(encoding="utf-8"))
        # From another folder: the package installed there, not one that lies here.
        facts = json.loads(subprocess.check_output([python, "-I", "-c", FACTS], text=True, cwd=work))
    add_compiled_in(document, facts)
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise SystemExit(f"not a CycloneDX {SPEC} document: {error}")
    Path(out).write_text(text, encoding="utf-8")
    print(f"{out}: {len(document['components'])} components, CycloneDX {SPEC}, valid")


def add_compiled_in(document, facts):
    """Puts components below fusedraw's own: parts of it, not beside it."""
    (own,) = [c for c in document["components"] if c["name"] == "fusedraw"]
    forget_the_place(own)
    own["components"] = [
        part(
            "pybind11", pybind11_version(facts["pybind11"]), "BSD-3-Clause", "headers, as torch carries them"
        ),
        part("PyTorch stable ABI headers", facts["torch"], "BSD-3-Clause", "headers"),
    ]
    if facts["info"].get("cuda_archs"):
        nvcc = str(facts["info"].get("nvcc"))
        own["components"].append(part("libcudart_static", nvcc, None, "linked in whole, its names hidden"))


def forget_the_place(own):
    """The wheel's hash stays, the folder it was installed from is nobody's business."""
    references = own.pop("externalReferences", [])
    local = [r for r in references if r["url"].startswith("file:")]
    own["hashes"] = [entry for r in local for entry in r.get("hashes", [])]
    own["externalReferences"] = [r for r in references if r not in local]


def part(name, version, licence, how):
    """A component without a package of its own; its reference must be unique in the document."""
    return {
        "type": "library",
        "bom-ref": f"compiled-in/{name.replace(' ', '-')}@{version}",
        "name": name,
        "version": version,
        "scope": "required",
        "description": f"compiled into fusedraw._C: {how}",
        "licenses": [{"license": {"id": licence} if licence else {"name": "NVIDIA CUDA Toolkit EULA"}}],
    }


def pybind11_version(header):
    numbers = [
        re.search(rf"#define PYBIND11_VERSION_{n} +(\w+)", header) for n in ("MAJOR", "MINOR", "MICRO")
    ]
    if None in numbers:
        raise SystemExit("torch's pybind11 headers do not say their version where they did")
    return ".".join(number[1] for number in numbers)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
