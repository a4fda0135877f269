"""The policy language: what parses, what it prints, and what it refuses with the part at fault."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq_cache import PRESETS, CachePolicy, InvalidPolicy, PolicyMismatch, Store
from tq_cache.grammar import Override
from tq_core import TurboQuantError

stores = st.one_of(
    st.builds(
        Store,
        st.just("mse"),
        st.integers(1, 8),
        st.sampled_from(["unbiased", "mse", "norm", "plain"]),
        st.sampled_from([0, 3, 9, 65]),
    ),
    st.builds(Store, st.just("prod"), st.integers(2, 8), st.sampled_from(["unbiased", "plain"])),
    st.builds(Store, st.sampled_from(["int", "absmax"]), st.integers(2, 8)),
    st.builds(Store, st.just("float"), st.sampled_from([16, 32])),
)
policies = st.builds(
    CachePolicy,
    stores,
    stores,
    st.integers(0, 9),
    st.integers(0, 300),
    st.tuples(st.integers(0, 3), st.integers(2, 8)),
    st.sampled_from(["float16", "float32"]),
    st.lists(
        st.builds(
            lambda first, more, option: Override(first, first + more, *option),
            st.integers(0, 5),
            st.integers(0, 3),
            st.sampled_from([("k", "mse8"), ("v", "float16"), ("k", "int4"), ("sinks", "3"), ("window", "0")]),
        ),
        max_size=3,
    ).map(tuple),
)


@given(policies)
def test_every_policy_survives_its_string(policy):
    assert CachePolicy.parse(str(policy)) == policy


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
        ("k=mse9,v=mse4", r"'mse9' does not exist.*at character 1"),
        ("k=mse4,v=prod1", r"'prod1' does not exist.*at character 8"),
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
