import numpy as np
import pytest
import torch
from torch import nn

from compressors import CompressionPlan, apply_plan
from compressors.attention import HeadAttention, is_plain_attention, open_attention
from compressors.contract import model_digest
from compressors.cost import count_macs
from compressors.groups import find_groups
from merging import merge_channels


def _attention(**options):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, **options).eval()
    for bias in (attention.in_proj_bias, attention.out_proj.bias):
        if bias is not None:
            nn.init.normal_(bias)
    return attention


CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)
CALLS = {
    "plain": {},
    "no weights": {"need_weights": False},
    "every head's weights": {"average_attn_weights": False},
    "mask": {"attn_mask": CAUSAL, "need_weights": False},
    "mask and weights": {"attn_mask": CAUSAL},
    "mask of numbers": {"attn_mask": torch.linspace(-3, 3, 25).reshape(5, 5)},
    "causal": {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
    "mask per head": {"attn_mask": (torch.arange(150).reshape(6, 5, 5) % 7 == 3)},
    "padding": {"key_padding_mask": torch.tensor([[False] * 5, [False, False, True, False, True]])},
    "both": {
        "key_padding_mask": torch.tensor([[False] * 5, [False] * 4 + [True]]),
        "attn_mask": CAUSAL,
        "need_weights": False,
    },
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("options", [{"batch_first": True}, {}, {"bias": False, "batch_first": True}])
def test_dense_heads_give_what_torch_gives(call, options):
    attention = _attention(**options)
    x = torch.randn(2, 5, 12) if options.get("batch_first") else torch.randn(5, 2, 12)
    y = torch.randn_like(x)
    expected, expected_weights = attention(x, y, y, **CALLS[call])
    got, weights = HeadAttention(attention)(x, y, y, **CALLS[call])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert (weights is None) == (expected_weights is None)
    if weights is not None:
        torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)


def test_one_sequence_without_a_batch():
    attention = _attention()
    x = torch.randn(5, 12)
    for expected, got in zip(attention(x, x, x), HeadAttention(attention)(x, x, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_narrower_heads_are_a_loop_over_heads_with_mean_queries_and_values_and_summed_keys(networks):
    model, x = networks.transformer()
    model, x = model.double(), x.double()
    clusters = {
        "m.query_key": np.array([0, 0, 1, 0, 2, -1, 3, 2]),
        "m.value": np.array([0, 1, 2, 1, 5, 3, 3, 4]),
    }
    small = apply_plan(model, CompressionPlan("by hand", model_digest(model), clusters), x)
    assert tuple(small.m.in_proj_weight.shape) == (4 + 4 + 6, 8)
    tokens = model.a(x)
    q, k, v = (
        tokens @ w.T + b
        for w, b in zip(model.m.in_proj_weight.split(8), model.m.in_proj_bias.split(8), strict=True)
    )
    mixed = torch.zeros_like(v)
    for head in (range(4), range(4, 8)):
        scores = torch.zeros(2, 4, 4, dtype=torch.float64)
        for cluster in {int(clusters["m.query_key"][c]) for c in head} - {-1}:
            members = [c for c in head if clusters["m.query_key"][c] == cluster]
            scores += q[..., members].mean(-1)[:, :, None] * k[..., members].sum(-1)[:, None, :]
        weights = (scores / 4**0.5).softmax(-1)
        for c in head:
            members = [d for d in head if clusters["m.value"][d] == clusters["m.value"][c]]
            mixed[..., c] = (weights @ v[..., members].mean(-1)[..., None])[..., 0]
    expected = model.head(model.m.out_proj(mixed).mean(1)).detach()
    assert networks.relative_error(networks.outputs(small, x), expected.flatten()) < 1e-12


def test_copies_in_every_head_fold_losslessly(networks):
    model, x = networks.transformer()
    with torch.no_grad():
        for tensor in (model.a.weight, model.a.bias, model.m.out_proj.weight, model.m.out_proj.bias):
            tensor[4:] = tensor[:4]
        # Columns that read copies are equal too, so that the clusters are these pairs.
        for reader in (model.m.in_proj_weight, model.head.weight):
            reader[:, 4:] = reader[:, :4]
        model.m.out_proj.weight[:, [2, 3, 6, 7]] = model.m.out_proj.weight[:, [1, 0, 5, 4]]
        for tensor in (model.m.in_proj_weight, model.m.in_proj_bias):
            for head in (0, 4, 8, 12, 16, 20):  # queries, keys, values
                tensor[head + 2 : head + 4] = tensor[[head + 1, head]]
    before = networks.outputs(model, x)
    result = merge_channels(model, x, amount=0.5, seed=0)
    after = {g.name: g.channels_after for g in result.cost.groups}
    assert after == {"a": 4, "m.out_proj": 4, "m.query_key": 4, "m.value": 4}
    assert networks.relative_error(networks.outputs(result.model, x), before) < 1e-5
    assert isinstance(model.m, nn.MultiheadAttention)


def test_encoder_layers_of_torch_keep_working_with_narrower_heads():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, dim_feedforward=16, batch_first=True)
    model = nn.Sequential(nn.Linear(5, 12), nn.TransformerEncoder(layer, 2), nn.Linear(12, 3)).eval()
    x = torch.randn(2, 7, 5)
    result = merge_channels(model, x, amount=0.5, seed=0)
    assert tuple(result.model[1].layers[0].self_attn.in_proj_weight.shape) == (18, 12)
    assert tuple(result.model[1].layers[1].linear1.weight.shape) == (8, 12)
    rebuilt = apply_plan(model, result.plan, x)
    with torch.no_grad():
        assert torch.equal(rebuilt(x), result.model(x))


def test_attention_that_torch_cannot_split_into_equal_projections_is_left_dense():
    for options in ({"kdim": 6}, {"add_bias_kv": True}, {"add_zero_attn": True}):
        assert not is_plain_attention(_attention(**options))
    assert is_plain_attention(_attention())


def test_all_operations_of_attention_are_counted(networks):
    model, x = networks.transformer()
    length, width = 4, 8
    projections = length * width * 4 * width
    scores = 2 * length * length * width
    assert count_macs(model, x) == length * 5 * width + projections + scores + width * 3
    open_attention(model)
    assert isinstance(model.m, HeadAttention)
    assert count_macs(model, x) == length * 5 * width + projections + scores + width * 3


def test_heads_come_with_their_blocks(networks):
    model, x = networks.transformer()
    search = find_groups(model, x)
    assert [g.name for g in search.groups] == ["a", "m.out_proj", "m.query_key", "m.value"]
    assert all(g.blocks.tolist() == [0] * 4 + [1] * 4 for g in search.groups[2:])
    assert search.left_dense.keys() == {"head"}
