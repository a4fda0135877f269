"""What the policy language refuses, with the part at fault."""

import pickle

import pytest

from tq_cache import CachePolicy, InvalidPolicy, PolicyMismatch
from tq_core import TurboQuantError


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
