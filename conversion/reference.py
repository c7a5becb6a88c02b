"""The reference of a comparison: the same checkpoint, run by Transformers."""

import copy
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from conversion.files import one_line
from conversion.source import Source
from jaxllm.errors import InputError

_EXPERTS = {"experts_implementation": "eager"}  # its grouped matmul needs aligned sizes


class Reference:
    """A checkpoint in Transformers on the CPU, in float32 or float64.

    Raises:
      InputError: PyTorch or Transformers is not installed, or Transformers does not load the checkpoint.
    """

    def __init__(self, source: Source, dtype: str):
        try:
            import torch
            import transformers
        except ImportError as error:
            raise InputError(f'{error.name} is not installed: pip install "jaxllm[torch]"') from None
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        try:
            self._model = _loaded(source, getattr(torch, dtype))
        except Exception as error:  # its exceptions share no base class
            raise InputError(f"{source.path}: Transformers does not load it: {one_line(error)}") from error
        self._model.eval()

    def states(self, tokens: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns the logits [B T V] of tokens [B T], and the hidden states [B T D].

        There is one state in front of the first layer, and one after each layer but the last.
        """
        import torch

        with torch.no_grad():
            out = self._model(torch.from_numpy(tokens.astype(np.int64)), output_hidden_states=True)
        return out.logits.numpy(), [state.numpy() for state in out.hidden_states[:-1]]

    def greedy(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """Returns the greedy continuation of a prompt; end tokens do not end it."""
        import torch
        from transformers import GenerationConfig

        tokens = torch.tensor([list(prompt)])
        self._model.generation_config = GenerationConfig(pad_token_id=0)  # not the checkpoint's: penalties, beams
        mask = torch.ones_like(tokens)  # otherwise zeros in a prompt would count as padding
        with torch.no_grad():
            out = self._model.generate(tokens, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)
        return out[0, len(prompt) :].tolist()


def _loaded(source: Source, kind: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    if source.layout in ("safetensors", "pytorch"):
        return AutoModelForCausalLM.from_pretrained(source.path, dtype=kind, **_EXPERTS)
    config = AutoConfig.for_model(
        **copy.deepcopy(source.config)
    )  # not what Transformers reads, or not without more packages
    model: Any = AutoModelForCausalLM._model_mapping[type(config)]
    loaded, info = model.from_pretrained(
        None, config=config, state_dict=_state(source, kind), dtype=kind, output_loading_info=True, **_EXPERTS
    )
    if info["missing_keys"]:
        raise InputError(f"it misses {sorted(info['missing_keys'])}")
    return loaded


def _state(source: Source, kind: Any) -> dict[str, Any]:
    import torch

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(np.array(array))

    return {name: tensor(entry.read()).to(kind) for name, entry in source.tensors.items()}
