# SPDX-License-Identifier: Apache-2.0
"""`sample`: the decoding loop that `generate` runs with our draw in it.

Inputs, caches, processors and stopping criteria come from transformers' `generate`; forward passes and the
bookkeeping between them go through the model's own methods, so that caches of every kind behave as they do
without us. What a step costs beside the model is one plan look-up, the called processors and one fused draw.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.generation.utils import ALL_CACHE_NAMES

from .._checks import LOGIT_DTYPES
from ._outputs import FusedrawDecoderOnlyOutput, FusedrawEncoderDecoderOutput, Records
from ._prepare import ends_by_token, prepare
from ._seen import SeenIds


def sample(
    model,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    synced_gpus=False,
    streamer=None,
    *,
    seeds=None,
    mix_eps=0.0,
    mix_support=None,
    ties=None,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    top_n_sigma=0.0,
    xtc_threshold=0.1,
    xtc_probability=0.0,
    returns=(),
    top_n=0,
    return_logprobs=False,
    tokenizer=None,
    assistant_model=None,
    assistant_tokenizer=None,
    **model_kwargs,
):
    """For `model.generate(..., custom_generate=sample)`: greedy decoding and sampling with the fused draw.

    All that `generate` takes keeps its meaning; other decoding methods (beams, assistants, ...) and fields
    that would have no effect are refused by name. These are added:

    Args:
        seeds: one int per request (row of the inputs, before num_return_sequences), mod 2^64. A request's
            draws depend on its logits, its seed, which of its sequences it is and the step, and on nothing
            else: not on the batch. Default: one seed from torch's default generator, and requests counted by
            row.
        mix_eps: in [0, 1]: weight of the uniform law, see `fusedraw.sample`.
        mix_support: "kept" or "valid". Default "kept"; with do_sample=False "valid", which is epsilon-greedy.
        ties: "index" or "all". Default: "all" with top-k, as in transformers, else "index".
        frequency_penalty, presence_penalty: of the new tokens, after the processors before the temperature.
        top_n_sigma, xtc_threshold, xtc_probability: as in `fusedraw.sample`, with do_sample=True.
        returns, top_n: as for `fusedraw.sample`; they come back as `draws`.
        return_logprobs: log-probability of each token under the policy that drew it, as `logprobs`.

    mix_eps, the penalties and top_n_sigma to xtc_probability are numbers, or sequences or tensors with one
    per request. `returns`, `top_n` and `return_logprobs` need return_dict_in_generate=True. `scores` are
    those of transformers' own processors; the draw is the same with and without them.

    Returns: int64 [B, length] sequences, or FusedrawDecoderOnlyOutput, FusedrawEncoderDecoderOutput.

    Raises: ValueError, TypeError: a field or an argument that is refused, or a row that cannot be drawn from
        (NaN, +inf, nothing left).
    """
    prepared = prepare(
        model,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        seeds=seeds,
        mix_eps=mix_eps,
        mix_support=mix_support,
        ties=ties,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        top_n_sigma=top_n_sigma,
        xtc_threshold=xtc_threshold,
        xtc_probability=xtc_probability,
        returns=returns,
        top_n=top_n,
        return_logprobs=return_logprobs,
        assistant_model=assistant_model,
        assistant_tokenizer=assistant_tokenizer,
    )
    run = _Run(model, input_ids, prepared, stopping_criteria, generation_config, model_kwargs)
    return run.run(bool(synced_gpus), streamer)


class _Run:
    """One generation: the state that a step reads and writes."""

    def __init__(self, model, input_ids, prepared, stopping_criteria, config, model_kwargs):
        self.model = model
        self.ids, self.length = input_ids, input_ids.shape[1]
        self.plan, self.keys = prepared.plan, prepared.keys
        self.stopping_criteria = stopping_criteria
        self.config = config
        self.model_kwargs = model_kwargs
        self.records = Records(prepared.names, prepared.return_logprobs) if prepared.names else None
        self.pad = None
        if ends_by_token(stopping_criteria):
            self.pad = config._pad_token_tensor.to(input_ids.device)
        self.seen = SeenIds(input_ids, self.pad)
        asked = bool(config.return_dict_in_generate)
        self.scores = () if asked and config.output_scores else None
        self.logits = () if asked and config.output_logits else None
        self.copies: bool | None = None  # whether every step works on a copy; known with the first logits
        # By step; cross attentions of an encoder-decoder model only.
        self.states: dict[str, tuple] = {}
        if asked and config.output_attentions:
            self.states |= {"decoder_attentions": (), "cross_attentions": ()}
        if asked and config.output_hidden_states:
            self.states["decoder_hidden_states"] = ()

    def run(self, synced_gpus: bool, streamer):
        model, kwargs = self.model, self.model_kwargs
        forward = model.__call__
        if model._valid_auto_compile_criteria(kwargs, self.config):
            forward = model.get_compiled_call(self.config.compile_config)
        unfinished = torch.ones(self.ids.shape[0], dtype=torch.long, device=self.ids.device)
        alive = self.ids.shape[0]
        outputs = model._prefill(self.ids, self.config, kwargs)
        with model._optimize_model_for_decode():
            while model._has_unfinished_sequences(not alive, synced_gpus, device=self.ids.device):
                if outputs is None:
                    inputs = model.prepare_inputs_for_generation(
                        self.ids, next_sequence_length=1 if kwargs["use_cache"] else None, **kwargs
                    )
                    outputs = forward(**inputs, return_dict=True)
                kwargs = model._update_model_kwargs_for_generation(
                    outputs, kwargs, is_encoder_decoder=model.config.is_encoder_decoder
                )
                if alive:  # else this process only keeps its peers company
                    tokens = self._draw(outputs.logits[:, -1], unfinished)
                    if self.pad is not None and alive < len(tokens):
                        tokens = torch.where(unfinished.bool(), tokens, self.pad)
                    self._store_states(outputs)
                    self.ids = torch.cat((self.ids, tokens[:, None]), dim=-1)
                    self.length += 1
                    if streamer is not None:
                        streamer.put(tokens.cpu())
                    unfinished = unfinished & ~self.stopping_criteria(self.ids, self.scores)
                    alive = int(unfinished.sum())
                outputs = None  # before the next pass: a row of logits may be all that is kept of it
        if streamer is not None:
            streamer.end()
        return self._output(kwargs) if self.config.return_dict_in_generate else self.ids

    def _draw(self, logits: Tensor, unfinished: Tensor) -> Tensor:
        """int64 [B]: the drawn tokens, of ended sequences too."""
        stage = self.plan.stage(self.length)
        if stage.called or self.copies is not False:
            logits = self._own_rows(logits, bool(stage.called))
        for processor in stage.called:
            logits = processor(self.ids, logits)
        if stage.called and logits.dtype not in LOGIT_DTYPES:
            logits = logits.to(torch.float32)
        if stage.counts:
            seen = self.seen.lists(stage.repetition, self.ids, logits.shape[-1], stage.counts_new)
            out = stage.draw(logits, self.keys.next(), **seen)
        else:
            out = stage.draw(logits, self.keys.next())
        if self.scores is not None:
            for processor, _ in stage.fused:
                logits = processor(self.ids, logits)
            self.scores += (logits,)
        if self.records is None:
            return out
        self.records.add(out, unfinished)
        return out.ids

    def _own_rows(self, logits: Tensor, always: bool) -> Tensor:
        """The rows to work on: a float32 copy beside the ids where one is needed, else the model's own.

        A processor may write to its rows and is defined in float32, and what is returned must outlive the
        step. Where a copy never is needed, `copies` becomes False and this is not called again.
        """
        if self.copies is None:
            kept = self.scores is not None or self.logits is not None
            foreign = logits.device != self.ids.device or logits.dtype not in LOGIT_DTYPES
            self.copies = kept or foreign
        if always or self.copies:
            logits = logits.to(dtype=torch.float32, device=self.ids.device, copy=True)
        if self.logits is not None:
            self.logits += (logits,)
        return logits

    def _store_states(self, outputs) -> None:
        decoder = self.model.config.is_encoder_decoder
        sources = {
            "decoder_attentions": "decoder_attentions" if decoder else "attentions",
            "cross_attentions": "cross_attentions" if decoder else None,
            "decoder_hidden_states": "decoder_hidden_states" if decoder else "hidden_states",
        }
        for name, stored in self.states.items():
            source = sources[name]
            if source is not None:
                self.states[name] = (*stored, getattr(outputs, source))

    def _output(self, kwargs):
        fields = {"sequences": self.ids, "scores": self.scores, "logits": self.logits}
        fields["past_key_values"] = next((kwargs[name] for name in ALL_CACHE_NAMES if name in kwargs), None)
        if self.records is not None:
            fields |= self.records.fields()
        attentions = self.states.get("decoder_attentions")
        hidden_states = self.states.get("decoder_hidden_states")
        if not self.model.config.is_encoder_decoder:
            return FusedrawDecoderOnlyOutput(**fields, attentions=attentions, hidden_states=hidden_states)
        encoder = kwargs["encoder_outputs"]
        return FusedrawEncoderDecoderOutput(
            **fields,
            encoder_attentions=encoder.get("attentions") if attentions is not None else None,
            encoder_hidden_states=encoder.get("hidden_states") if hidden_states is not None else None,
            decoder_attentions=attentions,
            cross_attentions=self.states.get("cross_attentions"),
            decoder_hidden_states=hidden_states,
        )
