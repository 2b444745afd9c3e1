# SPDX-License-Identifier: Apache-2.0
"""fusedraw behind Hugging Face's `generate`: one argument more, and the processors and the draw are ours.

    import fusedraw.transformers
    ids = model.generate(**inputs, do_sample=True, top_p=0.9, custom_generate=fusedraw.transformers.sample)

`sample` honours what transformers' own sampling honours and adds `seeds`, `mix_eps`, `return_logprobs` and
`returns`; what it does not do it refuses by name. `explain` says which logits processors are fused into the
draw and which are called as they are. Nothing of this is imported by `import fusedraw`.
"""

try:
    import transformers as _transformers
except ImportError as error:
    raise ImportError(
        f"fusedraw.transformers needs transformers >= 5.20, which does not import ({error}); "
        "pip install transformers"
    ) from error

from ._arguments import explain, pass_generate_arguments
from ._loop import sample
from ._outputs import FusedrawDecoderOnlyOutput, FusedrawEncoderDecoderOutput
from ._plan import Plan

pass_generate_arguments(_transformers, sample)

__all__ = ["FusedrawDecoderOnlyOutput", "FusedrawEncoderDecoderOutput", "Plan", "explain", "sample"]
