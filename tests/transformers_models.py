# SPDX-License-Identifier: Apache-2.0
"""Tiny models for the tests of fusedraw.transformers, and Hugging Face's own generation on a given path."""

from unittest import mock

import fusedraw.transformers
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    GenerationMixin,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import CausalLMOutput

VOCAB = 97
BOS, EOS, PAD = 1, 2, 0


def prompts(rows=2, length=5, seed=0):
    """int64 [rows, length] without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (rows, length), generator=generator)


def built(model_class, config_class, change_head, **settings):
    """A random model with the head's weights changed in place: as initialised, logits are almost flat."""
    torch.manual_seed(0)
    shared = {"vocab_size": VOCAB, "eos_token_id": EOS, "pad_token_id": PAD, "attn_implementation": "eager"}
    model = model_class(config_class(**shared, **settings)).eval()
    with torch.no_grad():
        change_head(model.lm_head.weight)
    return model


def redraw(weight):
    weight.normal_(std=0.6, generator=torch.Generator().manual_seed(1))


LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def llama(scale=12.0):
    """A decoder."""
    return built(
        LlamaForCausalLM,
        LlamaConfig,
        lambda weight: weight.mul_(scale),
        **LLAMA,
        bos_token_id=BOS,
    )


def bart():
    both = {"layers": 1, "attention_heads": 4, "ffn_dim": 64}
    return built(
        BartForConditionalGeneration,
        BartConfig,
        redraw,
        d_model=32,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in both.items()},
        max_position_embeddings=128,
        bos_token_id=BOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=None,
        tie_word_embeddings=False,  # tied and as initialised, EOS begets EOS
    )


def t5():
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4}
    return built(T5ForConditionalGeneration, T5Config, redraw, **sizes, decoder_start_token_id=PAD)


class TableConfig(PreTrainedConfig):
    model_type = "fusedraw_table"

    def __init__(self, vocab_size=VOCAB, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.num_hidden_layers = 1


class TableModel(PreTrainedModel, GenerationMixin):
    """Logits are a row of a table, chosen by the last token: no batch can change a bit of them."""

    config_class = TableConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Parameter(torch.zeros(config.vocab_size, config.vocab_size))
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        return CausalLMOutput(logits=self.table[input_ids[:, -1:]])

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False

    def _init_weights(self, module):
        pass


def table(vocab=VOCAB, spread=2.0, dtype=torch.float32, eos=None):
    model = TableModel(TableConfig(vocab_size=vocab)).eval()
    with torch.no_grad():
        model.table.normal_(std=spread, generator=torch.Generator().manual_seed(3))
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=eos, pad_token_id=PAD)
    return model.to(dtype)


def hf_on_path(model, new_tokens, *inputs, **arguments):
    """What transformers' own `generate` returns where its sampling draws `new_tokens` int64 [B, steps].

    Its loop, its processors and its stopping criteria run as they are; only torch.multinomial gives the
    tokens of the path.
    """
    steps = iter(new_tokens.unbind(dim=1))

    def draw(probs, num_samples):
        assert num_samples == 1
        return next(steps)[:, None]

    with mock.patch("torch.multinomial", draw):
        return model.generate(*inputs, return_dict_in_generate=True, **arguments)


def same_text(model, *inputs, **arguments):
    """The text of transformers' `generate`, which ours gives too; greedy unless `do_sample` is given."""
    arguments = {"do_sample": False, **arguments}
    expected = model.generate(*inputs, **arguments)
    assert torch.equal(
        model.generate(*inputs, custom_generate=fusedraw.transformers.sample, **arguments), expected
    )
    return expected


def kept_mask(kept_ids, kept_offsets, vocab):
    """bool [B, vocab] of a CSR of ids."""
    rows = torch.arange(len(kept_offsets) - 1).repeat_interleave(kept_offsets.diff())
    mask = torch.zeros(len(kept_offsets) - 1, vocab, dtype=torch.bool)
    mask[rows, kept_ids.long()] = True
    return mask
