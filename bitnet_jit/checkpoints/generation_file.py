"""generation_config.json beside a model that is saved: `load` and transformers read end tokens from it too."""

import json
from pathlib import Path
from typing import Any

from bitnet_jit.checkpoints.file_names import GENERATION
from bitnet_jit.checkpoints.formats.fields import LARGEST, Fields, read_json
from bitnet_jit.errors import CheckpointError

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def generation_json(model: object, config: dict[str, Any], directory: Path) -> dict[str, Any] | None:
    """Return the content of the file, or None where a file that lies in the folder, if any, may stay.

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
    """Return the end tokens that a file names; a file that cannot be read counts as that of another model."""
    try:
        return set(Fields(read_json(file), str(file)).integers("eos_token_id", LARGEST))
    except CheckpointError:
        return {-1}
