"""Builds Hugging Face's config.json from the metadata of a GGUF file; each architecture has a row in a table.

A row maps keys, and gives values that files leave out: those of llama.cpp's src/models/, or of the published
config.json where llama.cpp approximates. For example, it has only one GELU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from conversion.gguf import names, particulars
from conversion.gguf.metadata import GGUFModel
from conversion.gguf.rope import rope

COMMON = {
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "hidden",
    "max_position_embeddings": "context",
}
HEADED = COMMON | {"head_dim": "head_dim"}
SILU = {"hidden_act": "silu"}
RMS = {"rms_norm_eps": "attention.layer_norm_rms_epsilon"}
LAYER_NORM = "attention.layer_norm_epsilon"


@dataclass(frozen=True)
class Family:
    """An architecture of GGUF: its `model_type`, the rows of its tensors, and how its config is built.

    Attributes:
      model_type: Hugging Face's name of the architecture.
      rows: the modules of the model.
      sizes: names of `GGUFModel.sizes`, by the keys of config.json that they become.
      numbers: keys of the metadata, by the keys of config.json that they become.
      fixed: keys of config.json that always have the same value.
      theta: Hugging Face's key of the rotary base; None if the architecture has no rotary embeddings.
      partial: Hugging Face's key of the rotated share of a head, if there is one.
      extra_config: returns keys of config.json that depend on the file.
      checked_sizes: sizes that `extra_config` reads. Every other size without a key must have its usual value.
    """

    model_type: str
    rows: tuple[names.GGUFRow, ...]
    sizes: Mapping[str, str]
    numbers: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    theta: str | None = "rope_theta"
    partial: str | None = None
    extra_config: Callable[[GGUFModel], dict[str, Any]] = lambda model: {}
    checked_sizes: tuple[str, ...] = ()

    def config(self, model: GGUFModel) -> dict[str, Any]:
        """Returns the config.json of a model. Every key of the metadata must be read."""
        self._check_usual(model)
        config = {
            "model_type": self.model_type,
            "vocab_size": model.sizes["vocab"],
            **{key: model.sizes[size] for key, size in self.sizes.items()},
            **{key: model.number(name) for key, name in self.numbers.items()},
            **self.fixed,
        }
        if self.theta:
            config |= rope(model, self.theta, self.partial)
        config |= self.extra_config(model)
        model.finish()
        return config

    def _check_usual(self, model: GGUFModel) -> None:
        sizes = model.sizes
        usual = {"kv_heads": sizes["heads"], "head_dim": sizes["dim"] // sizes["heads"], "hidden": 4 * sizes["dim"]}
        usual |= {"experts": 0} | ({} if self.theta else {"rope_dim": sizes["head_dim"]})
        for size, value in usual.items():
            if size not in self.sizes.values() and size not in self.checked_sizes and sizes[size] != value:
                raise model.error(f"its {size} is {sizes[size]}, but {value} in a {model.architecture} model")


GELU_TANH = {"hidden_act": "gelu_pytorch_tanh"}
GEMMA_GELU = {"hidden_activation": "gelu_pytorch_tanh"}
FALCON = {
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "max_position_embeddings": "context",
}
FALCON_FIXED = {"activation": "gelu", "parallel_attn": True, "bias": False, "alibi": False}
GPT2 = {"n_embd": "dim", "n_layer": "layers", "n_head": "heads", "n_inner": "hidden", "n_positions": "context"}
MPT = {"d_model": "dim", "n_layers": "layers", "n_heads": "heads", "max_seq_len": "context"}
BLOOM = {"hidden_size": "dim", "n_layer": "layers", "n_head": "heads", "seq_length": "context"}
NEOX = {key: size for key, size in COMMON.items() if size != "kv_heads"}
MIXTRAL = HEADED | {"num_local_experts": "experts"}
EXPERTS = {"num_experts": "experts"}
EPSILON = {"layer_norm_epsilon": LAYER_NORM}
EPS = {"layer_norm_eps": LAYER_NORM}


FAMILIES = {
    "llama": Family("llama", names.LLAMA, HEADED, RMS, SILU, extra_config=particulars.llama),
    "llama of experts": Family("mixtral", names.MIXTRAL, MIXTRAL, RMS, SILU, extra_config=particulars.mixtral),
    "granite": Family("granite", names.LLAMA, COMMON, RMS, SILU, extra_config=particulars.granite),
    "olmo": Family("olmo", names.OLMO, COMMON, {}, SILU, extra_config=particulars.olmo),
    "olmo2": Family("olmo2", names.OLMO2, COMMON, RMS, SILU),
    "command-r": Family(
        "cohere",
        names.COHERE,
        COMMON,
        EPS | {"logit_scale": "logit_scale"},
        SILU,
        extra_config=particulars.cohere,
    ),
    "qwen2": Family("qwen2", names.QWEN2, COMMON, RMS, SILU),
    "qwen2moe": Family("qwen2_moe", names.QWEN2_MOE, COMMON | EXPERTS, RMS, SILU, extra_config=particulars.qwen2_moe),
    "qwen3": Family("qwen3", names.QWEN3, HEADED, RMS, SILU),
    "qwen3moe": Family("qwen3_moe", names.QWEN3_MOE, HEADED | EXPERTS, RMS, SILU, extra_config=particulars.qwen3_moe),
    "gemma": Family("gemma", names.GEMMA, HEADED, RMS, GELU_TANH | GEMMA_GELU),
    "gemma2": Family("gemma2", names.GEMMA2, HEADED, RMS, GEMMA_GELU, extra_config=particulars.gemma2),
    "gemma3": Family("gemma3_text", names.GEMMA3, HEADED, RMS, GEMMA_GELU, extra_config=particulars.gemma3),
    "phi2": Family("phi", names.PHI, COMMON, EPS, {"hidden_act": "gelu_new"}, partial="partial_rotary_factor"),
    "phi3": Family(
        "phi3", names.PHI3, COMMON, RMS, SILU, partial="partial_rotary_factor", extra_config=particulars.phi3
    ),
    "stablelm": Family(
        *("stablelm", names.STABLELM, COMMON, EPS, SILU),
        partial="partial_rotary_factor",
        extra_config=particulars.stablelm,
    ),
    "starcoder2": Family(
        *("starcoder2", names.STARCODER2, COMMON),
        numbers={"norm_epsilon": LAYER_NORM},
        fixed=GELU_TANH,
        extra_config=particulars.starcoder2,
    ),
    "gptneox": Family(
        *("gpt_neox", names.GPT_NEOX, NEOX, EPS),
        theta="rotary_emb_base",
        partial="rotary_pct",
        extra_config=particulars.gpt_neox,
    ),
    "falcon": Family(
        *("falcon", names.FALCON, FALCON, EPSILON),
        fixed=FALCON_FIXED | {"new_decoder_architecture": False, "multi_query": True},
        extra_config=particulars.falcon_7b,
        checked_sizes=("kv_heads",),
    ),
    "falcon with two norms": Family(
        *("falcon", names.FALCON_40B, FALCON | {"num_kv_heads": "kv_heads"}, EPSILON),
        fixed=FALCON_FIXED | {"new_decoder_architecture": True},
    ),
    "gpt2": Family(
        *("gpt2", names.GPT2, GPT2, EPSILON),
        fixed={"activation_function": "gelu_new"},
        theta=None,
    ),
    "starcoder": Family(
        *("gpt_bigcode", names.GPT_BIGCODE, GPT2, EPSILON),
        fixed={"activation_function": "gelu_pytorch_tanh"},
        theta=None,
        extra_config=particulars.bigcode,
        checked_sizes=("kv_heads",),
    ),
    "bloom": Family("bloom", names.BLOOM, BLOOM, EPSILON, theta=None),
    "mpt": Family("mpt", names.MPT, MPT, EPSILON, theta=None, extra_config=particulars.mpt, checked_sizes=("hidden",)),
}


KNOWN = tuple(name for name in FAMILIES if " " not in name)  # GGUF's own names


def family_of(model: GGUFModel) -> Family:
    """Returns the family of a model, whose architecture is one of `KNOWN`."""
    name = model.architecture
    if name == "llama" and model.sizes["experts"]:
        name = "llama of experts"  # Mixtral
    if name == "falcon" and model.has("blk.0.attn_norm_2.weight"):
        name = "falcon with two norms"  # the 40B and its kin
    return FAMILIES[name]
