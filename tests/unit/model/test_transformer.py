"""Parameters and arithmetic of transformers, against the papers that describe them."""

from __future__ import annotations

import numpy as np
import pytest

from clustersim.model import transformer
from clustersim.spec.model import Model
from clustersim.spec.resolve import load_model
from tests.training_scenarios import SMALL_LLAMA, model_of


def test_gpt3_175b_has_the_parameters_of_the_megatron_formula() -> None:
    # Narayanan et al. 2021, eq. 2: 12 l h^2 (1 + 13/(12 h) + (V + s)/(12 l h)); it leaves out the
    # final norm, 2 h.
    layers, h, vocab, s = 96, 12288, 51200, 2048
    formula = 12 * layers * h * h + 13 * layers * h + (vocab + s) * h
    assert transformer.total_parameters(load_model("gpt3_175b")) == formula + 2 * h


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("gpt3_175b", 174.6),  # Narayanan et al. 2021, table 1
        ("gpt_145b", 145.6),
        ("gpt_1t", 1008.0),
        ("llama2_70b", 68.98),
        ("llama3_8b", 8.03),
        ("bloom_176b", 176.2),
    ],
)
def test_published_models_have_their_published_parameters(name: str, billions: float) -> None:
    total = transformer.total_parameters(load_model(name))
    assert total / 1e9 == pytest.approx(billions, rel=5e-4)


def test_llama_models_have_the_parameters_of_their_checkpoints_to_the_last_one() -> None:
    assert transformer.total_parameters(load_model("llama2_70b")) == 68_976_648_192
    assert transformer.total_parameters(load_model("llama3_8b")) == 8_030_261_248


def test_bloom_lacks_only_the_norm_after_its_embedding() -> None:
    checkpoint = 176_247_271_424  # BigScience, model card
    assert checkpoint - transformer.total_parameters(load_model("bloom_176b")) == 2 * 14336


def test_grouped_queries_shrink_only_keys_and_values() -> None:
    whole, grouped = model_of(kv_heads=16), model_of(kv_heads=4)
    lost = transformer.attention_weights(whole) - transformer.attention_weights(grouped)
    assert lost == 2 * 12 * 64 * 1024


def test_a_gated_mlp_has_three_products() -> None:
    assert transformer.mlp_weights(model_of(gated_mlp=True)) == 3 * 1024 * 4096
    assert transformer.mlp_weights(model_of()) == 2 * 1024 * 4096


def test_a_parallel_block_saves_one_norm_a_layer() -> None:
    saved = transformer.layer_parameters(model_of()) - transformer.layer_parameters(
        model_of(parallel_block=True)
    )
    assert saved == 2 * 1024


def test_a_tied_table_is_counted_once() -> None:
    untied = transformer.total_parameters(model_of(tied_embeddings=False))
    assert untied - transformer.total_parameters(model_of()) == 8192 * 1024


def test_only_learned_positions_have_parameters() -> None:
    learned = transformer.embedding_parameters(model_of())
    assert learned - transformer.embedding_parameters(model_of(position="alibi")) == 512 * 1024


def test_padding_adds_rows_to_the_table_but_no_arithmetic() -> None:
    padded, plain = model_of(vocab=8000, padded_vocab_to=1024), model_of(vocab=8000)
    rows = transformer.embedding_parameters(padded) - transformer.embedding_parameters(plain)
    assert rows == 192 * 1024
    flop = [transformer.model_flop_per_token(m, 512) for m in (padded, plain)]
    assert flop[0] == flop[1]


@pytest.mark.parametrize("name", ["gpt3_175b", "gpt_22b", "gpt_1t"])
def test_arithmetic_of_a_gpt_is_the_formula_of_korthikanti(name: str) -> None:
    # Korthikanti et al. 2022, eq. 7: 72 B l s h^2 (1 + s/(6 h) + V/(12 l h)), here for one token.
    model, s = load_model(name), 2048
    layers, h, vocab = model.layers, model.hidden, model.vocab
    formula = 72 * layers * h**2 * (1 + s / (6 * h) + vocab / (12 * layers * h))
    assert transformer.model_flop_per_token(model, s) == pytest.approx(formula, rel=1e-12)


def test_full_recomputation_does_the_layers_forward_pass_again() -> None:
    # Korthikanti et al. 2022, eq. 8 with all layers: a third of the layers' arithmetic.
    model, s = load_model("gpt_22b"), 2048
    layers = 72 * model.layers * model.hidden**2 * (1 + s / (6 * model.hidden))
    again = transformer.recomputed_flop_per_token(model, s, 0, model.layers)
    assert again == pytest.approx(layers / 3, rel=1e-12)


def test_selective_recomputation_does_the_attention_core_again() -> None:
    # Two products of the core, Q K^T and its product with V: 4 s h a token and layer.
    model, s = load_model("gpt_22b"), 2048
    again = transformer.recomputed_flop_per_token(model, s, model.layers, 0)
    assert again == pytest.approx(4 * model.layers * s * model.hidden, rel=1e-12)


@pytest.mark.parametrize(("s", "window"), [(7, None), (7, 3), (7, 7), (7, 9), (1, 1), (16, 1)])
def test_context_is_the_mean_number_of_keys_that_a_query_meets(s: int, window: int | None) -> None:
    model: Model = model_of(**{**SMALL_LLAMA, "sliding_window": window})
    keys = [min(query + 1, window or s) for query in range(s)]
    assert transformer.attention_context(model, s) == pytest.approx(np.mean(keys), rel=1e-12)


def test_model_arithmetic_gives_no_credit_for_a_window() -> None:
    full, windowed = model_of(), model_of(sliding_window=64)
    flop = [transformer.model_flop_per_token(m, 512) for m in (full, windowed)]
    assert flop[0] == flop[1]
