"""What an evaluation compares when it is not told: all that the model's dims allow, and the rest by name."""

import pytest

from tq_onnx import DEFAULT_POLICIES, Bundle, evaluate
from tq_onnx.survey import survey


def test_model_of_usual_dims_is_shown_every_row(trained) -> None:
    assert survey(Bundle.open(trained).signature) == (list(DEFAULT_POLICIES), {})


@pytest.mark.parametrize(("head_dim", "bits"), [(8, ()), (12, (4,)), (16, (3, 4)), (32, (2, 3, 4))])
def test_short_heads_are_shown_the_trellis_rows_they_can_hold(build, head_dim: int, bits: tuple[int, ...]) -> None:
    possible, left_out = survey(Bundle.open(build(key_dim=head_dim, value_dim=head_dim)).signature)
    held = {f"k=trellis{width},v=trellis{width}" for width in bits}
    assert {policy for policy in possible if "trellis" in policy} == held
    assert set(possible) | set(left_out) == set(DEFAULT_POLICIES)
    assert all("use fewer states" in why for why in left_out.values())
    assert all("trellis" in policy for policy in left_out)


def test_report_names_what_was_left_out(build, words: str) -> None:
    report = evaluate(Bundle.open(build()), text=words, tokens=16, windows=1)
    assert set(report.protocol["left_out"]) == {f"k=trellis{bits},v=trellis{bits}" for bits in (2, 3, 4)}
    assert len(report.rows) == 1 + len(DEFAULT_POLICIES) - 3
    assert sum("was left out" in note for note in report.notes) == 3
