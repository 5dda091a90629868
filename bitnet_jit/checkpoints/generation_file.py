"""generation_config.json beside a model that is saved: `load` and transformers read end tokens from it too."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from bitnet_jit.checkpoints.formats.fields import LARGEST, Fields, read_json
from bitnet_jit.errors import CheckpointError

GENERATION = "generation_config.json"
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def generation_json(model: nn.Module, config: dict[str, Any], directory: Path) -> dict[str, Any] | None:
    """What the file has to say, or None where what lies in the folder, if anything, may stay.

    Args:
        model: where it is of transformers, it has settings of its own, which are written.
        config: its config.json. For other models, a file that names other end tokens belongs to another model, and is
            replaced by these special tokens.
        directory: where the model is to lie.
    """
    settings: Any = getattr(model, "generation_config", None)
    if hasattr(settings, "to_json_string"):
        return dict(json.loads(settings.to_json_string()))
    file = directory / GENERATION
    if not file.exists() or end_tokens_of(file) <= set(Fields(config, "config").integers("eos_token_id", LARGEST)):
        return None
    return {name: config[name] for name in SPECIAL if config.get(name) is not None}


def end_tokens_of(file: Path) -> set[int]:
    """The end tokens that the file names; what cannot be read counts as those of another model."""
    try:
        return set(Fields(read_json(file), str(file)).integers("eos_token_id", LARGEST))
    except CheckpointError:
        return {-1}
