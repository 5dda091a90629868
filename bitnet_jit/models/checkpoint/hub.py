"""Models by name: a directory as it is, or the files that we read of a repository on the Hugging Face hub."""

import re
import sys
from pathlib import Path

from bitnet_jit.errors import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ["config.json", "generation_config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"]


def find_model(model: str) -> Path:
    """The directory of a model, downloaded once where `model` is a hub id.

    Args:
        model: a directory, or "owner/name" on huggingface.co; a directory of that name wins.

    Raises:
        CheckpointError: it is neither, or cannot be downloaded.
    """
    if Path(model).is_dir():
        return Path(model)
    if not HUB_ID.fullmatch(model):
        raise CheckpointError(f"{model}: expected a directory or a hub id such as owner/name, found neither")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=FILES))
    except download_errors() as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{model}: no such directory here, and it cannot be had from huggingface.co ({reason})"
        ) from error


def download_errors() -> tuple[type[Exception], ...]:
    """What a download can raise: OSError, of which the hub's and requests' errors are; ValueError; httpx's own."""
    httpx = sys.modules.get("httpx")
    return (OSError, ValueError, httpx.HTTPError) if httpx else (OSError, ValueError)
