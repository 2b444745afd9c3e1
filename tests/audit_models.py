# SPDX-License-Identifier: Apache-2.0
"""A model folder of a few hundred kilobytes, with a tokenizer of words, for the tests of the audit."""

import torch

WORDS = [
    "the",
    "a",
    "red",
    "blue",
    "big",
    "small",
    "cat",
    "dog",
    "bird",
    "house",
    "tree",
    "sees",
    "finds",
    "likes",
    "and",
    "but",
    "runs",
    "sleeps",
    ".",
    "?",
]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
PROMPTS = (
    "the red cat sees",
    "a big dog finds the",
    "the bird sleeps and",
    "a small house",
    "the tree likes a ?",
)


def save(folder, seed=0, scale=6.0):
    """A random Llama of two layers; the folder. `scale`: of its head: as initialised, laws are flat."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers_models import LLAMA

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        **LLAMA,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    model.save_pretrained(folder)
    return folder


def prompts_file(folder, prompts=PROMPTS):
    path = folder / "prompts.txt"
    path.write_text("".join(prompt + "\n" for prompt in prompts))
    return path
