"""The files of a model in a folder: written apart, read back, and only then put in the place of older files.

A reader never finds the config.json of one model beside the weights of another: where the two differ, the old one goes
away first and the new one comes last. An error on the way puts the old files back.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors.torch import save_file

from bitnet_jit.checkpoints.file_names import CONFIG, INDEX, WEIGHTS
from bitnet_jit.checkpoints.formats.safetensors_writing import PlannedTensors, write_tensors
from bitnet_jit.checkpoints.tensor_files import indexed_files
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.system.files import beside, write_beside_and_rename

ADAPTER = "adapter_config.json"
STAGED = re.compile(r"\.[0-9a-f]{32}\.saving")
OLD = 3600  # seconds after which the writer of a staged folder must have died


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """Yield an empty folder inside another one, whose files take their places there once the block has ended well.

    An index of several weight files that lies there goes, with the files that it names. All other files stay. Where the
    block fails, everything is as it was before.

    Args:
        directory: is made if need be.

    Raises:
        InvalidInput: the path is no folder, or holds an adapter.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with staged(Path(directory) / "model") as folder:
    ...         _ = (folder / CONFIG).write_text("{}")
    ...     (Path(directory) / "model" / CONFIG).read_text()
    '{}'
    """
    check_place(directory)
    new_folders = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    folder = directory / f".{uuid4().hex}.saving"
    try:
        folder.mkdir()
        yield folder
        put_in_place(folder, directory)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # others write there too
            for empty in new_folders:
                empty.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)
    remove_abandoned(directory)


def remove_abandoned(directory: Path) -> None:
    """Remove the staged folders that a killed `save` has left in a folder long ago."""
    for left in directory.iterdir():
        with suppress(FileNotFoundError):  # its writer has ended just now
            if STAGED.fullmatch(left.name) and time.time() - left.stat().st_mtime > OLD:
                shutil.rmtree(left, ignore_errors=True)


def write_model(
    directory: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], metadata: dict[str, str]
) -> None:
    """Write model.safetensors, then config.json: a reader that finds the second finds the first."""
    with beside(directory / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata)
    write_json(directory / CONFIG, config)


def write_planned(
    directory: Path,
    planned: Sequence[PlannedTensors],
    config: dict[str, Any],
    metadata: dict[str, str],
    progress: Callable[[int, int], None],
) -> None:
    """Write model.safetensors tensor by tensor, then config.json; see `write_tensors`."""
    with beside(directory / WEIGHTS) as temporary:
        write_tensors(temporary, planned, metadata, progress)
    write_json(directory / CONFIG, config)


def write_json(file: Path, content: object) -> None:
    """Write an object or a list to a file of JSON; its folder is made if need be."""
    file.parent.mkdir(exist_ok=True)
    write_beside_and_rename(file, (json.dumps(content, indent=2) + "\n").encode())


def check_place(directory: Path) -> None:
    """Raise InvalidInput where a path is no folder, or one from which transformers would load another model."""
    if directory.exists() and not directory.is_dir():
        raise InvalidInput(f"directory: expected a folder, or a path where one can be made, got the file {directory}")
    if (directory / ADAPTER).exists():
        raise InvalidInput(
            f"directory: {directory} holds an adapter of peft ({ADAPTER}), and transformers would load its base "
            "instead of the saved model; choose another folder"
        )


def put_in_place(folder: Path, directory: Path) -> None:
    """Move the files of a folder into another one, config.json last, and outdated ones away; all of it or nothing.

    A killed process leaves a mix in no case, and no config.json only if it dies between the renames: so all that takes
    time comes before them.
    """
    files = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    names = sorted(name for name in files if name != CONFIG)
    outdated = [name for name in (INDEX, *shards(directory)) if name not in names]
    same_config = same_content(folder / CONFIG, directory / CONFIG)
    for name in (*names, CONFIG):
        write_through(folder / name)
    old = folder / "old"
    old.mkdir()
    with ExitStack() as undo:
        for name in (CONFIG, *names, *outdated):
            make_folder((directory / name).parent, undo)
            keep(directory / name, old / str(len(list(old.iterdir()))), undo)
        if not same_config:
            (directory / CONFIG).unlink(missing_ok=True)
        for name in names:
            os.replace(folder / name, directory / name)
        for name in outdated:
            (directory / name).unlink(missing_ok=True)
        os.replace(folder / CONFIG, directory / CONFIG)
        undo.pop_all()


def shards(directory: Path) -> list[str]:
    """Return the weight files that an index in the folder names; none where it is damaged or names files elsewhere."""
    try:
        return [file.name for file in indexed_files(directory / INDEX)]
    except CheckpointError:
        return []


def same_content(a: Path, b: Path) -> bool:
    """Return whether both files are there with the same bytes."""
    return a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes()


def write_through(file: Path) -> None:
    """Have a file on the disk, for some file systems wait for that in a rename."""
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


def make_folder(folder: Path, undo: ExitStack) -> None:
    """Make a folder if need be, which `undo` then removes."""
    if not folder.exists():
        folder.mkdir()
        undo.callback(folder.rmdir)


def keep(file: Path, old: Path, undo: ExitStack) -> None:
    """Link a file to the place `old`, from where `undo` brings it back; a file that is new, `undo` removes."""
    try:
        os.link(file, old)
    except OSError:  # there is none, or the file system has no links: then the place is empty until the new file comes
        try:
            os.replace(file, old)
        except FileNotFoundError:
            undo.callback(file.unlink, missing_ok=True)
            return
    undo.callback(os.replace, old, file)
