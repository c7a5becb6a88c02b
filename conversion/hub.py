"""Downloads checkpoints from the Hugging Face hub, or finds them in its local cache."""

from collections.abc import Sequence
from pathlib import Path

from conversion.files import one_line
from jaxllm.errors import InputError

# Tried until the repository has one, in the order in which a directory is searched.
WEIGHTS = (
    ("model.safetensors", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*.bin"),
    ("consolidated.safetensors", "consolidated-*.safetensors"),
    ("consolidated.*.pth",),
)


def download(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Returns the local directory with the files of a repository whose names match a pattern.

    Raises:
      InputError: they are neither on the hub nor in its cache.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # errors of the hub, the network and the file system share no base class
        raise InputError(f"{repo}: no such directory, and not had from the hub: {_reason(error)}") from None


def download_weights(repo: str, revision: str | None) -> Path:
    """Returns the local directory with a repository's weights, in one format.

    Raises:
      InputError: they are neither on the hub nor in its cache.
    """
    directory = Path()
    for patterns in WEIGHTS:
        directory = download(repo, revision, patterns)
        if any(path for pattern in patterns for path in directory.glob(pattern)):
            break
    return directory


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    reasons = (
        (errors.GatedRepoError, "it is gated: ask for access on its page, then `hf auth login`"),
        (errors.RepositoryNotFoundError, "there is no such model, or it is private: `hf auth login`"),
        (errors.RevisionNotFoundError, "there is no such revision"),
        (errors.LocalEntryNotFoundError, "it is not in the local cache, and the hub is out of reach"),
    )
    return next((reason for kind, reason in reasons if isinstance(error, kind)), one_line(error))
