"""How a folder of sentence-transformers says that texts become vectors: modules.json, and the pooling's config.json.

Both are read and written.
"""

from pathlib import Path

from bitnet_jit.checkpoints.file_names import CONFIG, MODULES, POOLING
from bitnet_jit.checkpoints.formats.fields import Fields, is_there, read_json_if_there
from bitnet_jit.errors import CheckpointError
from bitnet_jit.models.pooling import CLS, LAST, MEAN
from bitnet_jit.system import reading

MODES = {"pooling_mode_mean_tokens": MEAN, "pooling_mode_cls_token": CLS, "pooling_mode_lasttoken": LAST}
PREFIX = "pooling_mode_"
OTHERS = ("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens")  # ways in which no model of ours pools
PACKAGE = "sentence_transformers.models"
KNOWN = ("Transformer", "Pooling", "Normalize")  # classes of modules.json: others would change the vectors


def read_pooling(folder: Path) -> str | None:
    """Return the pooling of a model, None where its folder does not say.

    Raises:
        CheckpointError: it pools in another way, or has a module behind the pooling that we do not run.
    """
    check_modules(folder / MODULES)
    place = folder / POOLING / CONFIG
    if (values := read_json_if_there(place)) is None:
        return None
    fields = Fields(values, str(place))
    chosen = [name for name in values if name.startswith(PREFIX) and fields.flag(name, False)]
    if len(chosen) != 1 or chosen[0] not in MODES:
        raise CheckpointError(f"{place}: expected one of {', '.join(MODES)} to be true, found {', '.join(chosen)}")
    return MODES[chosen[0]]


def check_modules(place: Path) -> None:
    """Raise CheckpointError where a modules.json lists a module that we do not run."""
    if not is_there(place):
        return
    try:
        modules = reading.read_json(place, 2**20)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{place}: expected JSON, found something else ({error})") from error
    kinds = [str(module.get("type")) if isinstance(module, dict) else "" for module in as_list(modules)]
    if others := [kind for kind in kinds if kind.rsplit(".", 1)[-1] not in KNOWN]:
        raise CheckpointError(f"{place}: type: expected modules {', '.join(KNOWN)} alone, found {others[0]!r}")


def as_list(content: object) -> list[object]:
    """Return a list as it is; one that no module is in for anything else."""
    return content if isinstance(content, list) else [content]


def pooling_files(pooling: str, width: int) -> dict[str, object]:
    """Return what the files that say a pooling hold, by their places in the folder, for vectors of a width.

    >>> list(pooling_files("mean", 64))
    ['modules.json', '1_Pooling/config.json']
    """
    places = ("", POOLING, f"2_{KNOWN[2]}")
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"{PACKAGE}.{kind}"}
        for number, (path, kind) in enumerate(zip(places, KNOWN, strict=True))
    ]
    modes = {name: of == pooling for name, of in MODES.items()} | {f"{PREFIX}{name}": False for name in OTHERS}
    return {MODULES: modules, f"{POOLING}/{CONFIG}": {"word_embedding_dimension": width, **modes}}
