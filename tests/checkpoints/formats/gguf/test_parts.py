"""Files in parts, as gguf-split writes them, and what a file says of chats."""

import json

import pytest
from gguf_files import write_gguf
from gguf_models import as_gguf, metadata_of, tensors_of

import bitnet_jit
from bitnet_jit.checkpoints.chat_template import template_of
from bitnet_jit.checkpoints.checksum import checksum_of, weight_file_bytes
from bitnet_jit.errors import CheckpointError

COUNT = 3


def split(decoder, folder, **changes):
    """Write a decoder in parts; `changes` give parts, by number, other keys."""
    tensors = list(tensors_of(decoder, "bitnet-b1.58").items())
    paths = []
    for number in range(COUNT):
        keys = {"split.no": number, "split.count": COUNT, "split.tensors.count": len(tensors)}
        keys |= changes.get(f"part{number}", {})
        if number == 0:
            keys |= metadata_of(decoder, "bitnet-b1.58")
        paths.append(folder / f"tiny-{number + 1:05}-of-{COUNT:05}.gguf")
        write_gguf(paths[-1], keys, dict(tensors[number::COUNT]))
    return paths


def test_parts_are_one_model_by_the_name_of_any(tiny, tmp_path):
    ids = list(b"In the beginning")
    for path in (*split(tiny, tmp_path), tmp_path):
        assert bitnet_jit.load(path).generate(ids, 12).tolist() == tiny.generate(ids, 12).tolist()
    assert weight_file_bytes(tmp_path) == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert len(checksum_of(tmp_path)) == 64


def test_a_missing_part_is_named(tiny, tmp_path):
    first, second, _ = split(tiny, tmp_path)
    second.unlink()
    with pytest.raises(CheckpointError, match=f"{second.name}: expected this part of the 3 parts .* no such file"):
        bitnet_jit.load(first)


@pytest.mark.parametrize("keys", [{"split.no": 2}, {"split.count": 4}])
def test_a_part_of_another_model_is_told(tiny, tmp_path, keys):
    path = split(tiny, tmp_path, part1=keys)[0]
    with pytest.raises(CheckpointError, match=r"tiny-00002-of-00003.gguf: expected part 1 of 3 .*, found \d of \d"):
        bitnet_jit.load(path)


def test_a_tensor_in_two_parts_is_told(tiny, tmp_path):
    path = split(tiny, tmp_path)[0]
    name = next(iter(tensors_of(tiny, "bitnet-b1.58")))
    keys = {"split.no": 1, "split.count": COUNT}
    write_gguf(tmp_path / "tiny-00002-of-00003.gguf", keys, {name: (0, (1,), bytes(4))})
    with pytest.raises(CheckpointError, match=f"{name}: a second one, the first is in tiny-00001-of-00003.gguf"):
        bitnet_jit.load(path)


@pytest.mark.parametrize("name", ["tiny-00004-of-00003.gguf", "tiny-00000-of-00003.gguf", "tiny-00001-of-99999.gguf"])
def test_a_name_that_is_no_part_is_refused(tiny, tmp_path, name):
    path = as_gguf(tiny, tmp_path / name, "bitnet-b1.58")
    with pytest.raises(CheckpointError, match="expected the name of one of at most 1000 parts, from 1 on"):
        bitnet_jit.load(path)


def test_the_chat_template_of_a_file(tiny, tmp_path):
    keys = {"tokenizer.chat_template": "{{ bos_token }}{{ messages | tojson }}{{ eos_token }}"}
    path = as_gguf(tiny, tmp_path / "a.gguf", "bitnet-b1.58", **keys, **{"tokenizer.ggml.bos_token_id": 65})
    messages = [{"role": "user", "content": "é"}]
    assert template_of(path).render(messages) == f"A{json.dumps(messages, ensure_ascii=False)}Ā"
    (tmp_path / "other").write_text("{{ bos_token }}!")
    assert template_of(path, tmp_path / "other").render(messages) == "A!"
    assert template_of(as_gguf(tiny, tmp_path / "b.gguf", "bitnet-b1.58")) is None
    with pytest.raises(CheckpointError, match="chat_template: expected a string, found 3"):
        template_of(as_gguf(tiny, tmp_path / "c.gguf", "bitnet-b1.58", **{"tokenizer.chat_template": 3}))


def test_an_engine_chats_with_a_file(tiny, tmp_path):
    path = as_gguf(
        tiny, tmp_path / "a.gguf", "bitnet-b1.58", **{"tokenizer.chat_template": "{{ messages[0].content }}"}
    )
    messages = [{"role": "user", "content": "In the beginning"}]
    with bitnet_jit.InferenceEngine() as engine:
        engine.load_model(path, "tiny").result()
        text = engine.chat("tiny", messages, 12).result(30).text
    assert text == tiny.tokenizer.decode(tiny.generate(list(b"In the beginning"), 12).tolist()[16:])
