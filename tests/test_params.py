"""params.json of the published models against the config.json of the same models on the hub."""

import json

import pytest

from conversion.params_json import read_params, to_config

# dim, layers, heads, key-value heads and what else a published params.json has; the hidden size, context length and
# rotary base of the same model's config.json on the hub.
PUBLISHED = {
    "llama 7b": ((4096, 32, 32, None), {"norm_eps": 1e-6, "multiple_of": 256}, (11008, 2048, 1e4)),
    "llama 65b": ((8192, 80, 64, None), {"multiple_of": 256}, (22016, 2048, 1e4)),
    "llama 2 7b": ((4096, 32, 32, None), {"multiple_of": 256}, (11008, 4096, 1e4)),
    "llama 2 70b": ((8192, 80, 64, 8), {"multiple_of": 4096, "ffn_dim_multiplier": 1.3}, (28672, 4096, 1e4)),
    "code llama": ((4096, 32, 32, None), {"multiple_of": 256, "rope_theta": 1e6}, (11008, 16384, 1e6)),
    "llama 3 8b": (
        (4096, 32, 32, 8),
        {"multiple_of": 1024, "ffn_dim_multiplier": 1.3, "rope_theta": 5e5, "vocab_size": 128256},
        (14336, 8192, 5e5),
    ),
    "llama 3.1 405b": (
        (16384, 126, 128, 8),
        {
            "multiple_of": 4096,
            "ffn_dim_multiplier": 1.2,
            "rope_theta": 5e5,
            "vocab_size": 128256,
            "use_scaled_rope": True,
        },
        (53248, 131072, 5e5),
    ),
    "mistral 0.1": ((4096, 32, 32, 8), {"hidden_dim": 14336, "sliding_window": "4096"}, (14336, 32768, 1e4)),
    "mistral 0.3": (
        (4096, 32, 32, 8),
        {"hidden_dim": 14336, "vocab_size": 32768, "rope_theta": 1e6},
        (14336, 32768, 1e6),
    ),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_params(tmp_path, model):
    (dim, layers, heads, kv_heads), more, expected = PUBLISHED[model]
    given = {
        "dim": dim,
        "n_layers": layers,
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "norm_eps": 1e-5,
        "vocab_size": -1,
    } | more
    (tmp_path / "params.json").write_text(json.dumps(given))
    config = to_config(read_params(tmp_path / "params.json"), vocabulary=32000, tied=False)
    assert (config["intermediate_size"], config["max_position_embeddings"], config["rope_theta"]) == expected
    assert config.get("rope_scaling", {}).get("factor") == (8 if "3.1" in model else None)
    assert config["eos_token_id"] == ([128001, 128008, 128009] if "llama 3" in model else 2)
    assert config["num_key_value_heads"] == (kv_heads or heads)
