"""The policy language: what parses, what it prints, and what it refuses with the part at fault."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_cache import PRESETS, CachePolicy, DecoderCache, InvalidPolicy, PolicyMismatch, QuantizedKVCache, Store
from tq_cache.grammar import Override
from tq_cache.plan import Planner
from tq_cache.stores import SplitStore
from tq_core import TurboQuantError

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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected name=value at character 1"),
        ("turbo9", "one of balanced, safe, turboquant_k8v4"),
        ("k=mse4", "v=... is missing"),
        ("v=mse4,window=3", "k=... is missing"),
        ("k=mse4,v=mse4,windw=3", r"unknown option 'windw'.*at character 15"),
        ("k=mse4,v=mse4,k=mse3", r"'k' is given twice .*at character 15"),
        ("k=mse4,v=mse4,layer3=mse8", r"a layer's option reads layer3.k.*at character 15"),
        ("k=mse4,v=mse4,layer3.norms=float32", "a layer's option reads"),
        ("k=mse4,v=mse4,layer3-1.k=mse8", "layers count upwards, got 3-1"),
        ("k=mse4,v=mse4,layer0.k=mse9", r"'mse9' does not exist.*at character 15"),
        ("k=mse4,v=mse4,layer0.window=-1", "expected a whole number"),
        ("k=mse4,v=mse4,layer0.k=int4,layer0.kscale=norm", "apply to mse, prod and trellis, not to 'int4'"),
        ("k=mse4,v=mse4,head3=mse8", r"a head's head2.k or layer3.head0-1.k.*at character 15"),
        ("k=mse4,v=mse4,head1-0.k=mse8", "heads count upwards, got 1-0"),
        ("k=mse4,v=mse4,head1.layer2.k=mse8", "a head's head2.k or layer3.head0-1.k"),
        ("k=mse4,v=mse4,head1.sinks=4", r"sinks is one for all heads of a layer.*'head1.sinks=4' at character 15"),
        ("k=mse4,v=mse4,layer1.head1.window=4", "window is one for all heads of a layer"),
        ("k=mse4,v=mse4,head1.kmean=4", "kmean is one for all heads of a layer"),
        ("k=mse4,v=mse4,head0.k=int4,head0.kscale=norm", "apply to mse, prod and trellis, not to 'int4'"),
        ("k=mse4,v=mse4,kmean=some", r"expected a whole number, got 'some' \('kmean=some' at character 15"),
        ("k=mse4,v=mse4,kmean=4294967296", "kmean is a number of tokens, 0 or more or 'given'"),
        ("k=mse3x4+mse2,v=mse4,ksplit=0", "ksplit is a number of tokens, 1 or more or 'given'"),
        ("k=mse3x4+mse2,v=mse4,vsplit=8", "vsplit is for split stores such as v=mse3x32"),
        ("k=mse4,v=mse4,layer1.ksplit=8", "ksplit is for split stores such as k=mse3x32"),
        ("k=mse3x1+mse2,v=mse4", r"a split takes 2 channels at least.*at character 1"),
        ("k=mse2x32+mse2,v=mse4", "channels of most energy get more bits"),
        ("k=mse3x+mse2,v=mse4", r"a split reads STORExCHANNELS\+STORE"),
        ("k=mse3+mse2,v=mse4", r"a split reads STORExCHANNELS\+STORE"),
        ("k=mse3x32+mse2+mse1,v=mse4", "no store is called 'mse2\\+mse1'"),
        ("k=int4x8+int2,v=mse4,kscale=norm", "apply to mse, prod and trellis, not to 'int4'"),
        ("k=mse9,v=mse4", r"'mse9' does not exist.*at character 1"),
        ("k=mse4,v=prod1", r"'prod1' does not exist.*at character 8"),
        (
            "k=mse2.75,v=mse4",
            r"no store is called 'mse2\.75'; known: .*mse2\.25, mse2\.5, mse3\.25, mse3\.5.*at character 1",
        ),
        ("k=mse4,v=mse2.50", r"no store is called 'mse2\.50'.*at character 8"),
        ("k=mse4.0,v=mse4", r"no store is called 'mse4\.0'"),
        ("k=mse2.,v=mse4", r"no store is called 'mse2\.'"),
        ("k=prod2.5,v=mse4", r"'prod2\.5' does not exist"),
        ("k=mse4,v=int3.5", r"'int3\.5' does not exist"),
        ("k=mse2.5,v=mse4,boundary=1@2.5", r"expected a whole number, got '2\.5'"),
        ("k=quartz4,v=mse4", "no store is called 'quartz4'"),
        ("k=float8,v=mse4", "'float8' does not exist"),
        ("k=MSE4,v=mse4", "no store is called 'MSE4'"),
        ("k=mse4,v=mse4,sinks=-1", r"expected a whole number, got '-1' \('sinks=-1' at character 15"),
        ("k=mse4,v=mse4,window=1.5", "expected a whole number"),
        ("k=mse4,v=mse4,window=99999999999", "expected a whole number"),
        ("k=mse4,v=mse4,window=4294967296", "window is a number of tokens"),
        ("k=mse4,v=mse4,boundary=2", "layers@bits"),
        ("k=mse4,v=mse4,boundary=2@9", "'mse9' does not exist"),
        ("k=mse4,v=mse4,kscale=best", "a scale rule is one of"),
        ("k=int4,v=mse4,kscale=norm", "apply to mse, prod and trellis, not to 'int4'"),
        ("k=mse4,v=float16,vsearch=9", "apply to mse, prod and trellis, not to 'float16'"),
        ("k=mse4,v=mse4,ksearch=4", "0 or an odd number"),
        ("k=mse4,v=mse4,ksearch=67", "0 or an odd number"),
        ("k=mse4,v=mse4,norms=bfloat16", "norms are stored as float16 or float32"),
        ("k=mse4,,v=mse4", "expected name=value at character 8"),
        ("k=,v=mse4", "expected name=value at character 1"),
    ],
)
def test_a_bad_policy_names_the_part_at_fault(text, says):
    with pytest.raises(InvalidPolicy, match=says):
        CachePolicy.parse(text)


@pytest.mark.parametrize("bad", [None, 4, b"k=mse4,v=mse4", {"k": "mse4"}])
def test_a_policy_is_a_string(bad):
    with pytest.raises(InvalidPolicy, match="a policy is a string"):
        CachePolicy.parse(bad)


def _without(entry):
    fields = CachePolicy.parse("safe").to_dict()
    del fields[entry]
    return fields


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (_without("keys"), "has the entries"),
        ({**_without("norms"), "norm": "float16"}, "has the entries"),
        ({**_without("keys"), "keys": "mse4"}, "keys is a dict"),
        ({**_without("keys"), "keys": {"store": 4}}, "no string"),
        ({**_without("keys"), "keys": {"store": "mse4", "search": True}}, "a string and a number"),
        ({**_without("sinks"), "sinks": True}, "sinks is a number of tokens"),
        ({**_without("window"), "window": -1}, "window is a number of tokens"),
        ({**_without("boundary"), "boundary": [1]}, "boundary is"),
        ({**_without("boundary"), "boundary": [-1, 8]}, "0 or more"),
        ({**_without("norms"), "norms": "float64"}, "norms are stored"),
        ([1, 2], "got list"),
        ({**_without("overrides"), "overrides": ["layer1.k"]}, "no store is called"),
        ({**_without("overrides"), "overrides": "layer1.k=mse4"}, "overrides is a list of strings"),
    ],
)
def test_a_bad_policy_dict_is_refused(fields, says):
    with pytest.raises(InvalidPolicy, match=says):
        CachePolicy.from_dict(fields)


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


def test_errors_are_ours_and_pickle():
    for error in (InvalidPolicy("why", "k=x"), PolicyMismatch("why")):
        assert isinstance(error, (TurboQuantError, ValueError))
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == "why"
        assert getattr(copy, "part", None) == getattr(error, "part", None)


def test_a_text_of_too_many_options_is_not_read_to_its_end():
    text = "k=mse4,v=mse4" + ",layer0.k=mse8" * 20_000 + ",nonsense"
    with pytest.raises(InvalidPolicy, match="at most 1024 options of layers and heads, got 1025 or more") as caught:
        CachePolicy.parse(text)
    assert len(str(caught.value)) < 200


def test_a_long_text_is_not_repeated_in_full():
    with pytest.raises(InvalidPolicy, match="expected name=value at character 15 of 'k=mse4,v=mse4,x") as caught:
        CachePolicy.parse("k=mse4,v=mse4,x" + ",layer0.k=mse8" * 1000)
    assert len(str(caught.value)) < 1000


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
