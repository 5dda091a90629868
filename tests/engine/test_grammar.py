"""Texts under a grammar: valid JSON always, beside others whose bits stay."""

import json
import re
import sys
import time
from contextlib import suppress
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from json_schemas import SCHEMAS
from small_checkpoints import write
from tokenizer_files import KINDS, word_ends, word_level, word_piece

import bitnet_jit
from bitnet_jit.engine import Grammar, InferenceEngine
from bitnet_jit.engine.grammar.grammar import Grammars
from bitnet_jit.engine.grammar.schema import MAX_SCHEMA, has_end
from bitnet_jit.errors import InvalidInput, RequestFailed
from bitnet_jit.generation.sampling import Sampling

PROMPT = "And it came to pass in those days, that he said, "
LIMIT = 500  # tokens, which most schemas below need not
SAMPLINGS = st.sampled_from(
    [
        Sampling(),
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=1.5, top_p=0.9, seed=2, logprobs=2),
        Sampling(temperature=0.8, top_k=9, seed=3, repetition_penalty=1.2),
    ]
)


@pytest.fixture
def engine(make_engine):
    return make_engine()


@settings(max_examples=25, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.none() | SCHEMAS, SAMPLINGS, st.sampled_from([None, "ngram"])), min_size=1, max_size=5
    )
)
def test_texts_are_valid_and_do_not_change_their_neighbours(tiny, shared_engine, requests):
    generations = []
    for schema, sampling, speculate in requests:
        grammar = None if schema is None else Grammar.json_schema(schema)
        limit = 40 if schema is None else LIMIT
        generations.append(shared_engine.submit("tiny", PROMPT, limit, sampling, grammar=grammar, speculate=speculate))
    for (schema, sampling, _), generation in zip(requests, generations, strict=True):
        text = generation.result()
        if schema is None:
            prompt = list(PROMPT.encode())
            assert (
                text.tokens
                == tiny.generate(prompt, 40, sampling=replace(sampling, logprobs=None)).tolist()[len(prompt) :]
            )
        else:
            alone = shared_engine.submit("tiny", PROMPT, LIMIT, sampling, grammar=Grammar.json_schema(schema)).result()
            assert text.tokens == alone.tokens
            assert text.finish_reason == "stop"
            jsonschema.validate(json.loads(text.text), schema)


@pytest.fixture(scope="module")
def shared_engine(tiny):
    with InferenceEngine() as engine:
        engine.add_model("tiny", tiny)
        yield engine


@pytest.mark.parametrize("seed", range(5))
def test_an_object_of_any_kind_is_whole_or_cut(engine, seed):
    options = Sampling(temperature=1.0, seed=seed)
    text = engine.submit("tiny", PROMPT, 300, options, grammar=Grammar.json_object()).result()
    assert text.text.startswith("{")
    if text.finish_reason == "stop":
        assert isinstance(json.loads(text.text), dict)
    else:
        assert len(text.tokens) == 300


def test_guesses_are_made_and_kept_under_a_grammar(engine):
    schema = {"type": "array", "items": {"const": "abcabcabc"}, "minItems": 12, "maxItems": 12}
    texts = [
        engine.submit("tiny", PROMPT, LIMIT, grammar=Grammar.json_schema(schema), speculate=speculate).result()
        for speculate in (None, "ngram")
    ]
    assert texts[0].tokens == texts[1].tokens
    assert json.loads(texts[0].text) == ["abcabcabc"] * 12
    stats = engine.stats()["tiny"]
    assert stats.accepted > 50


def test_a_text_goes_on_after_it_has_lost_its_pages(make_engine):
    engine = make_engine(num_pages=4, prefix_cache=False)
    schema = {"type": "array", "items": {"enum": ["Abraham", "Isaac"]}, "minItems": 14, "maxItems": 14}
    grammar = Grammar.json_schema(schema)
    generations = [engine.submit("tiny", PROMPT, 180, grammar=grammar) for _ in range(3)]
    for generation in generations:
        jsonschema.validate(json.loads(generation.result().text), schema)
    assert engine.stats()["tiny"].preemptions


def test_a_model_without_an_end_token_ends_where_its_text_is_whole():
    decoder = bitnet_jit.load()
    decoder.config = replace(decoder.config, eos_ids=())
    with InferenceEngine() as engine:
        engine.add_model("endless", decoder)
        for schema in (
            {"type": "integer"},
            {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": False},
            {"enum": ["a", "ab"]},
        ):
            text = engine.submit("endless", PROMPT, 90, grammar=Grammar.json_schema(schema)).result()
            assert text.finish_reason == "stop"
            jsonschema.validate(json.loads(text.text), schema)


CHILD = {"type": "object", "properties": {"child": {"$ref": "#"}}, "required": ["child"]}
ENDLESS = {
    "itself": {"$ref": "#"},
    "required": CHILD,
    "array": {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    "first items": {"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1},
    "two": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}},
    "choice": {"anyOf": [{"$ref": "#"}, CHILD]},
    "some property": {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#"}},
    "missing property": {"type": "object", "required": ["a"], "additionalProperties": {"$ref": "#"}},
}


@pytest.mark.parametrize("schema", ENDLESS.values(), ids=ENDLESS)
def test_a_schema_without_an_end_is_refused(schema):
    with pytest.raises(InvalidInput, match="schema: expected one with a text that ends"):
        Grammar.json_schema(schema)


ENDING = [
    {"type": "object", "properties": {"child": {"$ref": "#"}}},
    {"type": "array", "items": {"$ref": "#"}},
    {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}]},
    {"type": ["object", "null"], "properties": {"child": {"$ref": "#"}}, "required": ["child"]},
    {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "integer"}}},
    {"allOf": [{"$ref": "#/allOf/1"}, {"type": "string"}]},
]


@pytest.mark.parametrize("schema", ENDING, ids=str)
def test_a_recursive_schema_with_an_end_is_none_of_them(tiny, schema):
    Grammars(tiny).matcher(Grammar.json_schema(schema))


def nested(depth):
    """Return a schema of so many arrays within one another."""
    schema = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED = {
    "no object": [],
    "deep": nested(200),
    "deeper": nested(100_000),
    "huge": {"enum": ["a" * MAX_SCHEMA]},
    "nan": {"minimum": float("nan")},
    "not json": {"enum": [{1, 2}]},
    "type": {"type": "text"},
    "unknown word": {"not": {"type": "string"}},
    "unsatisfiable": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "bad pattern": {"type": "string", "pattern": "("},
    "intersections": {"allOf": [{"type": "string", "pattern": f".*{chr(97 + place)}.*"} for place in range(26)]},
    "nested intersections": {
        "pattern": "a",
        "anyOf": [{"format": "date", "anyOf": [{"pattern": f"b{n}"}]} for n in range(9)],
    },
    "choices": {"allOf": [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(30)]},
    "multiple": {"type": "integer", "multipleOf": 100_003},
    "huge multiple": {"type": "integer", "multipleOf": 10**400},
    "fine multiple": {"type": "number", "multipleOf": 0.123457},
    "large multiple": {"type": "number", "multipleOf": 1e99},
    "multiples": {"allOf": [{"type": "integer", "multipleOf": n} for n in range(401, 499)]},
    "elsewhere": {"$ref": "http://localhost/schema"},
    "nowhere": {"$ref": "#/$defs/missing"},
    "number": {"$ref": 3},
    "other base": {"properties": {"a": {"$id": "b", "$ref": "#"}}, "anyOf": [{"$id": "b", "$ref": "#"}]},
    "lenient": {"x-guidance": {"lenient": True}, "not": {}},
}


@pytest.mark.parametrize("schema", REFUSED.values(), ids=REFUSED)
def test_a_schema_that_is_wrong_or_too_much_is_refused_at_once(tiny, schema):
    start = time.monotonic()
    with pytest.raises(InvalidInput, match="schema: ") as caught:
        Grammars(tiny).matcher(Grammar.json_schema(schema))
    assert len(str(caught.value)) < 500
    assert time.monotonic() - start < 5


WORDS = ["type", "$ref", "anyOf", "allOf", "properties", "required", "items", "minItems", "$defs", "a"]
DAMAGED = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.sampled_from(["object", "array", "#", "#/$defs/a", "#/anyOf/0"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(WORDS), DAMAGED, max_size=4))
@example({"anyOf": [{"allOf": True}]})
@example({"allOf": 1})
def test_the_search_for_an_end_takes_whatever_is_json(schema):
    with suppress(InvalidInput):
        assert has_end(schema) in (True, False)


def test_a_grammar_that_fails_midway_fails_alone(engine, monkeypatch):
    from bitnet_jit.engine.grammar import grammar as module

    monkeypatch.setitem(module.LIMITS, "step_lexer_fuel", 30)
    hard = Grammar.json_schema({"type": "string", "pattern": "^a(a|b|[c-z]{2,9})*a(a|b){30}$"})
    try:
        failing = engine.submit("tiny", PROMPT, 90, Sampling(temperature=1, seed=0), grammar=hard)
    except InvalidInput:
        pytest.skip("the limit holds before the text begins")
    plain = engine.submit("tiny", PROMPT, 10)
    with pytest.raises(RequestFailed, match="grammar: "):
        failing.result()
    assert len(plain.result().tokens) == 10


def test_without_the_library_a_grammar_says_what_to_install(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InvalidInput, match=r"pip install 'bitnet-jit\[serve\]'"):
        engine.submit("tiny", PROMPT, 5, grammar=Grammar.json_object())


def test_what_is_no_grammar_is_refused(engine):
    with pytest.raises(InvalidInput, match="grammar: expected a Grammar"):
        engine.submit("tiny", PROMPT, 5, grammar={"type": "object"})


@pytest.mark.parametrize("make", KINDS)
def test_models_of_all_kinds_of_tokenizers_write_json(make, tmp_path):
    """Those whose decoders put spaces between tokens are refused, as no token has a text of its own there."""
    tokenizer = make()
    sizes = {"vocab_size": tokenizer.get_vocab_size() + 3, "max_position_embeddings": 512}
    directory = write(tmp_path / "model", eos_token_id=tokenizer.token_to_id("</s>"), **sizes)
    tokenizer.save(str(directory / "tokenizer.json"))
    schema = {"type": "array", "items": {"enum": ["hello the world", "né 😀", 7]}, "minItems": 3, "maxItems": 5}
    with InferenceEngine() as engine:
        engine.add_model("random", bitnet_jit.load(directory))
        if make in (word_piece, word_level, word_ends):
            with pytest.raises(InvalidInput, match="have no bytes of their own"):
                engine.submit("random", "hello ", 300, grammar=Grammar.json_schema(schema))
            return
        for seed in range(4):
            options = Sampling(temperature=1.0, seed=seed)
            text = engine.submit("random", "hello ", 300, options, grammar=Grammar.json_schema(schema)).result()
            assert text.finish_reason == "stop"
            jsonschema.validate(json.loads(text.text), schema)


def test_states_that_are_used_up_by_earlier_texts_are_no_error_of_a_later_one(engine, monkeypatch):
    from bitnet_jit.engine.grammar import grammar as module

    monkeypatch.setitem(module.LIMITS, "max_lexer_states", 120)  # a text of 30 needs a part of them, all texts more
    grammar = Grammar.json_schema({"type": "string", "pattern": "^(a|b)*a(a|b){7}$", "maxLength": 30})
    compiled = []
    compile_grammar = module.compile_grammar
    monkeypatch.setattr(module, "compile_grammar", lambda *rest: compiled.append(rest) or compile_grammar(*rest))
    for seed in range(12):
        options = Sampling(temperature=1.0, seed=seed, logit_bias={ord('"'): -2.0})
        speculate = "ngram" if seed % 2 else None
        text = engine.submit("tiny", PROMPT, 60, options, grammar=grammar, speculate=speculate).result()
        assert re.fullmatch('"(a|b)*a(a|b){7}"', text.text)
    assert len(compiled) > 2


def test_a_text_that_needs_more_states_than_there_may_be_fails(engine, monkeypatch):
    from bitnet_jit.engine.grammar import grammar as module

    monkeypatch.setitem(module.LIMITS, "max_lexer_states", 60)
    grammar = Grammar.json_schema({"type": "string", "pattern": "^(a|b){99,}a(a|b){7}$"})
    options = Sampling(temperature=99.0, seed=0, banned_token_ids=[0])  # a and b about evenly
    with pytest.raises(RequestFailed, match="grammar: lexer error: too many states"):
        engine.submit("tiny", PROMPT, 300, options, grammar=grammar).result()
