"""Laws of serving attention: more work is never cheaper, nothing beats the roofline."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.compute.decode import batch_contexts, decode_s
from clustersim.cost.compute.prefill import bidirectional_s, prefill_s
from clustersim.errors import ModelDomainError
from tests.attention_cases import DEVICES, PROFILE, decode_shapes, prefill_shapes

names = st.sampled_from(sorted(DEVICES))
ROWS = np.arange(1.0, 3001.0, 7.0)


@settings(deadline=None, max_examples=60)
@given(
    name=names, warm=st.booleans(), d=st.sampled_from([64, 72, 128, 256]), batch=st.integers(1, 64)
)
@pytest.mark.parametrize("grows", ["batch", "q", "heads", "d", "window"])
def test_a_longer_prompt_is_never_cheaper(grows, name, warm, d, batch):
    shapes = prefill_shapes(**{"batch": batch, "d": d, grows: ROWS})
    total_s = prefill_s(shapes, DEVICES[name], PROFILE, warm=warm).total_s
    assert np.isfinite(total_s).all()
    assert (np.diff(total_s) >= -1e-12 * total_s[1:]).all()


@settings(deadline=None, max_examples=60)
@given(
    name=names,
    warm=st.booleans(),
    sequences=st.integers(1, 300),
    keys=st.integers(1, 40000),
    heads=st.sampled_from([(8, 8), (32, 8), (64, 1)]),
    window=st.sampled_from([0, 128, 4096]),
)
@pytest.mark.parametrize("grows", ["sequences", "keys", "d"])
def test_decoding_more_is_never_cheaper(grows, name, warm, sequences, keys, heads, window):
    fields = {
        "sequences": sequences,
        "keys": keys,
        "heads": heads[0],
        "kv_heads": heads[1],
        "window": window,
    }
    shapes = decode_shapes(**(fields | {grows: ROWS * (10 if grows == "keys" else 1)}))
    times = decode_s(shapes, DEVICES[name], PROFILE, warm=warm)
    assert np.isfinite(times.total_s).all()
    # the more sequences, the fewer pieces of each are combined: only that may become cheaper
    grown_s = times.total_s - (times.launch_s if grows == "sequences" else 0.0)
    assert (np.diff(grown_s) >= -1e-9 * times.total_s[1:]).all()


@settings(deadline=None, max_examples=60)
@given(
    name=names, q=st.integers(1, 20000), d=st.sampled_from([64, 128, 256]), heads=st.integers(1, 96)
)
def test_prompts_never_beat_the_roofline(name, q, d, heads):
    device = DEVICES[name]
    flop = 4.0 * q * heads * d * (q + 1) / 2
    moved = 2.0 * 4.0 * q * heads * d
    least = max(flop / device.matrix_peak["bf16"], moved / device.memory_bandwidth)
    shapes = prefill_shapes(q=q, heads=heads, kv_heads=heads, d=d)
    assert prefill_s(shapes, device, PROFILE, warm=False).total_s[0] >= least
    full = prefill_shapes(q=q, heads=heads, kv_heads=heads, d=d, causal=False)
    assert bidirectional_s(full, device, PROFILE, warm=False).total_s[0] >= least


@settings(deadline=None, max_examples=60)
@given(
    name=names, sequences=st.integers(1, 2048), keys=st.integers(1, 40000), group=st.integers(1, 64)
)
def test_decoding_never_beats_memory_or_the_peak(name, sequences, keys, group):
    device = DEVICES[name]
    shapes = decode_shapes(sequences=sequences, keys=keys, heads=8.0 * group, kv_heads=8.0)
    cold, warm = (decode_s(shapes, device, PROFILE, warm=way).total_s[0] for way in (False, True))
    cache = 4.0 * sequences * keys * 8.0 * 128.0
    flop = cache * group
    assert cold >= cache / device.memory_bandwidth
    assert warm >= flop / device.matrix_peak["bf16"]
    assert cold >= warm


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 300), st.integers(1, 9000), st.sampled_from([1, 4, 64])),
        min_size=2,
        max_size=8,
    )
)
def test_a_batch_costs_the_same_alone_and_among_others(rows):
    device = DEVICES["h100_sxm_80gb"]
    sequences, keys, group = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    shapes = decode_shapes(sequences=sequences, keys=keys, heads=8.0 * group, kv_heads=8.0)
    together = decode_s(shapes, device, PROFILE)
    for index in range(len(rows)):
        alone = decode_s(shapes.take(np.array([index])), device, PROFILE)
        assert alone.total_s[0] == pytest.approx(together.total_s[index], rel=1e-12)
        assert alone.launch_s[0] <= alone.total_s[0]


def test_a_longer_straggler_costs_more_than_the_same_keys_shared():
    counts, total, longest = batch_contexts(np.array([4096, 4096, 8000, 192]), np.array([0, 2]))
    assert counts.tolist() == [2, 2]
    assert total.tolist() == [8192, 8192]
    assert longest.tolist() == [4096, 8000]
    equal = decode_shapes(sequences=2.0, keys=4096.0)
    uneven = decode_shapes(sequences=2.0, keys=8000.0)
    uneven = type(equal)(
        equal.sequences, equal.total_keys, longest[1:], longest[1:], equal.heads,
        equal.kv_heads, equal.head_dim,
    )  # fmt: skip
    device = DEVICES["h100_sxm_80gb"]
    assert decode_s(uneven, device, PROFILE).total_s > decode_s(equal, device, PROFILE).total_s


def test_batches_that_are_empty_are_refused():
    with pytest.raises(ModelDomainError, match="rise and leave no batch empty"):
        batch_contexts(np.array([4, 5]), np.array([0, 0]))
    with pytest.raises(ModelDomainError, match="no decode coefficients"):
        decode_s(
            decode_shapes(), DEVICES["h100_sxm_80gb"], PROFILE.model_copy(update={"decode": {}})
        )
