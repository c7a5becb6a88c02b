"""Reads params.json, the config of Mistral's and Meta's layouts, and translates it to Hugging Face's config.json.

Meta's keys are those of `ModelArgs` (github.com/meta-llama/llama and llama-models: models/llama3/args.py, model.py),
Mistral's those of `TransformerArgs` (github.com/mistralai/mistral-inference: args.py, transformer.py). Missing keys are
filled in as in the original code, or as in the authors' Hugging Face repositories.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversion.config_reader import ConfigReader
from conversion.files import first, read_json
from jaxllm.errors import InputError

META_KEYS = {
    *("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "norm_eps", "multiple_of", "ffn_dim_multiplier"),
    *("rope_theta", "use_scaled_rope", "rope_scaling_factor", "rope_high_freq_factor", "max_seq_len"),
}
MISTRAL_LENGTHS = ("max_position_embeddings", "max_seq_len", "model_max_length", "max_position")
MISTRAL_KEYS = {
    *("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size", "norm_eps"),
    *("rope_theta", "sliding_window", "tied_embeddings", *MISTRAL_LENGTHS),
}
HARMLESS = {
    "max_batch_size": "the size of the authors' own cache",
    "model_parallel": "on how many devices the authors ran it; the files tell how many shards there are",
    "dtype": "every tensor tells its own",
}
# Keys that are accepted only with the value that changes nothing.
NEUTRAL = {"use_biases": False, "causal": True, "model_type": "transformer", "activation": "silu"}

LLAMA3_VOCABULARY = 128256


@dataclass(frozen=True)
class Params:
    """A params.json: `layout` is "mistral" or "meta", `values` are its keys."""

    file: Path
    layout: str
    values: dict[str, Any]

    @property
    def keys(self) -> ConfigReader:
        """A reader of the values."""
        return ConfigReader(self.values, str(self.file))

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.keys.size("n_layers")

    @property
    def tied(self) -> bool:
        """Whether the file says that the output matrix is the embedding."""
        return self.keys.flag("tied_embeddings", False)


def read_params(file: Path) -> Params:
    """Reads a params.json and determines its layout.

    Raises:
      InputError: the layout is not clear, or a key may change the computation.
    """
    values = read_json(file)
    if isinstance(values.get("model"), dict):
        values = values["model"]  # some of Meta's files have one more level
    values = {key: value for key, value in values.items() if value is not None and value != {}}
    mistral = values.keys() & {"head_dim", "hidden_dim", "sliding_window"}
    meta = values.keys() & {"multiple_of", "ffn_dim_multiplier"}
    if bool(mistral) == bool(meta):
        raise InputError(f"{file}: neither Mistral's keys (head_dim, hidden_dim) nor Meta's (multiple_of), or both")
    params = Params(file, "mistral" if mistral else "meta", values)
    _refuse_unknown(params, MISTRAL_KEYS if mistral else META_KEYS)
    return params


def _refuse_unknown(params: Params, known: set[str]) -> None:
    keys = params.keys
    for key, value in NEUTRAL.items():
        keys.neutral(key, (value,))
    if unknown := params.values.keys() - known - HARMLESS.keys() - NEUTRAL.keys():
        raise InputError(f"{params.file}: {first(unknown)} may change the mathematics and is not handled")


def to_config(params: Params, vocabulary: int | None, tied: bool) -> dict[str, Any]:
    """Returns the equivalent config.json, with rotary keys in the spelling of Transformers 4.

    Args:
      params: the params.json.
      vocabulary: number of rows of the output matrix, if there is one.
      tied: whether the output matrix is the embedding.

    Raises:
      InputError: a value is missing or invalid.
    """
    if params.layout == "mistral":
        return _mistral(params, vocabulary)
    return _meta(params, vocabulary, tied)


def _shared(params: Params, vocabulary: int | None) -> dict[str, Any]:
    keys = params.keys
    dim = keys.size("dim")
    heads = keys.size("n_heads")
    kv_heads = keys.size("n_kv_heads", heads)
    head_dim = keys.size("head_dim", dim // heads or None)
    if heads % kv_heads or head_dim % 2:
        raise InputError(f"{params.file}: {heads} heads of size {head_dim} on {kv_heads} key-value heads do not divide")
    counted = vocabulary is not None and params.values.get("vocab_size", -1) == -1  # Meta's "as the tokenizer has"
    return {
        "hidden_size": dim,
        "num_hidden_layers": keys.size("n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": keys.number("norm_eps"),
        "vocab_size": vocabulary if counted else keys.size("vocab_size"),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _mistral(params: Params, vocabulary: int | None) -> dict[str, Any]:
    config = _shared(params, vocabulary)
    keys = params.keys
    window = _window(params)
    # mistral-inference's default: the first model had a window and no rope_theta, the later ones neither.
    theta = 1_000_000.0
    if window is not None:
        theta = 10_000.0
    # Not in the files of the 7B models; 32768 in their Hugging Face repositories. For larger vocabularies (Nemo and
    # later), the length of mistral-inference's rotary table.
    length = 32_768
    if config["vocab_size"] > 32_768:
        length = 128_000
    key = next((key for key in MISTRAL_LENGTHS if key in params.values), MISTRAL_LENGTHS[0])
    return config | {
        "model_type": "mistral",
        "intermediate_size": keys.size("hidden_dim"),
        "rope_theta": keys.number("rope_theta", theta),
        "sliding_window": window,
        "max_position_embeddings": keys.size(key, length),
        "tie_word_embeddings": params.tied,
    }


def _window(params: Params) -> int | None:
    window = params.values.get("sliding_window")
    if isinstance(window, str) and re.fullmatch("[1-9][0-9]{0,8}", window):
        return int(window)  # written so in some published files
    if window is None:
        return None
    return params.keys.size("sliding_window")


def _meta(params: Params, vocabulary: int | None, tied: bool) -> dict[str, Any]:
    config = _shared(params, vocabulary)
    keys = params.keys
    if config["hidden_size"] % config["num_attention_heads"]:
        raise InputError(f"{params.file}: dim={config['hidden_size']} is not a multiple of n_heads")
    if config["vocab_size"] == LLAMA3_VOCABULARY:
        # <|end_of_text|>, <|eom_id|> and <|eot_id|>: only the instructed models emit the latter two, and params.json
        # does not tell which a model is.
        config |= {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]}
    config |= {
        "model_type": "llama",
        "intermediate_size": _meta_hidden(params),
        "rope_theta": keys.number("rope_theta", 10_000.0),  # Llama 1 and 2 have it in their code only
        "max_position_embeddings": keys.size("max_seq_len", _meta_length(params, config["vocab_size"])),
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
    }
    return config | ({"rope_scaling": _meta_scaling(params, tied)} if keys.flag("use_scaled_rope", False) else {})


def _meta_hidden(params: Params) -> int:
    """Returns the number of hidden units, as in `FeedForward.__init__`."""
    keys = params.keys
    hidden = int(2 * (4 * keys.size("dim")) / 3)
    if "ffn_dim_multiplier" in params.values:
        hidden = int(keys.number("ffn_dim_multiplier") * hidden)
    multiple = keys.size("multiple_of", 256)
    return multiple * ((hidden + multiple - 1) // multiple)


def _meta_length(params: Params, vocabulary: int) -> int:
    """Returns the maximum length, which no published params.json has, from what distinguishes the models."""
    keys = params.keys
    if keys.flag("use_scaled_rope", False):
        return 131_072  # Llama 3.1 and later
    if vocabulary == LLAMA3_VOCABULARY:
        return 8192  # Llama 3
    if keys.number("rope_theta", 10_000.0) > 10_000.0:
        return 16_384  # Code Llama
    first_65b = keys.size("dim") == 8192 and "n_kv_heads" not in params.values
    # Llama 1 has an epsilon of 1e-6, but for its 65B, whose 1e-5 is Llama 2's.
    if keys.number("norm_eps") < 1e-5 or first_65b:
        return 2048
    return 4096


def _meta_scaling(params: Params, tied: bool) -> dict[str, Any]:
    keys = params.keys
    # Llama 3.1 scales by 8, Llama 3.2 by 32, and their params.json do not differ in it; 3.2's text models are the only
    # ones with tied embeddings, the mark by which Transformers' convert_llama_weights_to_hf.py sets both.
    return {
        "rope_type": "llama3",
        "factor": keys.number("rope_scaling_factor", 32.0 if tied else 8.0),
        "low_freq_factor": 1.0,
        "high_freq_factor": keys.number("rope_high_freq_factor", 4.0),
        "original_max_position_embeddings": 8192,
    }
