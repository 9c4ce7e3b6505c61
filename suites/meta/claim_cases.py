"""Made-up results of models, and for each claim results that bear it out, that do not, and that leave it open.

The rows of CASES are not formatted, and are more than fit beside the tests: each is read as one line.
"""

import math

from fixtures.claims.table import CLAIMS
from fixtures.latency.records import Cell, Measurement, Quantity, Undecided
from fixtures.report.results import Check, ClaimStatus, ModelResult, Status, VariantResult

HOLDS, FAILS, UNMEASURED = ClaimStatus
CLAIM = {claim.name: claim for claim in CLAIMS}
SHAPES = ((1, 16), (1, 128), (1, 512), (8, 16), (8, 128))
ERROR = {"rerank": "max_logit_error", "embedding": "max_abs_error"}


def cell(shape, ratio, *, plain_ms=None, half=0.01):
    """Return a cell of a variant `ratio` times as fast as plain, which by default takes 1 ms for 16 tokens."""
    plain_ms = plain_ms or math.prod(shape) / 16
    p50_ms = plain_ms / ratio
    batch, length = shape
    return Cell(
        batch,
        length,
        p50_ms=p50_ms,
        p95_ms=p50_ms * 1.05,
        items_per_s=batch / p50_ms * 1e3,
        ratio_to_plain=ratio,
        interval=(ratio * (1 - half), ratio * (1 + half)),
        ratio_to_torch=None,
        rounds=40,
        threads=2,
    )


def undecided_at(shape, reason="noisy"):
    return Undecided(Measurement(Quantity.LATENCY, *shape), reason)


def variant(name, ratio=None, error=None, task="rerank", shapes=SHAPES, size=100, **cells):
    """Return a variant with one ratio at all shapes and one error, where they are given."""
    return VariantResult(
        name,
        bytes=size,
        digest="sha256:ab",
        latency=[cell(shape, ratio, **cells) for shape in shapes] if ratio else [],
        closeness={ERROR[task]: error} if error is not None else {},
        ceiling={ERROR[task]: 0.01},
    )


def model(*variants, torch=None, task="rerank", shapes=SHAPES):
    """Return a model whose PyTorch is `torch` times as fast as plain."""
    cells = [cell(shape, torch) for shape in shapes] if torch else []
    return ModelResult("m", "sha256:cd", task, variants=list(variants), torch_latency=cells)


def beside_torch(name, ratio, torch=1.0, task="rerank"):
    return model(variant(name, ratio, task=task), torch=torch, task=task)


def fluctuating(factor, *, undecided=False):
    """Return O2, `factor` times as far ahead of PyTorch at 1x128 as at 1x16.

    Args:
        undecided: whether there is a third shape, which is undecided.
    """
    result = model(variant("O2", 1.2, shapes=((1, 16),)), torch=1.0)
    result.variants[0].latency.append(cell((1, 128), 1.2 * factor))
    result.variants[0].undecided = [undecided_at((1, 512))] if undecided else []
    return result


def batched(batch_ms):
    """Return plain at 1x128, in 8 ms, and at 8x128; O2 and PyTorch took turns with a plain that was 1 % slower."""
    shapes = {(1, 128): 8.0, (8, 128): batch_ms}
    plain, o2, torch = (
        [cell(shape, 1.0, plain_ms=ms * slowness) for shape, ms in shapes.items()] for slowness in (1, 1.01, 1.01)
    )
    variants = [VariantResult("plain", latency=plain), VariantResult("O2", latency=o2)]
    return ModelResult("m", "", "rerank", torch_latency=torch, variants=variants)


def timed_at(milliseconds):
    """Return plain timed at each shape of `milliseconds`, shape -> time of a run."""
    cells = [cell(shape, 1.0, plain_ms=plain_ms) for shape, plain_ms in milliseconds.items()]
    return ModelResult("m", "", "rerank", torch_latency=cells, variants=[VariantResult("plain", latency=cells)])


def erring(task="rerank", **errors):
    """Return a model with one variant for each error, by name."""
    return model(*(variant(name, error=error, task=task) for name, error in errors.items()), task=task)


FUSED = ("O2-quantized", "O3-quantized")
O2_AND_O3 = (variant("O2", 1.1), variant("O3", 1.1))
NO_DATA_TYPE = Check(Status.FAIL, "Unable to find data type for weight_name")
DISK_FULL = Check(Status.FAIL, "no space left on device")
OF_TASK_DEFAULT = ("rerankers-not-by-default", "default-may-not-do", "task-must-be-named")
CASES = [
    # 64 ms for a batch of 8 are 8 ms per text, 51.2 are 6.4 and 83.2 are 10.4: 1.3 times those of one by one
    ("batch-1-is-fastest", batched(83.2), HOLDS, "2 of 2 above 1; plain 1x128 over 8x128 1.3 (1.28 to 1.32)"),
    ("batch-1-is-fastest", batched(51.2), FAILS, "0 of 2 above 1, 2 below"),
    ("batch-1-is-fastest", batched(64.0), UNMEASURED, "on a border: plain 1x128 over 8x128, O2 1x128 over 8x128"),
    ("batch-1-is-fastest", timed_at({(1, 16): 1.0, (8, 128): 64.0}), UNMEASURED, "no batches beside single texts"),
    ("batch-1-by-20-to-50-percent", batched(83.2), HOLDS, "2 of 2 in 1.2 to 1.5"),
    ("batch-1-by-20-to-50-percent", batched(70.4), FAILS, "2 below"),
    ("batch-1-by-20-to-50-percent", batched(76.8), UNMEASURED, "on a border"),
    ("faster-than-pytorch", beside_torch("quantized", 2.0), HOLDS, "5 of 5 in 1.3 to 7; quantized over "),
    ("faster-than-pytorch", beside_torch("quantized", 1.2), FAILS, "0 of 5 in 1.3 to 7, 5 below"),
    ("faster-than-pytorch", beside_torch("quantized", 1.3), UNMEASURED, "on a border: quantized over PyTorch 1x16"),
    ("faster-than-pytorch", beside_torch("openvino", 2.0), UNMEASURED, "latency: not measured in this run"),
    ("faster-than-pytorch", beside_torch("quantized", 2.0, None), UNMEASURED, "PyTorch: its latency was not measured"),
    ("fluctuates", fluctuating(1.4), HOLDS, "1 of 1 above 1.1; O2 over PyTorch 1x128 over 1x16 1.4 (1.37 to 1.43)"),
    ("fluctuates", fluctuating(1.05), FAILS, "0 of 1 above 1.1, 1 below"),
    ("fluctuates", fluctuating(1.1), UNMEASURED, "on a border"),
    ("fluctuates", fluctuating(1.0, undecided=True), UNMEASURED, "O2 over PyTorch 1x128 over 1x16 1 (0.98 to inf)"),
    ("fluctuates", fluctuating(1.4, undecided=True), HOLDS, "1.4 (1.37 to inf)"),
    ("fluctuates", model(variant("O2", 1.2, shapes=((1, 16),)), torch=1.0), UNMEASURED, "at one shape only"),
    ("fluctuates", erring(plain=1e-4), UNMEASURED, "latency: not measured in this run"),
    ("plain-over-pytorch", beside_torch("plain", 1.0, 1 / 1.4), HOLDS, "1x16 1.4 (1.38 to 1.42)"),
    ("plain-over-pytorch", beside_torch("plain", 1.0, 1 / 1.6), FAILS, "5 above"),
    ("plain-over-pytorch", beside_torch("plain", 1.0, 1 / 1.5), UNMEASURED, "on a border"),
    ("O2-like-O3", model(variant("O2", 1.2), variant("O3", 1.22)), HOLDS, "O3 over O2 1x16 1.02 (1 to 1.03)"),
    ("O2-like-O3", model(variant("O2", 1.2), variant("O3", 1.5)), FAILS, "5 above"),
    ("O2-like-O3", model(variant("O2", 1.2)), UNMEASURED, "O3: not among the variants of this run"),
    ("O2-and-O3-over-plain", model(variant("O2", 1.15), variant("O3", 1.15)), HOLDS, "plain 1x16 1.15 (1.14 to 1.16)"),
    ("O2-and-O3-over-plain", model(variant("O2", 1.15), variant("O3", 1.0)), FAILS, "5 of 10 in 1.1 to 1.2, 5 below"),
    ("O2-and-O3-over-plain", model(variant("O2", 1.1), variant("O3", 1.1)), UNMEASURED, "on a border: O2 over plain"),
    ("quantized-over-plain", model(variant("quantized", 1.3)), HOLDS, "5 of 5 in 1.1 to 1.5"),
    ("quantized-over-plain", model(variant("quantized", 1.8)), FAILS, "5 above"),
    ("quantized-over-plain", model(variant("quantized", 1.5)), UNMEASURED, "on a border"),
    ("O2-and-O3-over-plain", model(variant("O2", 1.15)), UNMEASURED, "5 of 5 in 1.1 to 1.2"),  # O3 may differ
    ("O2-and-O3-over-plain", model(variant("O2", 1.0)), FAILS, "0 of 5 in 1.1 to 1.2"),  # whatever O3 is
    ("quantized-is-clearly-faster", model(variant("quantized", 1.3)), HOLDS, "5 of 5 above 1.05"),
    ("quantized-is-clearly-faster", model(variant("quantized", 1.0)), FAILS, "5 below"),
    ("quantized-is-clearly-faster", model(variant("quantized", 1.05)), UNMEASURED, "on a border"),
    ("quantized-over-O2-and-O3", model(variant("quantized", 1.3), *O2_AND_O3), HOLDS, "10 of 10 above 1"),
    ("quantized-over-O2-and-O3", model(variant("quantized", 1.0), *O2_AND_O3), FAILS, "10 below"),
    ("quantized-over-O2-and-O3", model(variant("quantized", 1.1), *O2_AND_O3), UNMEASURED, "quantized over O2 1x16"),
    ("quantized-is-unsteady", model(variant("quantized", 1.1), *O2_AND_O3), HOLDS, "10 of 10 in 0.952 to 1.05"),
    ("quantized-is-unsteady", model(variant("quantized", 1.3), *O2_AND_O3), FAILS, "in 0.952 to 1.05, 10 above"),
    ("quantized-is-unsteady", model(variant("quantized", 0.5), *O2_AND_O3), FAILS, "10 below"),  # never as fast
    ("quantized-is-unsteady", model(variant("quantized", 1.155), *O2_AND_O3), UNMEASURED, "on a border"),
    ("error-of-plain-and-O2", erring(plain=1e-3, O2=2e-3), HOLDS, "plain 0.001; O2 0.002; max_logit_error"),
    ("error-of-plain-and-O2", erring(plain=1e-3, O2=1e-5), FAILS, "1 of 2 in 0.000316 to 0.00316, 1 below"),
    ("error-of-plain-and-O2", erring(O3=1e-3), UNMEASURED, "plain: not among the variants of this run; O2: not among"),
    ("error-of-O3", erring(O3=0.012), HOLDS, "O3 0.012"),
    ("error-of-O3", erring(O3=0.05), FAILS, "1 above"),
    ("error-of-O3", erring(O3=math.nan), UNMEASURED, "undecided: O3 (its error is not finite)"),
    ("error-of-quantized", erring(quantized=0.3), HOLDS, "quantized 0.3"),
    ("error-of-quantized", erring(quantized=1.3), FAILS, "1 above"),
    ("error-of-quantized", erring("embedding", quantized=0.3), UNMEASURED, "max_abs_error 0.3, and the notes are"),
    ("error-of-quantized", model(variant("quantized", 1.2)), UNMEASURED, "its scores were not judged in this run"),
    ("order-of-errors", erring(quantized=0.3, O3=0.01, O2=1e-5, plain=2e-5), HOLDS, "quantized over O3 30"),
    ("order-of-errors", erring(quantized=0.3, O3=0.01, O2=0.02, plain=0), FAILS, "2 of 3 above 1, 1 below"),
    ("order-of-errors", erring(quantized=0.3, O3=1e-5, O2=1e-5, plain=1e-5), UNMEASURED, "on a border: O3 over O2"),
    ("order-of-errors", erring(plain=1e-5, O3=0.01), UNMEASURED, "1 of 1 above 1"),  # of three
    ("order-of-errors", erring(plain=1e-3), UNMEASURED, "quantized: not among the variants of this run"),
    ("fused-cannot-be-quantized", erring(**dict.fromkeys(FUSED, 0.3)), FAILS, "O3-quantized was built and ran: 0 MB"),
    (
        "fused-cannot-be-quantized",
        model(variant("plain", 1.0), *(VariantResult(name, checks={"builds": NO_DATA_TYPE}) for name in FUSED)),
        HOLDS, "O2-quantized was not built: Unable to find data type",
    ),
    (
        "fused-cannot-be-quantized",
        model(variant("plain", 1.0), *(VariantResult(name, checks={"builds": DISK_FULL}) for name in FUSED)),
        UNMEASURED, "O2-quantized was not built: no space left on device",
    ),
    ("fused-cannot-be-quantized", erring(plain=1e-3), UNMEASURED, "O2-quantized: not among the variants"),
    (
        "fused-are-mixed-precision",
        model(variant("plain", 1.0), variant("O2", 1.0, size=52), variant("O3", 1.0, size=52)),
        HOLDS, "O2 0.52; O3 0.52",
    ),
    ("fused-are-mixed-precision", model(variant("plain", 1.0), *O2_AND_O3), FAILS, "O2 1; O3 1"),
    ("fused-are-mixed-precision", model(variant("plain", 1.0), variant("O2", 1.0, size=52)), UNMEASURED, "O3: not "),
    ("fused-are-mixed-precision", model(*O2_AND_O3), UNMEASURED, "O2: it or plain was not built in this run"),
    ("arm64-over-avx512", erring(plain=1e-3), FAILS, "weights QInt8, activations QUInt8"),
    # 16 times 1x16 is 1x256: 512 tokens in 32 ms are as dear as 128 in 8 ms, and in 128 ms a quarter as many a second
    ("fit-up-to-500-tokens", timed_at({(1, 128): 8.0, (1, 512): 32.0}), HOLDS, "1x512 over 1x128 1 (0.986 to 1.01)"),
    ("fit-up-to-500-tokens", timed_at({(1, 128): 8.0, (1, 512): 128.0}), FAILS, "1x512 over 1x128 0.25"),
    ("fit-up-to-500-tokens", timed_at({(1, 128): 8.0, (1, 512): 64.0}), UNMEASURED, "on a border"),
    ("fit-up-to-500-tokens", timed_at({(1, 128): 8.0}), UNMEASURED, "1x128 and 1x512 were not both timed"),
    ("slow-for-long-large-batches", timed_at({(1, 128): 8.0, (8, 512): 1024.0}), HOLDS, "8x512 over 1x128 0.25"),
    ("slow-for-long-large-batches", timed_at({(1, 128): 8.0, (8, 512): 256.0}), FAILS, "8x512 over 1x128 1 "),
    ("slow-for-long-large-batches", timed_at({(1, 128): 8.0, (8, 128): 64.0}), UNMEASURED, "8 or more were timed"),
    ("only-with-optimum", model(variant("plain", 1.0)), FAILS, "plain: scored or timed in onnxruntime."),
    ("only-with-optimum", model(VariantResult("O2"), torch=1.0), UNMEASURED, "no variant of ONNX was scored or timed"),
    ("only-with-optimum", model(variant("openvino", 2.0), torch=1.0), UNMEASURED, "no variant of ONNX"),
    ("embedders-by-default", erring("embedding", plain=1e-3), HOLDS, "plain 0.1; max_abs_error"),
    ("embedders-by-default", erring("embedding", plain=1e-1), FAILS, "plain 10"),
    ("embedders-by-default", erring("embedding", O2=1e-3), UNMEASURED, "plain: not among"),
    ("rerankers-by-text-classification", erring(plain=1e-3), HOLDS, "plain 0.1; max_logit_error"),
    ("rerankers-by-text-classification", erring(plain=1e-1), FAILS, "plain 10"),
    ("rerankers-by-text-classification", erring(O2=1e-3), UNMEASURED, "plain: not among"),
    *((name, erring(plain=1e-3), UNMEASURED, "docs/detection.md") for name in OF_TASK_DEFAULT),
    *(
        (name, erring(task, plain=1e-3), UNMEASURED, "no labelled dataset")
        for name, task in ((name, name.rpartition("-")[2]) for name in CLAIM if name.startswith("published-quality"))
    ),
    ("published-quantized-embedding", beside_torch("quantized", 3.2, task="embedding"), HOLDS, "in 2.94 to 3.55"),
    ("published-quantized-embedding", beside_torch("quantized", 1.6, task="embedding"), FAILS, "5 below"),
    ("published-quantized-embedding", beside_torch("quantized", 3.553, task="embedding"), UNMEASURED, "on a border"),
    *(
        (f"published-{name}-{task}", beside_torch(name, ratio * factor, task=task), status, "")
        for name, task, ratio in (
            ("plain", "embedding", 1.06), ("O2", "embedding", 0.98), ("O3", "embedding", 1.01),
            ("openvino-static", "embedding", 5.29), ("O4", "embedding", 2.20),
            ("plain", "rerank", 0.99), ("O2", "rerank", 1.18), ("O3", "rerank", 1.17), ("quantized", "rerank", 1.36),
            ("openvino-static", "rerank", 3.09), ("O4", "rerank", 1.43),
        )
        for factor, status in ((1, HOLDS), (1.2, FAILS), (1.1, UNMEASURED))
    ),
    ("published-O4-rerank", erring(plain=1e-3), UNMEASURED, "O4: not among the variants of this run"),
]  # fmt: skip

"""(claim, results of a model, status, part of the evidence)."""
