"""Parameters of the shipped models against the totals that their makers print."""

from __future__ import annotations

import pytest

from clustersim.model.transformer import total_parameters
from clustersim.spec.resolve import load_model

# Billions, as printed to the last digit.
PRINTED = {
    "dbrx": 132,  # Databricks, Introducing DBRX
    "deepseek_67b": 67.4,  # weights of the checkpoint, model card
    "deepseek_r1": 671,  # arXiv:2501.12948
    "deepseek_v3": 671,  # arXiv:2412.19437
    "gemma3_12b": 1.012 + 10.759,  # arXiv:2503.19786, Table 1: embedding and the rest
    "gemma3_27b": 1.416 + 25.600,
    "gpt_oss_120b": 116.83,  # arXiv:2508.10925, Table 1
    "gpt_oss_20b": 20.91,
    "gptj_6b": 6.05,  # model card
    "kimi_k2": 1026.4,  # weights of the checkpoint, model card
    "kimi_k2_5": 1026.4,
    "llama2_7b": 6.74,  # weights of the checkpoint, model card
    "llama3_1_70b": 70.6,
    "llama3_1_8b": 8.03,
    "llama3_3_70b": 70.6,
    "llama4_maverick": 400,  # model card
    "minimax_m2_5": 229,  # weights of the checkpoint, model card
    "mixtral_8x22b": 140.6,  # Mistral AI, documentation of models
    "mixtral_8x7b": 46.7,
    "opt_13b": 12.85,  # weights of the checkpoint
    "opt_30b": 29.97,
    "opt_66b": 65.7,
    "opt_6_7b": 6.66,
    "pangu_pro_moe": 71.99,  # arXiv:2505.21411
    "qwen2_7b": 7.62,  # weights of the checkpoint, model card
    "qwen3_14b": 14.8,  # model cards, one for each
    "qwen3_235b_a22b": 235,
    "qwen3_30b_a3b": 30.5,
    "qwen3_32b": 32.8,
    "qwen3_8b": 8.2,
    "qwen3_coder_480b_a35b": 480,
}
# Totals that include what a record leaves out: vision towers, gates of linear attention.
PRINTED_WITH_MORE = {
    "llama4_scout": 109,  # model card: with the vision tower
    "minimax_m1": 456,  # arXiv:2506.13585: its linear attention has more and wider products
    "qwen3_next_80b_a3b": 80,  # model card: with gates of linear attention
}


@pytest.mark.parametrize(("name", "billions"), PRINTED.items())
def test_a_model_has_its_published_parameters(name: str, billions: float) -> None:
    assert total_parameters(load_model(name)) / 1e9 == pytest.approx(billions, rel=4e-3)


@pytest.mark.parametrize(("name", "billions"), PRINTED_WITH_MORE.items())
def test_what_a_record_leaves_out_is_small(name: str, billions: float) -> None:
    total = total_parameters(load_model(name)) / 1e9
    assert 0.975 * billions < total < billions


def test_models_of_one_family_share_a_shape() -> None:
    for name, base in (("deepseek_r1", "deepseek_v3"), ("llama3_3_70b", "llama3_1_70b")):
        one, other = load_model(name), load_model(base)
        assert one.model_copy(update={"name": base, "source": other.source}) == other
