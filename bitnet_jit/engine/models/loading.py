"""How a model gets from its files into an engine: found, checked, read, and held."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bitnet_jit.checkpoints.checksum import Stamp, as_digest, check_checksum, stamp_of, weight_file_bytes
from bitnet_jit.engine.models.held import Held
from bitnet_jit.engine.models.source import Source
from bitnet_jit.engine.models.store import ModelStore
from bitnet_jit.engine.tensors.infer import is_out_of_memory
from bitnet_jit.errors import CheckpointError, OutOfMemory

logger = logging.getLogger(__name__)

ESTIMATE = 7 / 8  # of the size of its files, for the bytes of a model: too low, as what is let go in vain is read again


class Make(Protocol):
    """A function that reads a model from where its source was found, by the stamp that its files have."""

    def __call__(self, model_id: str, source: Source, path: Path, stamp: Stamp, pinned: bool) -> Held: ...


def load_into(
    store: ModelStore,
    make_held: Make,
    source: Source,
    model_id: str | None = None,
    checksum: str | None = None,
    pinned: bool = False,
) -> Held:
    """Return the model of a source, which is read unless the store has it; see `InferenceEngine.load_model`.

    Args:
        store: holds the models.
        make_held: reads the model.
        source: where it comes from.
        model_id: its name; None: the source's.
        checksum: that its weights must have; None: any.
        pinned: whether it never makes room for others.
    """
    digest = None if checksum is None else as_digest(checksum)
    held = store.find(source, model_id)
    must_check = digest is not None and (held is None or held.checksum != digest)
    stamp = check_files(source.find(), digest) if digest is not None and must_check else None

    def make(name: str) -> Held:
        path = source.find()
        num_bytes = None if pinned else int(ESTIMATE * weight_file_bytes(path))
        return put(store, name, lambda: read(make_held, name, source, path, pinned), num_bytes)

    held = store.load(source, model_id, make)
    if must_check and stamp != held.stamp:
        raise CheckpointError(
            f"{source.place}: its files were written to since the model was loaded; `remove_model`, and load it again"
        )
    held.checksum = digest or held.checksum
    held.is_pinned = held.is_pinned or pinned
    return held


def read(make_held: Make, model_id: str, source: Source, path: Path, pinned: bool) -> Held:
    """Return the model of a path, which knows its path and of which writing its files were."""
    stamp = stamp_of(path)
    held = make_held(model_id, source, path, stamp, pinned)
    held.path, held.stamp = path, stamp
    return held


def check_files(path: Path, digest: str) -> Stamp:
    """Check the weights of a model, and return the stamp that its files had before."""
    stamp = stamp_of(path)
    check_checksum(path, digest)
    return stamp


def put(store: ModelStore, model_id: str, read: Callable[[], Held], num_bytes: int | None) -> Held:
    """Put a model into a store; where memory is short, once more without the models that are idle.

    Raises:
        OutOfMemory: memory does not suffice even so.
    """
    for last in (False, True):
        try:
            return store.put(model_id, read, num_bytes)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
                raise
            reason = str(error)
        if last or not store.clear():
            break
        logger.warning("memory does not suffice for %s: idle models are let go, and it is loaded anew", model_id)
    raise OutOfMemory(f"path: memory does not suffice for the model {model_id} ({reason}); let others go before")
