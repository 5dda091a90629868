"""Carry tuned choices to other machines: all of a cache in one file, and back into another's.

An entry is taken over as it is by a machine with the same device, driver and compilers. From another one it is taken
only by force, as if it had been measured here: it is marked "imported", and what was measured here stays.
"""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from bitnet_jit.devices.kinds import available_types, fingerprint
from bitnet_jit.errors import InvalidInput
from bitnet_jit.runtime.cache import TuningCache, versions
from bitnet_jit.runtime.entries import FORMAT, MAX_EXPORT, Key, Tuned, parse_entries
from bitnet_jit.system.files import write_output
from bitnet_jit.system.reading import parse_json, read_file

MAX_TOLD = 3  # kinds of foreign devices that an error names


def export_tuned(cache: TuningCache, path: Path) -> int:
    """Write all that a cache holds on disk to one JSON file; return the number of entries.

    Args:
        cache: what is written.
        path: the file; a link stays, and a pipe, a device or "/dev/stdout" is written to.

    Raises:
        InvalidInput: the cache cannot be read, or the file cannot be written.
    """
    try:
        entries = [{"format": FORMAT, "key": key, "choice": asdict(tuned)} for key, tuned in cache.entries()]
        write_output(path, (json.dumps({"format": FORMAT, "entries": entries}, indent=1) + "\n").encode())
    except OSError as error:
        raise InvalidInput(f"export: {path} cannot be written ({error})") from error
    return len(entries)


def import_tuned(cache: TuningCache, path: Path, force: bool = False) -> int:
    """Take over an exported file; return the number of entries that are new here. All of it, or nothing.

    Args:
        cache: where to.
        path: the file; a pipe only where it is a descriptor of this process, such as "/dev/stdin".
        force: take entries of other devices, drivers and compilers too, for the device of that type here.

    Raises:
        InvalidInput: the file cannot be read, is not ours, or holds entries of another machine.
    """
    entries, here = read_entries(path), devices_here()
    try:
        cache.folder  # noqa: B018  where there is none, nothing can be taken over
    except OSError as error:
        raise InvalidInput(f"import: there is no folder to take {path} over into ({error})") from error
    foreign = Counter(key["device"] for key, _ in entries if not is_ours(key, here))
    if foreign and not force:
        kinds = ", ".join(f"{count} of {device!r}" for device, count in foreign.most_common(MAX_TOLD))
        raise InvalidInput(
            f"import: {sum(foreign.values())} of the {len(entries)} entries of {path} were measured on another device "
            f"or with other versions than {', '.join(map(repr, here.values()))} with {versions()} ({kinds}); force "
            "(--force) takes them nevertheless"
        )
    taken = 0
    for key, tuned in entries:
        device_type = key["problem"]["device_type"]
        local = key | {"device": here.get(device_type), "versions": versions()}
        known = cache.find_key(local)
        if device_type in here and (known is None or known.origin != "measured"):
            if not cache.store_key(local, replace(tuned, origin="imported")):
                raise InvalidInput(f"import: the folder for choices cannot be written; {taken} were taken over before")
            taken += 1
    return taken


def read_entries(path: Path) -> list[tuple[Key, Tuned]]:
    """Return an exported file's entries. Raises InvalidInput unless every one is whole."""
    try:
        return parse_entries(parse_json(read_file(path, MAX_EXPORT, pipes=True)))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"import: {path} cannot be taken over: {error}") from error


def is_ours(key: Key, here: dict[str, str]) -> bool:
    """Return whether an entry was measured on a device like one here, with the same drivers and compilers."""
    return bool(here.get(key["problem"]["device_type"]) == key["device"] and key["versions"] == versions())


def devices_here() -> dict[str, str]:
    """Return the fingerprints of this machine's devices by their types; of several GPUs the first's."""
    import torch

    return {type: fingerprint(torch.device(type, 0)) for type in available_types()}
