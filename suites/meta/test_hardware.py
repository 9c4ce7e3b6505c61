"""Tiers: which one a machine has, which ones it can judge, and what int8 means there."""

import pytest

from fixtures.runtimes import hardware
from fixtures.runtimes.hardware import TIER, TIERS, Machine, WrongMachine, choose_tier, native_tier

CPU = ("CPUExecutionProvider",)
VNNI = set(TIER["avx512_vnni"].flags)


@pytest.mark.parametrize(
    ("arch", "flags", "tier"),
    [
        ("x86_64", set(), "sse"),
        ("x86_64", {"avx2"}, "sse"),  # ONNX Runtime's AVX2 kernels want FMA too
        ("x86_64", {"avx2", "fma"}, "avx2"),
        ("x86_64", {"avx2", "fma", "avx512f"}, "avx2"),  # Knights Landing has avx512f alone
        ("x86_64", {"avx2", "fma", *(VNNI - {"avx512_vnni"})}, "avx512"),
        ("x86_64", {"avx2", "fma", *VNNI}, "avx512_vnni"),
        ("arm64", set(), "arm64"),
        ("arm64", {"asimddp"}, "arm64_dotprod"),
        ("arm64", {"asimddp", "i8mm"}, "arm64_i8mm"),
        ("arm64", {"i8mm", "avx2", "fma"}, "arm64"),
    ],
)
def test_native_tier(arch, flags, tier):
    assert native_tier(arch, flags) == tier


def test_unknown_architecture_is_named():
    with pytest.raises(WrongMachine, match="'riscv64' is none of arm64, cuda, x86_64"):
        native_tier("riscv64", set())


@pytest.mark.parametrize("lower", ["sse", "avx2", "avx512", "avx512_vnni"])
def test_lower_tier_may_be_asked_for(lower):
    assert choose_tier("avx512_vnni", lower, "") == lower


@pytest.mark.parametrize(
    ("native", "requested", "message"),
    [
        ("avx2", "avx512", "tier avx512 needs avx512bw, avx512dq, avx512f, avx512vl, and this machine"),
        ("avx512", "avx512_vnni", "tier avx512_vnni needs avx512_vnni, and this machine's processor is only avx512"),
        ("avx2", "arm64", "tier arm64 needs an arm64 machine, and this one is x86_64"),
        ("arm64_i8mm", "avx2", "tier avx2 needs an x86_64 machine, and this one is arm64"),
        ("avx2", "cuda", "tier cuda needs an NVIDIA GPU, and this machine has no driver that shows one"),
        ("avx2", "avx3", "unknown tier 'avx3'; the tiers are sse, avx2"),
    ],
)
def test_tier_that_the_machine_lacks_is_refused(native, requested, message):
    with pytest.raises(WrongMachine, match=message):
        choose_tier(native, requested, "")


def test_cuda_is_chosen_where_a_gpu_is():
    assert choose_tier("avx2", "cuda", "NVIDIA H100") == "cuda"


def test_this_machine_is_described():
    machine = hardware.detect()
    assert machine.tier == machine.native == machine.baseline
    assert TIER[machine.tier].family == machine.arch
    assert machine.threads >= 1
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**28
    assert "CPUExecutionProvider" in machine.providers


def test_lower_tier_has_a_baseline_of_its_own():
    machine = Machine("x86_64", "avx512_vnni", "avx2", "", 1, 1, 0, CPU)
    assert machine.baseline == "avx2-on-avx512_vnni"
    assert machine.int8.weights_dtype == "QUInt8"


@pytest.mark.parametrize("tier", [tier.name for tier in TIERS if tier.name not in ("sse", "cuda")])
def test_int8_parameters_are_optimums(tier):
    """`quantized` means what Optimum's AutoQuantizationConfig gives for the tier."""
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    make = getattr(AutoQuantizationConfig, "arm64" if tier.startswith("arm64") else tier)
    optimum, int8 = make(is_static=False, per_channel=True), TIER[tier].int8
    assert int8.weights_dtype == optimum.weights_dtype.name
    assert int8.activations_dtype == optimum.activations_dtype.name
    assert (int8.per_channel, int8.reduce_range) == (optimum.per_channel, optimum.reduce_range)
