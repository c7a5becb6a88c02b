"""Reads a Hugging Face config so that no key is ignored silently.

Every key must be read by the architecture, be known to change nothing (`HARMLESS`), or have a value with which it
changes nothing (`NEUTRAL`). Any other key stops the conversion.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxllm.errors import InputError

# Keys without effect on the logits, by reason.
HARMLESS = {
    "names and bookkeeping": "architectures model_type transformers_version _name_or_path name_or_path auto_map "
    "task_specific_params finetuning_task id2label label2id num_labels problem_type tokenizer_class "
    "_commit_hash license model_name _num_labels unsloth_version unsloth_fixed "
    "is_llama_config transformers.js_config custom_pipelines",
    "dtype of the file, which the tensors state themselves": "torch_dtype dtype use_bfloat16",
    "training only": "router_aux_loss_coef router_jitter_noise input_jitter_noise output_router_logits "
    "initializer_range attention_dropout hidden_dropout attn_pdrop embd_pdrop resid_pdrop "
    "attention_probs_dropout_prob hidden_dropout_prob resid_dropout embed_dropout "
    "residual_dropout embedding_dropout dropout activation_dropout init_std "
    "layerdrop gradient_checkpointing tie_weights_keys classifier_dropout summary_type summary_use_proj "
    "summary_activation summary_proj_to_labels summary_first_dropout n_special predict_special_tokens",
    "how PyTorch computes, not what": "use_cache pretraining_tp reorder_and_upcast_attn attn_implementation "
    "_attn_implementation _attn_implementation_autoset _flash_attn_2_enabled torchscript return_dict "
    "return_dict_in_generate output_attentions output_hidden_states output_scores chunk_size_feed_forward "
    "tf_legacy_loss output_past cache_implementation",
    "repeats of the context's length": "n_ctx max_sequence_length",
    "token ids that decoding does not use": "bos_token_id pad_token_id sep_token_id decoder_start_token_id "
    "unk_token_id prefix mask_token_id",
    "generation settings, which the caller gives": "max_length min_length do_sample early_stopping num_beams "
    "num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences suppress_tokens "
    "begin_suppress_tokens forced_bos_token_id forced_eos_token_id remove_invalid_values "
    "exponential_decay_length_penalty",
}
_HARMLESS = {key for keys in HARMLESS.values() for key in keys.split()}

# Keys that older configs of any model contain; only these values change nothing.
NEUTRAL = {
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_encoder_decoder": (False,),
    "is_decoder": (False, True),
    "pruned_heads": ({}, None),
    "tie_encoder_decoder": (False,),
    "quantization_config": (None,),
    "rope_interleaved": (False, None),
}

_REQUIRED = object()
_LARGE = 1e15  # larger integers do not fit into a float


class ConfigReader:
    """The keys of a config, or of an object in it. Each key is taken once."""

    def __init__(self, data: dict[str, Any], where: str = "config.json"):
        self._remaining = dict(data)
        self._where = where

    def take(self, name: str, default: Any = _REQUIRED, kinds: tuple[type, ...] = ()) -> Any:
        """Returns the value of a key, which must have one of the given types. A key without a default is required."""
        value = self._remaining.pop(name, default)
        if value is _REQUIRED or (value is None and default is _REQUIRED):
            raise InputError(f"{self._where}: {name} is missing")
        absurd = isinstance(value, int) and abs(value) >= 1 << 63  # also too long for a message
        wrong = not isinstance(value, kinds) or (bool not in kinds and value is True) or absurd
        if kinds and value is not default and wrong:
            raise InputError(f"{self._where}: {name} cannot be {_shorten(value)}")
        return value

    def peek(self, name: str) -> Any:
        """Returns the value of a key without taking it; None if it is missing."""
        return self._remaining.get(name)

    def size(self, name: str, default: Any = _REQUIRED, most: int = 1 << 31) -> int:
        """Returns a positive integer; null means the default."""
        value = self.take(name, default)
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise InputError(f"{self._where}: {name} must be a whole number from 1 to {most}, not {_shorten(value)}")
        return value

    def size_or_none(self, name: str, default: int | None) -> int | None:
        """Returns a positive integer, or None for null."""
        if self._remaining.get(name, default) is None:
            return self.take(name, None)
        return self.size(name, default)

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """Returns a positive number below 1e15; null means the default."""
        value = self.take(name, default)
        if value is None:
            value = default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGE:
            raise InputError(f"{self._where}: {name} must be a positive number, not {_shorten(value)}")
        return value

    def number_or_none(self, name: str, default: float | None = None) -> float | None:
        """Returns a positive finite number, or None for null."""
        if self._remaining.get(name, default) is None:
            return self.take(name, None)
        return self.number(name, default)

    def alias(self, name: str, *others: str) -> None:
        """Accepts other spellings of a key. If two are present, they must agree."""
        for other in others:
            if (value := self._remaining.pop(other, None)) is not None and self._remaining.setdefault(
                name, value
            ) != value:
                raise InputError(
                    f"{self._where}: {other}={_shorten(value)}, but {name}={_shorten(self._remaining[name])}"
                )

    def flag(self, name: str, default: bool) -> bool:
        """Returns true or false."""
        return self.take(name, default, (bool,))

    def choice(self, name: str, options: dict[str, Any], default: str = "") -> Any:
        """Returns what `options` has for the key's value."""
        value = self.take(name, default)
        if not isinstance(value, str) or value not in options:
            raise InputError(f"{self._where}: {name}={_shorten(value)} is not supported; known: {', '.join(options)}")
        return options[value]

    def neutral(self, name: str, values: Iterable[Any]) -> None:
        """Takes a key, and rejects it unless its value is one of those that change nothing."""
        if name in self._remaining and (value := self._remaining.pop(name)) not in values:
            raise InputError(f"{self._where}: {name}={_shorten(value)} is not supported")

    def numbers(self, name: str) -> list[float]:
        """Returns a list of positive numbers below 1e15."""
        values = self.take(name, kinds=(list,))
        if any(not isinstance(v, int | float) or isinstance(v, bool) or not 0 < v < _LARGE for v in values):
            raise InputError(f"{self._where}: {name} must be positive numbers, not {_shorten(values)}")
        return values

    def choices(self, name: str, options: Iterable[str], count: int, default: Sequence[str]) -> Sequence[str]:
        """Returns a list of `count` options, one for each layer; null means the default."""
        values = self.take(name, None, (list, type(None)))
        if values is None:
            values = default
        options = list(options)
        if len(values) != count:
            raise InputError(f"{self._where}: {name} has {len(values)} values for {count} layers")
        if wrong := [value for value in values if value not in options]:
            raise InputError(
                f"{self._where}: {name}: {_shorten(wrong[0])} is not supported; known: {', '.join(options)}"
            )
        return values

    def indices(self, name: str) -> Sequence[int]:
        """Returns numbers of layers, from 0; none for null."""
        values = self.take(name, None, (list, type(None))) or []
        if any(not isinstance(value, int) or isinstance(value, bool) or value < 0 for value in values):
            raise InputError(f"{self._where}: {name} must be numbers of layers, not {_shorten(values)}")
        return values

    def token_ids(self, name: str, default: int | None) -> tuple[int, ...]:
        """Returns one token id, several, or none for null."""
        value = self.take(name, default)
        ids = tuple(value) if isinstance(value, list) else () if value is None else (value,)
        if any(not isinstance(item, int) or isinstance(item, bool) for item in ids):
            raise InputError(f"{self._where}: {name} must be token ids, not {_shorten(value)}")
        return ids

    def finish(self) -> None:
        """Rejects every key that was not taken and is not known to be harmless."""
        for name, values in NEUTRAL.items():
            self.neutral(name, values)
        if unknown := sorted(self._remaining.keys() - _HARMLESS):
            raise InputError(f"{self._where}: {unknown[0]}={_shorten(self._remaining[unknown[0]])} is not supported")


def _shorten(value: Any) -> str:
    text = repr(value)
    if len(text) <= 60:
        return text
    return f"{text[:57]}..."
