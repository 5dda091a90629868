"""The commands, run in this process; test_process.py runs them as a shell does."""

import io
import json
import re
import shutil
import threading
import time
import warnings
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

import bitnet_jit
from bitnet_jit.checkpoints import hub
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.cli import bench, generate, patience
from bitnet_jit.cli.app import app
from bitnet_jit.devices.threads import get_num_threads, set_num_threads
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.ops.calls import DISPATCHER

VERSE = "And it came to pass "


def run(*arguments: str):
    """Run the command line, and let exceptions pass."""
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_generate_writes_the_prompt_and_its_continuation():
    result = run("generate", VERSE, "--max-new-tokens", "30")
    assert result.exit_code == 0
    assert result.stdout == "And it came to pass after the days of Abraham, tha\n"
    assert re.search(r"30 tokens, the first after \d+\.\d\d s, then \d+\.\d tokens/s\n$", result.stderr)


@pytest.mark.parametrize("arguments", [(), ("-",)])
@pytest.mark.parametrize("text", [VERSE, f"{VERSE}\n", f"{VERSE}\r\n"])
def test_generate_reads_its_prompt_from_stdin(arguments, text):
    result = CliRunner().invoke(app, ["generate", *arguments, "--max-new-tokens", "5"], text)
    assert result.stdout == "And it came to pass after\n"


def test_of_stdin_one_line_break_alone_is_left_out():
    text = "In the\n\nbeginning  \n\n"
    result = CliRunner().invoke(app, ["generate", "--max-new-tokens", "1"], text)
    assert result.stdout[:-2] == text[:-1]


@pytest.mark.parametrize(
    ("text", "words"), [("", "stdin is empty"), ("\n", "stdin is empty"), ("x" * (2**24 + 1), "at most 16777216")]
)
def test_a_prompt_on_stdin_is_refused_in_words(text, words):
    result = CliRunner().invoke(app, ["generate", "-"], text)
    assert isinstance(result.exception, InvalidInput)
    assert str(result.exception).startswith("prompt: expected ")
    assert words in str(result.exception)


def test_a_terminal_is_not_waited_for(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("typed"))
    with pytest.raises(typer.BadParameter, match="stdin is a terminal"):
        generate.read_prompt(None)
    assert generate.read_prompt("-") == "typed"


def test_generate_by_seed():
    options = ("--max-new-tokens", "20", "--temperature", "1", "--top-k", "40", "--top-p", "0.95", "--seed")
    first, again, other = (run("generate", VERSE, *options, seed).stdout for seed in ("1", "1", "2"))
    assert first == again != other


def test_generate_with_a_given_model(tmp_path):
    shutil.copytree(embedded_model(), tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**config, "eos_token_id": ord("d")}))
    result = run("generate", VERSE, "--model", str(tmp_path / "copy"))
    assert result.stdout == "And it came to pass after the \n"


def test_generate_with_an_int8_head():
    result = run("generate", VERSE, "--max-new-tokens", "5", "--head", "int8")
    assert result.stdout == "And it came to pass after\n"


@pytest.mark.parametrize("word", ["bfloat16", "int8"])
def test_generate_with_another_cache(word):
    result = run("generate", VERSE, "--max-new-tokens", "5", "--cache", word)
    assert result.stdout == "And it came to pass after\n"


def test_one_token_has_no_rate():
    assert re.search(r"1 tokens, the first after \S+ s\n$", run("generate", VERSE, "--max-new-tokens", "1").stderr)
    assert generate.rates(1.0, [1.5]) == "1 tokens, the first after 0.50 s"
    assert generate.rates(1.0, [1.5, 2.0, 2.5]) == "3 tokens, the first after 0.50 s, then 2.0 tokens/s"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("",), InvalidInput, "prompt: expected at least one character"),
        (("x" * 2000,), InvalidInput, "input_ids: 2000 tokens"),
        (("x", "--max-new-tokens", "1024"), InvalidInput, "max_new_tokens: expected 1 to 1023"),
        (("x", "--device", "abacus"), InvalidInput, "device: 'abacus'"),
        (
            ("x", "--head", "int4"),
            InvalidInput,
            "head: expected one of checkpoint, int8, bfloat16, float32, i2, t5, got 'int4'",
        ),
        (("x", "--cache", "int4"), InvalidInput, "cache: expected one of auto, float32, bfloat16, int8, got 'int4'"),
        (("x", "--model", "no/such/place"), CheckpointError, "no/such/place: expected a directory or a hub id"),
    ],
)
def test_generate_refuses(arguments, error, words):
    with pytest.raises(error, match=words):
        run("generate", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "x", "--max-new-tokens", "0"),
        ("generate", "x", "--temperature", "-1"),
        ("generate", "x", "--top-p", "2"),
        ("bench", "--shape", "12"),
        ("bench", "--shape", "0x4"),
        ("bench", "--rows", "0"),
        ("nothing",),
    ],
)
def test_wrong_usage(arguments):
    assert run(*arguments).exit_code == 2


def test_info_names_packages_and_devices():
    result = run("info")
    assert result.exit_code == 0
    for line in (rf"bitnet-jit +{re.escape(bitnet_jit.__version__)}", "torch +2", r"cores +\d", r"threads +\d"):
        assert re.search(line, result.stdout), line
    assert re.search(r"backend torch\n  on cpu +usable", result.stdout)
    assert re.search(r"i2 on cpu +i2", result.stdout)


def test_info_names_the_instruction_set_and_the_thread_layer():
    from bitnet_jit.kernels import registry
    from bitnet_jit.kernels.numba.intrinsics.isa import chosen_isa

    assert registry.absent_reason("numba") is None
    result = run("info")
    assert re.search(rf"instruction set +{chosen_isa().name}\n", result.stdout)
    assert re.search(r"thread layer +(threads of our own|GOMP_parallel of|Python threads)", result.stdout)


def test_info_names_the_gpus(monkeypatch):
    from bitnet_jit.devices import cuda, kinds
    from bitnet_jit.problem import Gpu

    monkeypatch.setattr(cuda, "find_gpu", lambda device: Gpu("NVIDIA H200", "9.0", 132, 232448))
    monkeypatch.setitem(kinds.KINDS, "cuda", replace(kinds.KINDS["cuda"], count=lambda: 1))
    result = run("info")
    assert re.search(r"gpu 0\n  name +NVIDIA H200\n  architecture +9.0\n", result.stdout)
    assert re.search(r"shared memory +227 KiB per program", result.stdout)


def test_info_says_why_a_backend_is_not_usable():
    from bitnet_jit.kernels import registry
    from bitnet_jit.kernels.backend import Backend

    registry.register(Backend("abacus", kernels=tuple, bind_call=None, packages=("beads",)))
    try:
        result = run("info")
    finally:
        registry.unregister("abacus")
    assert re.search(r"backend abacus\n  on cpu +not usable: the package beads is not installed", result.stdout)


def test_bench_measures(monkeypatch):
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    before = get_num_threads()
    try:
        result = run("bench", "--shape", "64x96", "--shape", "100x52", "--rows", "1", "--rows", "3", "--threads", "1")
    finally:
        set_num_threads(None)
    assert get_num_threads() == before
    assert result.exit_code == 0
    for line in (r"64 x 96 . +1 ", r"64 x 96 . +3 ", r"100 x 52 . +1 ", "GOP/s", "1 CPU threads"):
        assert re.search(line, result.stdout), line


def test_bench_figures():
    line = bench.Measured(1000, 2000, rows=4, median_seconds=1e-3, num_bytes=500_000)
    assert line.gb_per_second == pytest.approx(0.5)
    assert line.gop_per_second == pytest.approx(16)


def test_main_turns_errors_and_warnings_into_lines(monkeypatch, capsys, tmp_path):
    import bitnet_jit.cli

    bitnet_jit.save(bitnet_jit.load(embedded_model()), tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitnet"}
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    arguments = ["bitnet-jit", "generate", "x", "--max-new-tokens", "5000", "--model", str(tmp_path / "copy")]
    monkeypatch.setattr("sys.argv", arguments)
    warnings.simplefilter("always")  # pytest takes it back after the test
    with pytest.raises(SystemExit) as ended:
        bitnet_jit.cli.main()
    assert ended.value.code == 1
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.startswith("warning: the scale's sense contradicts its value: model.layers.0.self_attn.q_proj")
    assert second.startswith("error: max_new_tokens: expected 1 to 1023")


def test_version():
    assert run("--version").stdout == f"bitnet-jit {bitnet_jit.__version__}\n"


def test_a_hub_id_is_downloaded(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []
    (tmp_path / "config.json").write_text("{}")  # without one, the repository is asked for GGUF files
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, allow_patterns: asked.append((name, allow_patterns)) or tmp_path,
    )
    assert hub.find_model("owner/name-1.58") == tmp_path
    assert asked == [("owner/name-1.58", hub.FILES)]
    assert not any("bin" in pattern or "py" in pattern for pattern in hub.FILES)


def test_offline_is_said_in_words(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="owner/name: no such directory here, and it cannot be had from"):
        hub.find_model("owner/name")


def test_patience_speaks_after_a_while_only(monkeypatch, capsys):
    monkeypatch.setattr(patience, "SECONDS", 0.05)
    monkeypatch.setattr(patience, "PAUSE", 0.0)
    with patience.Patience("quick"):
        pass
    assert capsys.readouterr().err == ""
    with patience.Patience("slow") as told:
        wait_until(lambda: told._told)
        told.update("slower")
        told.end()
        told.update("never said")
    assert capsys.readouterr().err == "slow ...\nslower ...\n"
    assert threading.active_count() == 1 or not any(isinstance(t, threading.Timer) for t in threading.enumerate())


def wait_until(condition) -> None:
    """Wait for the work of a thread, ten seconds at most."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_autotune_reports_its_choices_and_goes_on_from_there():
    first = run("autotune", "--shape", "64x96", "--rows", "1", "--rows", "4")
    assert first.exit_code == 0
    assert re.match(r"2 problems in \d+\.\d s: ", first.stdout)
    again = run("autotune", "--shape", "64x96", "--rows", "1", "--rows", "4")
    tuned = re.search(r"(\d) tuned now", first.stdout)
    known = re.search(r"(\d) known before", again.stdout)
    assert (known and int(known[1])) == (tuned and int(tuned[1]))


def test_autotune_without_time_leaves_the_problems_of_the_embedded_model():
    result = run("autotune", "--budget", "0", "--rows", "3")
    assert "left for want of time" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model", "--shape", "4x4"), "give one of a model, --shape, --export and --import"),
        (("--shape", "4x4", "--effort", "some"), "effort: expected one of quick, full, got 'some'"),
        (("--shape", "4x4", "--device", "cuda:17"), "device: 'cuda:17' cannot be used"),
        (("--shape", "4x300000"), "model_or_shapes: expected"),
    ],
)
def test_autotune_refuses_in_words(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        run("autotune", *arguments)


def test_autotune_of_a_shape_that_is_none_is_wrong_usage():
    assert run("autotune", "--shape", "4by4").exit_code == 2


def test_choices_are_carried_by_a_file(tmp_path):
    run("autotune", "--shape", "64x96", "--rows", "1")
    path = str(tmp_path / "fleet.json")
    written = run("autotune", "--export", path)
    assert re.match(rf"\d+ choices written to {re.escape(path)}\n", written.stdout)
    assert re.match(r"\d+ choices taken over into ", run("autotune", "--import", path).stdout)
    assert f"folder                   {DISPATCHER.cache.folder}" in run("info").stdout


def test_explain_tells_of_every_kind_of_layer(monkeypatch):
    from bitnet_jit.kernels.numba import limits

    monkeypatch.setattr(limits, "DOT4_STEPS", 100)
    monkeypatch.setattr(limits, "AMX_STEPS", 100)
    monkeypatch.setattr(limits, "READ_BYTES", 1 << 16)
    text = run("explain", "--rows", "3").stdout
    assert "quantized_linear of 4 x 384 -> 384" in text
    assert text.count("  kernel ") == text.count("  roofline ") >= 4
    assert "triton: serves cuda, not cpu" in text


def test_a_tuning_that_is_interrupted_says_that_nothing_is_lost(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(bitnet_jit, "autotune", interrupted)
    result = run("autotune", "--shape", "64x96")
    assert result.exit_code == 130
    assert "what is tuned is kept" in result.stderr


@pytest.fixture(scope="module")
def arm_file(tmp_path_factory):
    """Write the embedded model as I2_S of llama-quantize on ARM."""
    from bitnet_jit.checkpoints.converting import convert_checkpoint
    from bitnet_jit.checkpoints.formats.gguf import target
    from bitnet_jit.checkpoints.formats.gguf.i2_s import ARM

    path = tmp_path_factory.mktemp("arm") / "arm.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "X86", ARM)
        convert_checkpoint(embedded_model(), path, "i2_s")
    return path


def test_commands_tell_which_format_was_found(arm_file):
    assert "loading: a folder of Hugging Face, ours, t5\n" in run("generate", "x", "--max-new-tokens", "1").stderr
    told = run("generate", VERSE, "--model", str(arm_file), "--i2-s", "arm", "--max-new-tokens", "5")
    assert told.stderr.count("loading: a GGUF file, bitnet-b1.58 in I2_S (as arm)\n") == 1
    assert told.stdout == "And it came to pass after\n"
    tried = run("autotune", str(arm_file), "--i2-s", "auto", "--budget", "0", "--rows", "1")
    for variant in ("x86", "arm", "rows4"):
        assert f"loading: a GGUF file, bitnet-b1.58 in I2_S (as {variant})\n" in tried.stderr


@pytest.mark.parametrize("variant", ["arm", "auto"])
def test_the_variant_of_i2_s_is_that_of_the_source_alone(arm_file, tmp_path, variant):
    shown = run("inspect", str(arm_file), "--i2-s", variant)
    assert "format    a GGUF file, bitnet-b1.58 in I2_S (as arm)" in shown.stdout
    for format in ("i2_s", "t5"):
        target = str(tmp_path / format)
        done = run("convert", str(arm_file), target, "--to", format, "--i2-s", variant, "--verify")
        assert "0 tensors differ; scales differ by up to 0.0e+00 of them, logits by up to 0.0e+00" in done.stdout
        text = run("generate", VERSE, "--model", target, "--max-new-tokens", "5").stdout
        assert text == "And it came to pass after\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "x"),
        ("chat", "--chat-template"),
        ("serve",),
        ("inspect", str(embedded_model())),
        ("convert", str(embedded_model()), "never", "--to", "t5"),
        ("autotune",),
        ("explain",),
        ("bench-engine", "--quick"),
    ],
)
def test_a_variant_that_is_none_is_refused_with_the_list(arguments, tmp_path):
    (tmp_path / "template.jinja").write_text("")
    file = (str(tmp_path / "template.jinja"),) if arguments[-1] == "--chat-template" else ()
    with pytest.raises(InvalidInput, match="i2_s: expected one of x86, arm, rows4, auto, got 'x68'"):
        run(*arguments, *file, "--i2-s", "x68")


@pytest.fixture
def drawing(tmp_path):
    """Copy the embedded model, whose files ask for draws."""
    shutil.copytree(embedded_model(), tmp_path / "drawing")
    said = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.0}
    (tmp_path / "drawing" / "generation_config.json").write_text(json.dumps(said))
    return tmp_path / "drawing"


def test_the_files_of_a_model_say_how_tokens_are_chosen(drawing):
    arguments = ("generate", VERSE, "--seed", "5", "--max-new-tokens", "12")
    usual = run(*arguments, "--model", str(drawing))
    assert "sampling: temperature 0.9, top_p 0.95 (generation_config.json)\n" in usual.stderr
    assert usual.stdout == run(*arguments, "--temperature", "0.9", "--top-p", "0.95").stdout
    greedy = run(*arguments, "--model", str(drawing), "--temperature", "0")
    assert greedy.stdout == run(*arguments).stdout != usual.stdout
    assert "sampling:" not in greedy.stderr
    decoder = bitnet_jit.load(drawing)
    prompt = list(VERSE.encode())
    assert bytes(decoder.stream(prompt, 12)).decode() == greedy.stdout[len(VERSE) : -1]
    options = decoder.defaults.sampling(seed=5)
    assert bytes(decoder.stream(prompt, 12, sampling=options)).decode() == usual.stdout[len(VERSE) : -1]


def test_options_of_draws_have_their_effect():
    arguments = ("generate", VERSE, "--max-new-tokens", "20")
    greedy = run(*arguments).stdout
    assert run(*arguments, "--temperature", "2", "--min-p", "1", "--seed", "1").stdout == greedy
    assert run(*arguments, "--repetition-penalty", "5").stdout != greedy


def test_a_damaged_generation_config_is_refused_in_words(drawing):
    (drawing / "generation_config.json").write_text('{"temperature": -1}')
    with pytest.raises(CheckpointError, match="generation_config.json: temperature: expected a number .*, found -1"):
        run("generate", "x", "--model", str(drawing))


def test_blocks_and_bytes_are_told_while_a_model_is_loaded(monkeypatch, capsys):
    from bitnet_jit.cli import loading

    told = []
    monkeypatch.setattr(patience.Patience, "update", lambda self, words: told.append(words))
    loading.load_model(None, None)
    assert capsys.readouterr().err.count("loading: a folder of Hugging Face, ours, t5\n") == 1
    size = r"\d+\.\d [KM]iB"
    matches = [re.fullmatch(rf"loading block (\d) of 6, ({size}) of ({size})", words) for words in told]
    assert [match and match[1] for match in matches] == list("123456")
    assert len({match[2] for match in matches}) == 6
    assert float(matches[5][2].split()[0]) == pytest.approx(float(matches[5][3].split()[0]), abs=0.1)
