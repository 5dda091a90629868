"""Tokenizers of every kind that the tokenizers library knows, small enough to be made in a moment."""

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPACE = "\u2581"
SPECIAL = ("<unk>", "<s>", "</s>", "<|eot_id|>")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("hello", "the", "world", "then", "he")


def add_tokens(result: Tokenizer) -> Tokenizer:
    """With special tokens, one that is not special, and the beginning of a text."""
    result.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    result.add_tokens([AddedToken("[TOOL]", special=False, normalized=False)])
    begin = result.token_to_id("<s>")
    result.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    return result


def byte_level() -> Tokenizer:
    """GPT-2's and Llama 3's kind."""
    result = Tokenizer(models.BPE())
    result.pre_tokenizer, result.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    result.train_from_iterator(["hello the world and then the world"], trainer)
    return add_tokens(result)


def pieces(vocabulary: dict[str, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Letters and words that begin with a space, and the merges that make them."""
    merges: dict[tuple[str, str], None] = {}
    for letter in SPACE + LETTERS:
        vocabulary[letter] = len(vocabulary)
    for word in WORDS:
        word = SPACE + word
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    return vocabulary, list(merges)


def with_fallback() -> dict[str, int]:
    """Special tokens, and one for each byte."""
    return {name: index for index, name in enumerate(SPECIAL[:3])} | {
        f"<0x{byte:02X}>": 3 + byte for byte in range(256)
    }


def llama() -> Tokenizer:
    """Llama 2's and Mistral's kind: a normalizer puts spaces in, the decoder strips the first."""
    vocabulary, merges = pieces(with_fallback())
    result = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    result.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    result.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return add_tokens(result)


def metaspace() -> Tokenizer:
    """The same with Metaspace."""
    vocabulary, merges = pieces(with_fallback())
    result = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    result.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    result.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)]
    )
    return add_tokens(result)


def unigram() -> Tokenizer:
    """T5's and Gemma's kind."""
    names = [*SPECIAL[:3], SPACE, *LETTERS, *(SPACE + word for word in WORDS)]
    scores = [(name, -1.0 - index / 10) for index, name in enumerate(names)]
    scores += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    result = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    result.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    result.pre_tokenizer = pre_tokenizers.Metaspace()
    result.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return add_tokens(result)


def word_piece() -> Tokenizer:
    """BERT's kind: lower case, parts of words begin with ##."""
    names = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS, *".,'!?"]
    result = Tokenizer(models.WordPiece({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    result.normalizer, result.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    result.decoder = decoders.WordPiece()
    return add_tokens(result)


def word_level() -> Tokenizer:
    """Whole words, and no decoder: the library puts spaces between tokens."""
    result = Tokenizer(
        models.WordLevel({name: index for index, name in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>")
    )
    result.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return add_tokens(result)


def word_ends() -> Tokenizer:
    """The first BPE's kind: the last part of a word ends with </w>."""
    names = [*SPECIAL, *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    vocabulary = {name: index for index, name in enumerate(names)}
    result = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    result.pre_tokenizer, result.decoder = pre_tokenizers.WhitespaceSplit(), decoders.BPEDecoder()
    return add_tokens(result)


KINDS = (byte_level, llama, metaspace, unigram, word_piece, word_level, word_ends)
