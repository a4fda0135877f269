"""The type stub lists what the compiled module has: the same functions, with as many arguments."""

import ast
import re
from pathlib import Path

import pytest

import tq_kernels_simd
from tq_kernels_simd import _simd

STUB = Path(tq_kernels_simd.__file__).with_name("_simd.pyi")
FUNCTIONS = {node.name: node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_the_stub_lists_exactly_the_functions_of_the_module():
    assert set(FUNCTIONS) == {name for name, value in vars(_simd).items() if callable(value)}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_stub_has_the_arity_of_its_function(name):
    stub = FUNCTIONS[name].args
    assert not stub.kwonlyargs
    assert not stub.defaults
    with pytest.raises(TypeError) as caught:
        getattr(_simd, name)(*[None] * 99)
    text = str(caught.value)
    found = re.search(r"takes (\d+|no) arguments", text)
    assert found, text
    taken = 0 if found[1] == "no" else int(found[1])
    assert len(stub.posonlyargs) + len(stub.args) == taken


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_no_function_takes_keywords(name):
    """The stub says so with `/` wherever there are arguments."""
    stub = FUNCTIONS[name].args
    assert not stub.args
    with pytest.raises(TypeError, match="takes no keyword arguments"):
        getattr(_simd, name)(threads=1)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_documents_itself(name):
    assert getattr(_simd, name).__doc__.startswith(f"{name}(")
