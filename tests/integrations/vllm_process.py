# SPDX-License-Identifier: Apache-2.0
"""What the tests of running engines share. FUSEDRAW_VLLM_MODEL: the folder that convert_model.py writes."""

import json
import os
import subprocess
import sys

MODEL = os.environ["FUSEDRAW_VLLM_MODEL"]
SMALL = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 256,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 1 << 28,
    "enable_prefix_caching": False,
}


def generate(llm, prompts, parameters):
    """The first sample of each request."""
    return [out.outputs[0] for out in llm.generate(prompts, parameters, use_tqdm=False)]


SEEDED = {"max_tokens": 8, "temperature": 0.8, "seed": 3, "top_p": 0.9}  # what run_script asks for


def ids_of(outputs):
    return [list(out.token_ids) for out in outputs]


SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    llm = LLM(sys.argv[1], **json.loads(sys.argv[2]))
    parameters = SamplingParams(**json.loads(sys.argv[4]))
    out = llm.generate(sys.argv[3], parameters)
    print("IDS", json.dumps(list(out[0].outputs[0].token_ids)))
"""


def run_script(tmp_path, prompt, options=None, **environment):
    """(ids, everything printed) of an engine in a process of its own."""
    file = tmp_path / "generate.py"
    file.write_text(SCRIPT)
    ours = ("VLLM_USE_V2_MODEL_RUNNER", "TRITON_INTERPRET")
    env = {k: v for k, v in os.environ.items() if k not in ours}
    done = subprocess.run(
        [
            sys.executable,
            str(file),
            MODEL,
            json.dumps({**SMALL, **(options or {})}),
            prompt,
            json.dumps(SEEDED),
        ],
        env={**env, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("IDS"))
    return json.loads(line[4:]), done.stdout
