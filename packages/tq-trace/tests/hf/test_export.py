"""The script of docs/bring-your-own-trace.md on small random models: a trace that answers as the model did."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch and transformers are not installed (nox session hf)")
pytest.importorskip("transformers", reason="torch and transformers are not installed (nox session hf)")

pytestmark = pytest.mark.hf

PAGE = Path(__file__).parents[4] / "docs" / "bring-your-own-trace.md"
TOKENS = 40


@pytest.fixture(scope="module")
def script():
    """The names that the script defines."""
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    names = {"__name__": "export_trace"}
    exec(compile(source, str(PAGE), "exec"), names)
    return names


def make(family, dtype, **options):
    import torch
    import transformers

    shared = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "initializer_range": 0.3,
        "max_position_embeddings": 512,
    }
    config = getattr(transformers, f"{family}Config")(**shared | options)
    torch.manual_seed(7)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval().to(getattr(torch, dtype))


def ids():
    import torch

    return torch.randint(1, 96, (2, TOKENS), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("family", "dtype"), [("Llama", "float32"), ("Qwen2", "float32"), ("Qwen3", "float32"), ("Llama", "bfloat16")]
)
def test_attention_over_the_trace_is_that_of_the_model(script, tmp_path, family, dtype):
    from tq_trace import TraceSet

    model, path, given = make(family, dtype), tmp_path / "trace", {}
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.o_proj.register_forward_pre_hook(lambda module, inputs, n=number: given.update({n: inputs[0]}))
    script["export"](model, ids(), path, name=family, benchmark="noise", query_count=10)
    traces = TraceSet.open(path)
    traces.validate()
    assert traces.places == tuple((layer, head) for layer in range(3) for head in range(2))
    assert traces.model_layers == 3
    for trace in traces:
        assert trace.dtypes["keys"] == dtype
        outputs = given[trace.layer].detach().float().numpy().reshape(2, TOKENS, 4, 32)
        for sample, one in enumerate(trace):
            for number, (query, position) in enumerate(zip(one.queries, one.query_positions, strict=True)):
                logits = one.keys[: position + 1].astype(np.float64) @ query / np.sqrt(32)
                weights = np.exp(logits - logits.max())
                found = weights @ one.values[: position + 1] / weights.sum()
                query_head = 2 * trace.head + number // 10
                tolerance = 1e-4 if dtype == "float32" else 0.05
                np.testing.assert_allclose(found, outputs[sample, position, query_head], atol=tolerance)


def test_layers_whose_window_is_shorter_than_the_text_are_left_out(script, tmp_path):
    from tq_trace import TraceSet

    model = make("Qwen2", "float32", use_sliding_window=True, sliding_window=16, max_window_layers=1)
    script["export"](model, ids(), tmp_path / "trace", name="m", benchmark="b")
    assert TraceSet.open(tmp_path / "trace").layers == (0,)


def test_the_trace_is_replayed(script, tmp_path):
    from tq_trace import TraceSet, replay

    script["export"](make("Llama", "float32"), ids(), tmp_path / "trace", name="m", benchmark="b")
    found = replay(TraceSet.open(tmp_path / "trace"), ["k=mse8,v=mse8", "k=mse2,v=mse2"], baselines=(), times=False)
    assert found.trace["kind"] == "trace"
    assert found.rows[1]["kl_mean"] < found.rows[2]["kl_mean"] / 100
