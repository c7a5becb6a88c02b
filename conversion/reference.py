"""PyTorch's side of a comparison: the same checkpoint, run by Transformers."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from conversion.source import Source
from jaxllm.errors import InputError

_EXPERTS = {"experts_implementation": "eager"}  # its grouped matmul asks for aligned sizes


class Reference:
    """A checkpoint in Transformers on the CPU, in float32 or float64.

    Raises:
        InputError: PyTorch or Transformers is not installed.
    """

    def __init__(self, source: Source, dtype: str):
        try:
            import torch
            import transformers
        except ImportError as error:
            raise InputError(f'{error.name} is not installed: pip install "jaxllm[torch]"') from None
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        kind = getattr(torch, dtype)
        auto = transformers.AutoModelForCausalLM
        if source.layout in ("mistral", "meta", "gguf"):  # not what Transformers itself reads
            config = transformers.AutoConfig.for_model(**source.config)
            self._model: Any = auto.from_config(config, dtype=kind, **_EXPERTS)
            missing, unknown = self._model.load_state_dict(_state(source, kind), strict=False)
            if unknown or set(missing) - set(self._model._tied_weights_keys or {}):
                raise InputError(f"{source.path}: Transformers misses {missing} and does not know {unknown}")
        else:
            self._model = auto.from_pretrained(source.path, dtype=kind, **_EXPERTS)
        self._model.eval()

    def states(self, tokens: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits [B T V] of tokens [B T], and what follows the embedding and each layer but the last, [B T D]."""
        import torch

        with torch.no_grad():
            out = self._model(torch.from_numpy(tokens.astype(np.int64)), output_hidden_states=True)
        return out.logits.numpy(), [state.numpy() for state in out.hidden_states[:-1]]

    def greedy(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """The likeliest continuation of each prompt, from one left-padded batch; nothing ends it early."""
        import torch
        from transformers import GenerationConfig

        longest = max(len(prompt) for prompt in prompts)
        padded = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        self._model.generation_config = GenerationConfig(pad_token_id=0)  # not the checkpoint's: penalties, beams
        with torch.no_grad():
            out = self._model.generate(padded, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)
        return out[:, longest:].tolist()


def _state(source: Source, kind: Any) -> dict[str, Any]:
    import torch

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(np.array(array))

    return {name: tensor(entry.read()).to(kind) for name, entry in source.tensors.items()}
