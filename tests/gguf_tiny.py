"""One tiny Llama and a vocabulary, for tests of GGUF files that are not about families."""

from typing import Any

import numpy as np
from gguf import GGUFWriter

from tests.test_text import MERGES, TOKENS

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": len(TOKENS),
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def llama(config: dict[str, Any] = LLAMA, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names; what float16 holds, bfloat16 does too."""
    dim, hidden, head_dim = config["hidden_size"], config["intermediate_size"], 64
    rows = {"q_proj": 4 * head_dim, "k_proj": 2 * head_dim, "v_proj": 2 * head_dim}
    shapes = {f"self_attn.{name}": (count, dim) for name, count in rows.items()} | {"self_attn.o_proj": (dim, dim)}
    shapes |= {"mlp.gate_proj": (hidden, dim), "mlp.up_proj": (hidden, dim), "mlp.down_proj": (dim, hidden)}
    shapes |= {"input_layernorm": (dim,), "post_attention_layernorm": (dim,)}
    all_shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in shapes.items()}
    all_shapes |= {"model.embed_tokens.weight": (config["vocab_size"], dim), "model.norm.weight": (dim,)}
    all_shapes |= {"lm_head.weight": (config["vocab_size"], dim)}
    random = np.random.default_rng(seed)
    return {name: random.integers(-100, 100, shape).astype(np.float32) / 64 for name, shape in all_shapes.items()}


def vocabulary(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 1) + [3])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(len(TOKENS) - 1)
    writer.add_eot_token_id(7)
    writer.add_chat_template("{{ messages[0].content }}!")
