"""The strength of regularisation depends on how often a run reads its text."""

from __future__ import annotations

from charlm.training.regularisation import dropout_for, strengths, weight_decay_for, weight_dropout_for


def test_dropout_grows_with_the_epochs() -> None:
    """A text read a few times needs no dropout; one read very often needs much, but never all."""
    values = [dropout_for(epochs) for epochs in (0.1, 1, 2.5, 10, 100, 1e6)]
    assert values == sorted(values)
    assert values[:3] == [0.0, 0.0, 0.0]
    assert 0.2 < values[3] <= values[5] < 0.9
    assert [weight_dropout_for(epochs) for epochs in (0, 6, 12, 24, 96, 1e6)] == [0.0, 0.0, 0.1, 0.2, 0.4, 0.4]
    assert 0 < weight_dropout_for(14) < 0.4
    decays = [weight_decay_for(epochs) for epochs in (0, 3, 8, 20, 1e6)]
    assert decays == [0.05, 0.05, 0.08, 0.1, 0.1]


def test_a_smaller_net_needs_dropout_after_more_readings() -> None:
    """A net of half the units is regularised as much after twice as many readings; a larger one no earlier."""
    for epochs in (3, 8):
        assert strengths(2 * epochs, 256) == strengths(epochs, 512) == strengths(epochs, 2048)
    assert strengths(15, 128).dropout == 0


def test_a_smaller_net_is_given_less_dropout_at_most() -> None:
    """However often 128 units read a text, their recurrent weights are kept, and 0.3 of their outputs are dropped."""
    most = [strengths(1e6, units)[:2] for units in (128, 256, 512, 1024)]
    assert most == [(0.3, 0.0), (0.42, 0.13), (0.6, 0.4), (0.6, 0.4)]
