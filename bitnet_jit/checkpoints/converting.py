"""`convert_checkpoint`: a model's files in one format -> files in another, with the same codes and scales."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bitnet_jit.checkpoints.chat_template import ChatTemplate
from bitnet_jit.checkpoints.file_names import GENERATION
from bitnet_jit.checkpoints.formats.gguf.i2_s import USUAL
from bitnet_jit.checkpoints.formats.gguf.target import NAMES, GgufTarget
from bitnet_jit.checkpoints.formats.gguf.writing import write_file
from bitnet_jit.checkpoints.formats.mlx_target import METADATA, MlxTarget
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.registry import WRITERS, format_of, get_writer, make_reader
from bitnet_jit.checkpoints.formats.sampling_keys import settings_of_defaults
from bitnet_jit.checkpoints.formats.writer import Writer
from bitnet_jit.checkpoints.hf_target import HfTarget
from bitnet_jit.checkpoints.hub import find_model
from bitnet_jit.checkpoints.loading import ignore, variant_of
from bitnet_jit.checkpoints.publish import staged, write_json, write_planned
from bitnet_jit.checkpoints.saving import complete
from bitnet_jit.checkpoints.verifying import Verification, verify_same
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.tokenizer_file import FileTokenizer
from bitnet_jit.system.files import beside, write_beside_and_rename
from bitnet_jit.system.writing import writing

MLX = "mlx"
FORMATS = (*NAMES, *WRITERS, MLX)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        source: the format that was found, in words.
        num_bytes: of the files that were written.
        moved: by how much, relative, scales were rounded to float16, or decays for "mlx", by the names of tensors.
        floats: the names of layers whose activations were int8 and are floats now.
        integers: the names of layers whose activations were floats and are int8 now.
        verification: how the two models compare, None where that was not asked for.
    """

    source: str
    num_bytes: int
    moved: dict[str, float] = field(default_factory=dict)
    floats: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    verification: Verification | None = None


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    format: str,
    lossy: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
    i2_s: str = USUAL,
) -> Conversion:
    """Write a model that `load` reads in another format; codes and scales stay what they are, or it is refused.

    Args:
        source: a folder, a GGUF file or a hub id.
        target: the GGUF file, or the folder for formats of `save`. An older one is replaced once the new one is whole.
        format: "tq1_0", "tq2_0", "i2_s", "q2_0", "pq2_0" or "ptq1_0": a GGUF file whose ternary layers have that type;
            a format of `save`: "autobitlinear", "bitlinear", "i2" or "t5"; or "mlx", a folder of mlx-lm.
        lossy: whether to change what the format does not hold, and report it: scales are rounded to float16 in all
            types of GGUF but i2_s, activations become floats in "mlx", and int8 in "autobitlinear" and "bitlinear".
        verify: whether to read both again, and compare all codes, scales and floats, and the logits of a fixed text.
        progress: called with the number of tensors that are written, and that there are, after each.
        i2_s: how I2_S of the source is laid out, as in `load`.

    Raises:
        CheckpointError: the source cannot be read.
        InvalidInput: an argument is wrong, or the format does not hold the model; it names the tensor.
        WriteError: the target cannot be written; what was there before is as it was.

    >>> import tempfile, bitnet_jit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = convert_checkpoint(bitnet_jit.embedded_model(), f"{folder}/tiny.gguf", "i2_s", verify=True)
    >>> result.verification.largest_difference
    0.0
    """
    if format not in FORMATS:
        raise InvalidInput(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    path, place = find_model(source), Path(target)
    check_apart(path, place, format in NAMES)
    variant = variant_of(path, i2_s)
    result = converted(path, place, format, lossy, progress or ignore, variant)
    return replace(result, verification=verify_same(path, place, variant)) if verify else result


def converted(path: Path, place: Path, format: str, lossy: bool, progress: Progress, variant: str) -> Conversion:
    """Write a model in another format, and return what was done."""
    reader, file, folder = make_reader(path, variant), GgufTarget(format, lossy), MlxTarget(lossy)
    integers: list[str] = []
    if format in NAMES:
        write_gguf(path, reader, place, file, progress)
    elif format == MLX:
        write_mlx(path, reader, place, folder, progress)
    else:
        integers = write_folder(path, reader, place, get_writer(format), lossy, progress)
    moved = file.moved | folder.moved
    return Conversion(reader.description, bytes_of(place), moved, tuple(folder.floats), tuple(integers))


def bytes_of(place: Path) -> int:
    """Return the size of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in (place, *place.rglob("*")) if file.is_file())


def check_apart(path: Path, place: Path, is_file: bool) -> None:
    """Raise InvalidInput where the target is the source, or is no place for files of a kind."""
    files = [path, *format_of(path).weight_files(path)]  # a model in parts has several
    if place.exists() and (any(map(place.samefile, files)) or (place.is_dir() and path.parent.samefile(place))):
        raise InvalidInput(f"target: {place} holds the source; choose another place")
    if is_file and place.is_dir():
        raise InvalidInput(f"target: expected a file, got the folder {place}; add a name such as model.gguf")


def write_gguf(path: Path, reader: Reader, place: Path, target: GgufTarget, progress: Progress) -> None:
    """Write a GGUF file, tensor by tensor."""
    chat = format_of(path).chat(path)
    with reader, writing(place), beside(place) as temporary, temporary.open("wb") as file:
        planned = list(target.tensors(reader))
        write_file(file, target.metadata(reader, chat, path.stem), planned, progress)
        file.flush()
        os.fsync(file.fileno())


def write_mlx(path: Path, reader: Reader, place: Path, target: MlxTarget, progress: Progress) -> None:
    """Write a folder of mlx-lm, tensor by tensor."""
    with reader:
        planned, config = target.plan(reader)
        with writing(place), staged(place) as folder:
            write_planned(folder, planned, config, METADATA, progress)
    write_words(path, reader, place)


def write_folder(path: Path, reader: Reader, place: Path, writer: Writer, lossy: bool, progress: Progress) -> list[str]:
    """Write a folder of a format of `save`, tensor by tensor; return the layers whose activations became int8."""
    with reader:
        target = HfTarget(reader, writer, lossy)
        config, planned = target.config_json(), target.tensors()
        with writing(place), staged(place) as folder:
            write_planned(folder, planned, config, target.metadata(), progress)
            complete(folder, place, target, config, writer)
    reader.oddities.warn(5)
    write_words(path, reader, place)
    return target.integers


def write_words(path: Path, reader: Reader, place: Path) -> None:
    """Write the tokenizer, the chat template and the sampling of a model beside its weights."""
    chat, tokenizer = format_of(path).chat(path), reader.tokenizer()
    with writing(place):
        if settings := settings_of_defaults(reader.defaults()):
            ends = {"eos_token_id": list(reader.config.eos_ids)} if reader.config.eos_ids else {}
            write_json(place / GENERATION, settings | ends)
        if isinstance(tokenizer, FileTokenizer):
            write_beside_and_rename(place / "tokenizer.json", tokenizer.content())
        if chat.source is not None or chat.special:
            ChatTemplate(chat.source or "", chat.special)
            said = {"chat_template": chat.source, **chat.special}
            write_json(
                place / "tokenizer_config.json", {name: given for name, given in said.items() if given is not None}
            )
