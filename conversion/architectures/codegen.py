"""CodeGen: GPT-J with a fused projection in the order of its four model-parallel shards."""

from conversion.architectures.gpt2 import EMBEDDING, IGNORED
from conversion.architectures.gptj import OUTER
from conversion.architectures.gptj import from_hf as gptj
from conversion.builders import ConfigReader
from conversion.table import TableRow, WeightTable
from jaxllm.config import DecoderConfig
from jaxllm.errors import InputError

MODEL_PARALLEL_SHARDS = 4
QUERY_VALUE_KEY = tuple(f"layers.{{i}}.attention.{name}.weight" for name in ("query", "value", "key"))
FUSED = f"(k{MODEL_PARALLEL_SHARDS} g h) d -> (k{MODEL_PARALLEL_SHARDS} g) h d"

CLASS = "CodeGenForCausalLM"
TABLE = WeightTable(
    (*OUTER, TableRow(QUERY_VALUE_KEY, "transformer.h.{i}.attn.qkv_proj.weight", FUSED, split_axis="g")),
    IGNORED | {"transformer.h.{i}.attn.causal_mask": "the causal mask"},
    EMBEDDING,
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `CodeGenConfig`; defaults are those of Transformers."""
    reader.neutral("auto_map", (None,))  # all that tells CodeGen 2, whose own code has eight processors
    config = gptj(reader)
    if (heads := config.layers.blocks[0].attention.heads) % MODEL_PARALLEL_SHARDS:
        raise InputError(f"config.json: n_head={heads} must be a multiple of {MODEL_PARALLEL_SHARDS}")
    return config
