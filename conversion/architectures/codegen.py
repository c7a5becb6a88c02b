"""CodeGen: a GPT-J whose queries, values and keys lie fused as they did on four processors."""

from conversion.architectures.gpt2 import EMBEDDING, IGNORED
from conversion.architectures.gptj import OUTER
from conversion.architectures.gptj import from_hf as gptj
from conversion.keys import Keys
from conversion.table import Row, Table
from jaxllm import config
from jaxllm.errors import InputError

PROCESSORS = 4
QUERY_VALUE_KEY = tuple(f"layers.{{i}}.attention.{name}.weight" for name in ("query", "value", "key"))
FUSED = f"(k{PROCESSORS} g h) d -> (k{PROCESSORS} g) h d"

CLASS = "CodeGenForCausalLM"
TABLE = Table(
    (*OUTER, Row(QUERY_VALUE_KEY, "transformer.h.{i}.attn.qkv_proj.weight", FUSED, along="g")),
    IGNORED | {"transformer.h.{i}.attn.causal_mask": "the causal mask"},
    EMBEDDING,
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `CodeGenConfig`'s keys; defaults are Transformers'."""
    keys.neutral("auto_map", (None,))  # all that tells CodeGen 2, whose own code has eight processors
    part = gptj(keys)
    if (heads := part.blocks[0].attention.heads) % PROCESSORS:
        raise InputError(f"config.json: n_head={heads} must be a multiple of {PROCESSORS}")
    return part
