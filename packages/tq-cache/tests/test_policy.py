"""The policy language: what parses, what it prints, and what it comes to for a model."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_cache import PRESETS, CachePolicy, DecoderCache, InvalidPolicy, PolicyMismatch, QuantizedKVCache, Store
from tq_cache.grammar import Override
from tq_cache.plan import Planner
from tq_cache.stores import SplitStore

stores = st.one_of(
    st.builds(
        Store,
        st.just("mse"),
        st.one_of(st.integers(1, 8), st.sampled_from([2.25, 2.5, 3.25, 3.5])),
        st.sampled_from(["unbiased", "mse", "norm", "plain"]),
        st.sampled_from([0, 3, 9, 65]),
    ),
    st.builds(Store, st.just("prod"), st.integers(2, 8), st.sampled_from(["unbiased", "plain"])),
    st.builds(Store, st.sampled_from(["int", "absmax"]), st.integers(2, 8)),
    st.builds(Store, st.just("float"), st.sampled_from([16, 32])),
    st.builds(
        lambda high, channels, rest, scale: SplitStore(high, channels, rest).with_rules(scale, 0),
        st.sampled_from([Store("mse", 4), Store("prod", 5), Store("float", 16)]),
        st.integers(2, 32),
        st.sampled_from([Store("mse", 2), Store("mse", 3)]),
        st.sampled_from(["unbiased", "plain"]),
    ),
)
spans = st.one_of(st.none(), st.builds(lambda first, more: (first, first + more), st.integers(0, 5), st.integers(0, 3)))
policies = st.builds(
    CachePolicy,
    stores,
    stores,
    st.integers(0, 9),
    st.integers(0, 300),
    st.tuples(st.integers(0, 3), st.integers(2, 8)),
    st.sampled_from(["float16", "float32"]),
    st.lists(
        st.one_of(
            st.builds(
                lambda layers, option: Override(layers, None, *option),
                spans.filter(bool),
                st.sampled_from([("k", "mse8"), ("v", "float16"), ("k", "int4"), ("sinks", "3"), ("kmean", "given")]),
            ),
            st.builds(
                lambda layers, heads, option: Override(layers, heads, *option),
                spans,
                spans.filter(bool),
                st.sampled_from([("k", "mse8"), ("v", "float16"), ("k", "mse3x4+mse2"), ("v", "int4")]),
            ),
        ),
        max_size=4,
    ).map(tuple),
    st.sampled_from([0, 1, 64, "given"]),
    st.sampled_from([1, 64, "given"]),
    st.sampled_from([16, 64, "given"]),
)


@settings(deadline=None)
@given(policies)
def test_every_policy_survives_its_string(policy):
    assert CachePolicy.parse(str(policy)) == policy


@settings(deadline=None)
@given(policies)
def test_every_policy_survives_json(policy):
    assert CachePolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


def test_canonical_form_of_the_default_policy():
    assert str(CachePolicy.parse("balanced")) == "k=mse4,v=mse4,sinks=4,window=128,boundary=2@8"
    assert str(CachePolicy.parse("safe")) == "k=mse8,v=mse4"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_print_as_policies_that_behave_alike(name):
    policy = CachePolicy.parse(name)
    assert str(policy) == PRESETS[name]
    assert CachePolicy.parse(str(policy)) == policy
    for layers in (1, 4, 16, 32):
        assert policy.resolve(layers) == CachePolicy.parse(str(policy)).resolve(layers)
        assert 8 * policy.resolve(layers).boundary[0] <= layers


@settings(deadline=None)
@given(policies, st.integers(1, 6))
def test_heads_of_a_layer_are_grouped_by_what_each_of_them_has(policy, kv_heads):
    planner = Planner(policy, 9, kv_heads, (64, 64), 0, "numpy")
    for layer in range(9):
        groups = planner.alike(layer)
        found = {}
        for stores, heads in groups:
            found |= dict.fromkeys(range(kv_heads) if heads is None else heads, stores)
        own = [policy.for_layer(layer, 9, head) for head in range(kv_heads)]
        assert [found[head] for head in range(kv_heads)] == [(each.keys, each.values) for each in own]
        assert len({stores for stores, _ in groups}) == len(groups)
        assert [heads is None for _, heads in groups] == [True] or all(
            groups[i][1][0] < groups[i + 1][1][0] for i in range(len(groups) - 1)
        )


def test_heads_may_have_options_of_their_own():
    policy = CachePolicy.parse("k=mse4,v=mse4,head0-1.k=mse8,layer2.k=mse3,layer2.head1.kscale=norm,head3.v=int4")
    assert str(policy) == "k=mse4,v=mse4,head0-1.k=mse8,layer2.k=mse3,layer2.head1.kscale=norm,head3.v=int4"
    assert [str(policy.for_layer(0, 4, head)) for head in range(4)] == [
        "k=mse8,v=mse4",
        "k=mse8,v=mse4",
        "k=mse4,v=mse4",
        "k=mse4,v=int4",
    ]
    assert str(policy.for_layer(0, 4)) == "k=mse4,v=mse4"
    assert str(policy.for_layer(2, 4, 0)) == "k=mse3,v=mse4"  # what comes later wins
    assert str(policy.for_layer(2, 4, 1)) == "k=mse3,v=mse4,kscale=norm"
    assert str(policy.inner()) == "k=mse4,v=mse4,head0-1.k=mse8,head3.v=int4"
    assert str(policy.lone()) == "k=mse4,v=mse4"


@pytest.mark.parametrize(
    ("text", "part", "says"),
    [
        ("k=mse4,v=mse4,head0-4.k=mse8", "head0-4.k=mse8", r"names head 4, but a layer has 0\.\.3 \(at character 15"),
        ("k=mse4,v=mse4,layer1.head4.v=int4", "layer1.head4.v=int4", r"names head 4, but a layer has 0\.\.3"),
        ("k=mse4,v=mse4,layer8.head0.v=int4", "layer8.head0.v=int4", r"names layer 8, but the model has 0\.\.7"),
        (
            "v=mse4,k=mse3x31+mse2",
            "k=mse3x31+mse2",
            r"31 channels and needs 2 more .* vectors have 32 \(at character 1",
        ),
        (
            "k=mse4,v=mse3x15+mse2",
            "v=mse3x15+mse2",
            r"15 channels and needs 2 more .* vectors have 16 \(at character 8",
        ),
        ("k=mse4,v=mse4,head1.k=mse3x31+mse2", "head1.k=mse3x31+mse2", r"vectors have 32 \(at character 15"),
        ("k=mse4,v=mse4,boundary=5@8", "boundary=5@8", r"means 10 layers, but the model has 8; .* \(at character 15"),
        ("paper-2.5", "v=mse3x32+mse2", "vectors have 16"),
    ],
)
def test_what_a_model_cannot_have_is_named_with_its_place(text, part, says):
    with pytest.raises(PolicyMismatch, match=says) as caught:
        CachePolicy.parse(text).resolve(8, kv_heads=4, head_dim=64 if "paper" in text else 32, value_dim=16)
    assert caught.value.part == part


def test_split_stores_keep_rules_in_both_parts_and_boundary_layers_are_not_split():
    policy = CachePolicy.parse("k=mse3x32+mse2,v=float16x4+prod3,kscale=norm,vscale=plain,vsearch=9,boundary=1@8")
    assert str(policy) == "k=mse3x32+mse2,v=float16x4+prod3,kscale=norm,vscale=plain,vsearch=9,boundary=1@8"
    assert policy.keys == SplitStore(Store("mse", 3, "norm"), 32, Store("mse", 2, "norm"))
    assert policy.values == SplitStore(Store("float", 16), 4, Store("prod", 3, "plain", 9))
    assert str(policy.for_layer(0, 4)) == "k=mse8,v=prod8,kscale=norm,vscale=plain,vsearch=9"
    assert policy.is_experimental


def test_a_boundary_layer_is_not_asked_for_the_options_of_others():
    policy = CachePolicy.parse("k=mse4,v=mse4,boundary=1@16,layer5.kscale=norm")
    assert str(policy.for_layer(0, 8)) == "k=float16,v=float16"
    assert str(policy.for_layer(5, 8)) == "k=mse4,v=mse4,kscale=norm"


def test_layers_may_have_options_of_their_own():
    policy = CachePolicy.parse(
        "k=mse4,v=mse4,kscale=norm,window=8,boundary=1@8,layer0.v=mse2,layer2-3.k=float16,layer3.window=0"
    )
    assert str(policy).endswith("boundary=1@8,layer0.v=mse2,layer2-3.k=float16,layer3.window=0")
    assert [str(policy.for_layer(layer, 5)) for layer in range(5)] == [
        "k=mse8,v=mse2,kscale=norm,window=8",
        "k=mse4,v=mse4,kscale=norm,window=8",
        "k=float16,v=mse4,window=8",
        "k=float16,v=mse4",
        "k=mse8,v=mse8,kscale=norm,window=8",
    ]
    with pytest.raises(PolicyMismatch, match=r"layer2-3.k=float16 names layer 3, but the model has 0\.\.2"):
        policy.resolve(3)


def test_a_new_quantizer_of_a_layer_keeps_the_scale_where_it_has_one():
    policy = CachePolicy.parse("k=mse4,v=mse4,kscale=norm,ksearch=9,layer0.k=prod3,layer1.kscale=plain")
    assert str(policy.for_layer(0, 2)) == "k=prod3,v=mse4,kscale=norm,ksearch=9"
    assert str(policy.for_layer(1, 2)) == "k=mse4,v=mse4,kscale=plain,ksearch=9"


def test_float_boundary_layers():
    policy = CachePolicy.parse("turboquant_4bit_nc")
    assert str(policy.resolve(32).for_layer(1, 32)) == "k=float16,v=float16"
    assert str(policy.resolve(32).for_layer(2, 32)) == "k=mse4,v=int4,kscale=norm"


@pytest.mark.parametrize("bits", [2.25, 2.5, 3.25, 3.5])
def test_fractional_widths_in_all_forms_of_a_policy(bits):
    text = f"k=mse{bits:g},v=mse4,kscale=mse,ksearch=9,boundary=1@8,layer3.v=mse{bits:g}"
    policy = CachePolicy.parse(text)
    assert str(policy) == text
    assert policy.keys == Store("mse", bits, "mse", 9)
    assert CachePolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert str(policy.for_layer(0, 8)) == "k=mse8,v=mse8,kscale=mse,ksearch=9"
    assert str(policy.for_layer(3, 8)) == f"k=mse{bits:g},v=mse{bits:g},kscale=mse,ksearch=9"
    assert policy.is_experimental


@pytest.mark.parametrize(("kind", "bits"), [("mse", 2.75), ("mse", 4.0), ("prod", 2.5), ("int", 3.5), ("float", 16.0)])
def test_a_store_of_a_width_that_does_not_exist(kind, bits):
    with pytest.raises(InvalidPolicy, match=rf"'{kind}{bits}' does not exist"):
        Store(kind, bits)


@pytest.mark.parametrize(("bits", "row"), [(2.25, 36), (2.5, 40), (3.25, 52), (3.5, 56)])
def test_a_token_of_a_fractional_width_takes_its_bits_and_a_scale(bits, row):
    cache = QuantizedKVCache(128, f"k=mse{bits:g},v=mse{bits:g}")
    cache.append(np.ones((10, 128), np.float32), np.ones((10, 128), np.float32))
    assert cache.ledger().bits_per_value == 8 * (row + 2) / 128


def test_order_spaces_and_defaults_do_not_matter():
    loose = " window=128, v=mse4 ,boundary=0@4,k=mse3, kscale=norm,vsearch=9,norms=float16,sinks=0"
    assert str(CachePolicy.parse(loose)) == "k=mse3,v=mse4,kscale=norm,vsearch=9,window=128"


def test_a_policy_object_parses_to_itself():
    policy = CachePolicy.parse("k=mse4,v=mse2")
    assert CachePolicy.parse(policy) is policy


def test_below_four_bit_keys_is_labelled_experimental():
    assert CachePolicy.parse("k=mse3,v=mse8").is_experimental
    assert not CachePolicy.parse("k=mse4,v=mse2").is_experimental


@pytest.mark.parametrize(("layers", "boundary"), [(1, 0), (4, 0), (8, 1), (12, 1), (15, 1), (16, 2), (32, 2), (80, 2)])
def test_a_presets_boundary_covers_at_most_a_quarter_of_the_layers(layers, boundary):
    for text in ("balanced", PRESETS["balanced"]):
        resolved = CachePolicy.parse(text).resolve(layers)
        assert resolved.boundary[0] == boundary
        assert 2 * boundary <= layers / 4
        assert resolved.window == 128


def test_a_boundary_given_by_hand_is_kept_or_refused():
    policy = CachePolicy.parse("k=mse4,v=mse4,boundary=2@8")
    assert policy.resolve(4) == policy
    with pytest.raises(PolicyMismatch, match="means 4 layers, but the model has 3"):
        policy.resolve(3)


def test_boundary_layers_have_their_own_bits():
    policy = CachePolicy.parse("k=mse4,v=int2,kscale=norm,boundary=1@8")
    assert [str(policy.for_layer(layer, 4)) for layer in range(4)] == [
        "k=mse8,v=int8,kscale=norm",
        "k=mse4,v=int2,kscale=norm",
        "k=mse4,v=int2,kscale=norm",
        "k=mse8,v=int8,kscale=norm",
    ]


def test_boundary_leaves_floats_alone():
    policy = CachePolicy.parse("k=float16,v=mse3,boundary=1@6")
    assert str(policy.for_layer(0, 2)) == "k=float16,v=mse6"


def test_layers_with_equal_options_cost_no_policy_each(monkeypatch):
    made = []
    real = CachePolicy.__post_init__
    monkeypatch.setattr(CachePolicy, "__post_init__", lambda self: (made.append(1), real(self))[1])
    policy = "k=mse4,v=mse4," + ",".join(f"head{i}.k=mse{1 + i % 8}" for i in range(16))
    counts = []
    for layers in (1, 40):
        made.clear()
        DecoderCache(layers, 16, 16, policy)
        counts.append(len(made))
    assert counts[0] == counts[1]
