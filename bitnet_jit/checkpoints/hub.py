"""Models by name: a path as it is, or the files that we read of a repository on the Hugging Face hub."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bitnet_jit.arguments import show
from bitnet_jit.checkpoints.file_names import CONFIG, GENERATION, GGUF_PART, MODULES, POOLING
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.system.library_errors import reason, refused

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
NAMED_FILE = re.compile(rf"({HUB_ID.pattern}):((?:\w[\w.+-]*/)*\w[\w.+-]*\.gguf)", re.ASCII | re.IGNORECASE)
# endings of files of weights; a path to a missing file is no name on the hub
FILE = re.compile(r".*\.(gguf|ggml|safetensors|bin|json|pt|pth|ckpt|onnx|pkl|npz|zip|tar|gz|txt)", re.IGNORECASE)
CHAT = ["tokenizer_config.json", "chat_template.jinja"]  # which the server reads
TOKENS = ["tokenizer.json", "tokenizer.model", "added_tokens.json"]
FILES = [
    CONFIG,
    GENERATION,
    *TOKENS,
    *CHAT,
    MODULES,
    f"{POOLING}/{CONFIG}",
    "*.safetensors",
    "*.safetensors.index.json",
]


def find_model(model: str | os.PathLike[str]) -> Path:
    """Find the directory of a model, downloaded once where `model` is a hub id.

    Args:
        model: a directory, or a file that a format recognizes; or as a str "owner/name" on huggingface.co, or
            "owner/name:file.gguf". A directory or file of that name wins.

    Raises:
        CheckpointError: it is neither, or cannot be downloaded; the message says what to do.
        InvalidInput: it is no str and no path.
    """
    if not isinstance(model, (str, os.PathLike)) or isinstance(os.fspath(model), bytes):
        raise InvalidInput(f"path: expected a str or a path, got {show(model)}")
    path = Path(model)
    if os.fspath(model) and os.path.isdir(path):  # unlike Path's, these never raise
        return path
    if os.fspath(model) and os.path.lexists(path):
        from bitnet_jit.checkpoints.formats.registry import is_recognized  # imports torch

        if is_recognized(path):
            return path
        raise CheckpointError(
            f"{model}: expected a directory with config.json and safetensors files, or a GGUF file, found another file"
        )
    if not isinstance(model, str):
        raise CheckpointError(f"{model}: expected a directory with config.json and safetensors files, found none")
    if named := NAMED_FILE.fullmatch(model):
        return download_file(named[1], named[2])
    if not HUB_ID.fullmatch(model) or FILE.fullmatch(model):
        name = model if model.strip() and model.isprintable() else repr(model)
        raise CheckpointError(f"{name}: expected a directory or a hub id such as owner/name, found neither")
    return download(model)


def download(name: str) -> Path:
    """Fetch the files of a repository into the hub's cache on this machine; CheckpointError where that fails."""
    folder = fetch(name, FILES)
    if (folder / CONFIG).exists():
        return folder
    models = sorted({GGUF_PART.sub(r"\1-00001-of-\3\4", file) for file in list_gguf(name)})
    if len(models) == 1:
        return download_file(name, models[0])
    if models:
        raise CheckpointError(f"{name}: holds {len(models)} GGUF files: name one, such as {name}:{models[0]}")
    return folder


def download_file(name: str, file: str) -> Path:
    """Fetch one GGUF file of a repository, with its other parts; CheckpointError where that fails."""
    path = fetch(name, [GGUF_PART.sub(r"\1-*-of-\3\4", file)]) / file
    if not path.exists():
        there = ", ".join(list_gguf(name)) or "no GGUF file"
        raise CheckpointError(f"{name}:{file}: expected this file in the repository, found {there}")
    return path


def fetch(name: str, patterns: list[str]) -> Path:
    """Fetch the files of a repository whose names match patterns; CheckpointError where that fails."""
    from huggingface_hub import snapshot_download

    with refused(lambda error: cannot(name, error)):
        return Path(snapshot_download(name, allow_patterns=patterns))


def list_gguf(name: str) -> list[str]:
    """Return the names of a repository's GGUF files; CheckpointError where they cannot be had."""
    from huggingface_hub import list_repo_files

    with refused(lambda error: cannot(name, error)):
        return sorted(file for file in list_repo_files(name) if file.lower().endswith(".gguf"))


def cannot(name: str, error: BaseException) -> str:
    """Return why a repository cannot be had, in words."""
    return (
        f"{name}: no such directory here, and it cannot be had from huggingface.co; {advice(error)} ({reason(error)})"
    )


def advice(error: BaseException) -> str:
    """Return what to do about an error of a download."""
    from huggingface_hub import errors

    causes = list(chain_of(error))
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes):
        return "make room on the disk, or set HF_HOME to a folder on another one"
    if any(isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS) for cause in causes):
        return "set HF_HOME to a folder that can be written to"
    if any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in causes):
        return "unset HF_HUB_OFFLINE, or download it before"
    if any(isinstance(cause, errors.GatedRepoError) or status(cause) == 403 for cause in causes):
        return "accept its conditions on its page there, and log in by `hf auth login`"
    if any(isinstance(cause, errors.RepositoryNotFoundError) or status(cause) in (401, 404) for cause in causes):
        return "check the name; where it is private, log in by `hf auth login`"
    return "check the connection and try again: files that have come are kept"


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and the errors that it came of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def status(error: BaseException) -> int | None:
    """Return the status of the answer that an error is about, or None."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None
