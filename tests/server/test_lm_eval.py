"""`lm_eval --model local-completions` against the server gives the decoder's log-likelihoods.

lm_eval lives in an environment of its own (`make test-lm-eval`), as it brings dozens of packages.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

PROGRAM = Path(os.environ.get("LM_EVAL", Path(__file__).parents[2] / ".venv/lm-eval/bin/lm_eval"))
pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason="lm_eval is not installed: run make test-lm-eval"),
    pytest.mark.slow,
]
DOCS = [
    {"question": "In the beginning God created the", "choices": ["heaven", "banana", "earth"], "answer": 0},
    {"question": "And it came to pass in those", "choices": ["days", "nights"], "answer": 0},
    {"question": "Isaac begat", "choices": ["Jacob", "né", "x"], "answer": 0},
]
TASK = """
task: verses
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
"""


def log_likelihood(decoder, context, continuation):
    """Return the log-probability of a text behind another, and whether each token of it is the likeliest."""
    before, ids = list(context.encode()), list((context + continuation).encode())
    scores = decoder([ids[:-1]])[0, len(before) - 1 :].double().log_softmax(-1)
    targets = torch.tensor(ids[len(before) :])
    return float(scores.gather(-1, targets[:, None]).sum()), bool((scores.argmax(-1) == targets).all())


def run(address, folder):
    """Run lm_eval on a task of this file; return what it noted of each document."""
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    (folder / "verses.yaml").write_text(TASK.format(file=folder / "docs.jsonl"))
    model = f"model=tiny,base_url={address}/v1/completions,tokenizer_backend=remote,max_length=1024,num_concurrent=3"
    options = [
        "--model",
        "local-completions",
        "--model_args",
        model,
        "--tasks",
        "verses",
        "--include_path",
        str(folder),
    ]
    offline = {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [PROGRAM, "run", *options, "--log_samples", "--output_path", str(folder / "out")],
        env=without | offline,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = (folder / "out").rglob("samples_verses_*.jsonl")
    return sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])


def test_log_likelihoods_are_the_decoders(tiny, address, tmp_path):
    samples = run(address, tmp_path)
    assert [sample["doc"] for sample in samples] == DOCS
    for sample in samples:
        question, choices = sample["doc"]["question"], sample["doc"]["choices"]
        for choice, ((value, is_greedy),) in zip(choices, sample["resps"], strict=True):
            expected, likeliest = log_likelihood(tiny, question, " " + choice)
            assert float(value) == pytest.approx(expected, abs=1e-3)
            assert is_greedy in (likeliest, str(likeliest))
