"""Text to tokens and back, whole and streamed, with and without a tokenizer.json."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitnet_jit
from bitnet_jit.errors import CheckpointError
from bitnet_jit.generation.tokenizer import ByteTokenizer, FileTokenizer, find_tokenizer

TEXTS = [
    "In the beginning",
    "Ångström, naïve café",
    "日本語の文章と 🙂🙃 emoji",
    " leading and  double  spaces",
    "a\nb\t\0c",
]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    """Write a byte-level BPE tokenizer, such as Llama 3's, with few merges: characters span tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(["In the beginning the earth was without form and void"], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    library.save(str(path))
    return path


@pytest.fixture(params=["bytes", "file"])
def tokenizer(request, tokenizer_file):
    return ByteTokenizer() if request.param == "bytes" else FileTokenizer(tokenizer_file)


@pytest.mark.parametrize("text", TEXTS)
def test_there_and_back(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokens]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(text=st.text(max_size=30))
def test_streams_of_any_text(tokenizer_file, text):
    text = text.encode("utf-8", errors="replace").decode()
    for tokenizer in (ByteTokenizer(), FileTokenizer(tokenizer_file)):
        stream = tokenizer.stream()
        assert "".join([*map(stream.push, tokenizer.encode(text)), stream.finish()]) == text


@given(data=st.binary(max_size=20))
def test_bytes_that_are_no_text(data):
    stream = ByteTokenizer().stream()
    assert "".join([*map(stream.push, data), stream.finish()]) == data.decode("utf-8", errors="replace")


def test_an_unfinished_character_is_held_back_to_the_end(tokenizer):
    tokens = tokenizer.encode("né")[:-1]
    stream = tokenizer.stream()
    assert "".join(map(stream.push, tokens)) == "n"
    assert stream.finish() == "\ufffd"


def test_special_tokens_are_no_text(tokenizer_file):
    tokenizer = FileTokenizer(tokenizer_file)
    stream = tokenizer.stream()
    end = tokenizer.encode("<end>")
    assert len(end) == 1
    assert "".join(map(stream.push, [*tokenizer.encode("the"), *end, *tokenizer.encode(" end")])) == "the end"


def test_which_tokenizer_a_directory_has(tmp_path, tokenizer_file):
    assert isinstance(find_tokenizer(tmp_path, 256), ByteTokenizer)
    assert find_tokenizer(tmp_path, 300) is None
    assert isinstance(find_tokenizer(tokenizer_file.parent, 256), FileTokenizer)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"model": {"type": "nothing"}}'])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected a tokenizer"):
        find_tokenizer(tmp_path, 256)


def test_a_model_with_a_tokenizer_stops_at_strings(write_checkpoint, tokenizer_file):
    directory = write_checkpoint(vocab_size=300)
    (directory / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    decoder = bitnet_jit.load(directory)
    prompt = decoder.tokenizer.encode("In the beginning")
    tokens = list(decoder.stream(prompt, max_new_tokens=20))
    written = decoder.tokenizer.decode(tokens)
    stop = written[4:6]
    stopped = decoder.tokenizer.decode(list(decoder.stream(prompt, max_new_tokens=20, stop=stop)))
    assert stop in stopped
    assert len(stopped) <= written.index(stop) + 12
