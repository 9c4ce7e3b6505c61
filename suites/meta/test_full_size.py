"""The full-size model that is timed on request: what is collected, how large it is, and how it is built."""

import subprocess
import sys

import pytest

from fixtures.build.needs import ModelSize, bytes_needed
from fixtures.build.step import Step
from fixtures.export.quantize import quantize
from fixtures.export.seeded import ARCHITECTURES, weight_bytes_of
from fixtures.gate.command_line import FULL_SIZE, ROOT
from fixtures.scoring.probes import LONG_TEXT


def collected(*options):
    """Return the ids of the tests that pytest collects of accuracy, latency and claims."""
    command = [
        *(sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "fixtures.options"),
        *("--collect-only", "-q", "-p", "no:cacheprovider"),
        *options,
        *("suites/accuracy", "suites/latency", "suites/claims"),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()


def test_full_size_is_timed_only_on_request_and_only_for_speed(tmp_path):
    folders = ("--store", str(tmp_path / "store"), "--report", str(tmp_path / "report"))
    assert not [line for line in collected(*folders) if "568m" in line]
    lines = [line for line in collected("--full-size", *folders) if "568m" in line]
    tests = {line.partition("::")[2].partition("[")[0] for line in lines}
    assert tests == {"test_latency_of_pytorch", "test_latency", "test_footprint", "test_claim"}
    assert "suites/latency/test_latency.py::test_latency[xlm-roberta-568m-O2-quantized-8x128]" in lines
    assert "suites/claims/test_claims.py::test_claim[xlm-roberta-568m-batch-1-is-fastest]" in lines


def test_full_size_is_known_before_it_is_built():
    """Its source is the row of the large architecture, whose steps need up to three times its 2.3 GB."""
    text = (FULL_SIZE / "xlm-roberta-568m" / "model.toml").read_text()
    size = weight_bytes_of(text.partition('source = "')[2].partition('"')[0])
    assert size == pytest.approx(2.27e9, rel=0.01)
    step = Step(quantize, "xlm-roberta-568m: export > quantize", ())
    assert 2 * size < bytes_needed(step, ModelSize(size)) < 3.1 * size
    assert weight_bytes_of("seeded:xlm_roberta@5") == weight_bytes_of("path:xlm_roberta_large") == 0


def test_full_size_has_the_sizes_that_it_stands_for():
    """568 million parameters: tables, 24 layers of attention, feed-forward and two norms, and the head."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    row = ARCHITECTURES["xlm_roberta_large"]
    with torch.device("meta"):
        config = getattr(transformers, row.config)(**row.keys)
        config.num_labels = 1
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    wide, inner = 1024, 4096
    tables = (250_002 + 8_194 + 1 + 2) * wide
    layer = 4 * (wide + 1) * wide + (wide + 1) * inner + (inner + 1) * wide + 4 * wide
    count = tables + 24 * layer + (wide + 1) * wide + (wide + 1)
    assert sum(parameter.numel() for parameter in model.parameters()) == count == 567_755_777
    assert row.weight_bytes == pytest.approx(4 * count, rel=1e-3)


def test_full_size_has_texts_of_512_tokens(tmp_path):
    """Its tokenizer is small, and takes as many tokens as the real one."""
    pytest.importorskip("transformers")
    tokenizer = ARCHITECTURES["xlm_roberta_large"].tokenizer(tmp_path)
    assert tokenizer.model_max_length == 8192
    assert len(tokenizer(LONG_TEXT * 8)["input_ids"]) > 512
