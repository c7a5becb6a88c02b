"""Reading a Hugging Face config so that nothing in it goes unnoticed.

Every key must be taken by the architecture, or be known to change nothing (`HARMLESS`), or hold the one value
under which it changes nothing (`NEUTRAL`). Any other key stops the conversion.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxllm.errors import InputError

# Keys without effect on the logits of an inference run, by why.
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

# Keys that old dumps of any config carry; only these values leave the model as it is.
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
_LARGE = 1e15  # an int beyond what a float holds would be below infinity


class Keys:
    """The keys of a config, or of an object in it, each to be taken once."""

    def __init__(self, data: dict[str, Any], where: str = "config.json"):
        self._left = dict(data)
        self._where = where

    def take(self, name: str, default: Any = _REQUIRED, kinds: tuple[type, ...] = ()) -> Any:
        """The value of a key, of one of the given types; without a default it must be there."""
        value = self._left.pop(name, default)
        if value is _REQUIRED or (value is None and default is _REQUIRED):
            raise InputError(f"{self._where}: {name} is missing")
        absurd = isinstance(value, int) and abs(value) >= 1 << 63  # and too long for a message
        wrong = not isinstance(value, kinds) or (bool not in kinds and value is True) or absurd
        if kinds and value is not default and wrong:
            raise InputError(f"{self._where}: {name} cannot be {_short(value)}")
        return value

    def peek(self, name: str) -> Any:
        """The value of a key that somebody else takes; None where it is not there."""
        return self._left.get(name)

    def size(self, name: str, default: Any = _REQUIRED, most: int = 1 << 31) -> int:
        """A positive whole number; null stands for the default."""
        value = self.take(name, default)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise InputError(f"{self._where}: {name} must be a whole number from 1 to {most}, not {_short(value)}")
        return value

    def size_or_none(self, name: str, default: int | None) -> int | None:
        """A positive whole number, or null for none."""
        if self._left.get(name, default) is None:
            return self.take(name, None)
        return self.size(name, default)

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """A positive number, small enough to be multiplied; null stands for the default."""
        value = self.take(name, default)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGE:
            raise InputError(f"{self._where}: {name} must be a positive number, not {_short(value)}")
        return value

    def number_or_none(self, name: str, default: float | None = None) -> float | None:
        """A positive finite number, or null for none."""
        if self._left.get(name, default) is None:
            return self.take(name, None)
        return self.number(name, default)

    def alias(self, name: str, *others: str) -> None:
        """Takes other spellings of a key for it; two that are there must agree."""
        for other in others:
            if (value := self._left.pop(other, None)) is not None and self._left.setdefault(name, value) != value:
                raise InputError(f"{self._where}: {other}={_short(value)}, but {name}={_short(self._left[name])}")

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return self.take(name, default, (bool,))

    def choice(self, name: str, options: dict[str, Any], default: str = "") -> Any:
        """What an option's name stands for."""
        value = self.take(name, default)
        if not isinstance(value, str) or value not in options:
            raise InputError(f"{self._where}: {name}={_short(value)} is not supported; known: {', '.join(options)}")
        return options[value]

    def neutral(self, name: str, values: Iterable[Any]) -> None:
        """Refuses a key that is there with any value but those that change nothing."""
        if name in self._left and (value := self._left.pop(name)) not in values:
            raise InputError(f"{self._where}: {name}={_short(value)} is not supported")

    def numbers(self, name: str) -> list[float]:
        """A list of positive numbers, small enough to be multiplied."""
        values = self.take(name, kinds=(list,))
        if any(not isinstance(v, int | float) or isinstance(v, bool) or not 0 < v < _LARGE for v in values):
            raise InputError(f"{self._where}: {name} must be positive numbers, not {_short(values)}")
        return values

    def choices(self, name: str, options: Iterable[str], count: int, default: Sequence[str]) -> Sequence[str]:
        """A list of `count` of the options' names, one for each layer; null stands for the default."""
        values = self.take(name, None, (list, type(None)))
        values, options = default if values is None else values, list(options)
        if len(values) != count:
            raise InputError(f"{self._where}: {name} has {len(values)} values for {count} layers")
        if wrong := [value for value in values if value not in options]:
            raise InputError(f"{self._where}: {name}: {_short(wrong[0])} is not supported; known: {', '.join(options)}")
        return values

    def indices(self, name: str) -> Sequence[int]:
        """The numbers of some layers, from 0; null for none."""
        values = self.take(name, None, (list, type(None))) or []
        if any(not isinstance(value, int) or isinstance(value, bool) or value < 0 for value in values):
            raise InputError(f"{self._where}: {name} must be numbers of layers, not {_short(values)}")
        return values

    def token_ids(self, name: str, default: int | None) -> tuple[int, ...]:
        """One token id, several, or none (null)."""
        value = self.take(name, default)
        ids = tuple(value) if isinstance(value, list) else () if value is None else (value,)
        if any(not isinstance(item, int) or isinstance(item, bool) for item in ids):
            raise InputError(f"{self._where}: {name} must be token ids, not {_short(value)}")
        return ids

    def finish(self) -> None:
        """Refuses every key that is left and not known to be harmless."""
        for name, values in NEUTRAL.items():
            self.neutral(name, values)
        if unknown := sorted(self._left.keys() - _HARMLESS):
            raise InputError(f"{self._where}: {unknown[0]}={_short(self._left[unknown[0]])} is not supported")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
