# SPDX-License-Identifier: Apache-2.0
"""Tiny models for the tests of fusedraw.transformers, and Hugging Face's own generation on a given path."""

from unittest import mock

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


def llama(scale=12.0):
    """A random decoder. `scale` sharpens its logits, which are almost flat as initialised."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    return model


def bart():
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCAB,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        decoder_start_token_id=EOS,
        forced_eos_token_id=None,
        tie_word_embeddings=False,  # tied and as initialised, EOS begets EOS
        attn_implementation="eager",
    )
    model = BartForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.6, generator=torch.Generator().manual_seed(1))
    return model


def t5():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCAB,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=4,
        attn_implementation="eager",
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.6, generator=torch.Generator().manual_seed(1))
    return model


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
