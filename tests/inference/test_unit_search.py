"""Ranked units: areas and correlations against plain counting, and the half of the text that chose no unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.errors import UsageError
from charlm.inference.activations import characters_of
from charlm.inference.language_model import LanguageModel
from charlm.inference.unit_search import MIN_OF_EACH, areas, correlations, find_units
from charlm.vocab import Vocabulary

Make = Callable[..., ModelFile]


def area_by_pairs(values: np.ndarray, labels: np.ndarray) -> float:
    """Count the pairs in which the true one is larger, one by one."""
    pairs = [(a > b) + 0.5 * (a == b) for a in values[labels == 1] for b in values[labels == 0]]
    return float(np.mean(pairs))


def test_areas_are_the_share_of_pairs_in_order() -> None:
    """With and without equal values, for more units than are ranked at once."""
    random = np.random.default_rng(0)
    values_TU = random.normal(size=(40, 70)).astype(np.float32)
    values_TU[:, ::3] = values_TU[:, ::3].round()
    values_TU[:, 5] = 1
    labels_TK = (random.random((40, 3)) < 0.3).astype(float)
    expected = [[area_by_pairs(values_TU[:, u], labels_TK[:, k]) for k in range(3)] for u in range(70)]
    np.testing.assert_allclose(areas(values_TU, labels_TK), expected, rtol=1e-12)


def test_correlations_are_those_of_numpy() -> None:
    """For more units than are ranked at once; a unit that never changes has none."""
    random = np.random.default_rng(0)
    values_TU = random.normal(size=(40, 70)).astype(np.float32)
    numbers_TK = random.normal(size=(40, 3)) + values_TU[:, :1]
    expected = [[np.corrcoef(values_TU[:, u], numbers_TK[:, k])[0, 1] for k in range(3)] for u in range(70)]
    np.testing.assert_allclose(correlations(values_TU, numbers_TK), expected, atol=1e-12)
    values_TU[:, 1] = 3
    assert (correlations(values_TU, numbers_TK)[1] == 0).all()


def text_of(num_characters: int, seed: int = 0) -> str:
    """Return letters, spaces and line ends at random."""
    return "".join(np.random.default_rng(seed).choice(list("\n abcdefgh"), num_characters))


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_units_are_measured_on_text_that_chose_none(make_model: Make, direction: str) -> None:
    """Figures equal those of the activations on each half, and none on the first half is better than the best."""
    model = make_model("lstm", 2, direction=direction)
    text = text_of(401)
    search = LanguageModel(model).find_units(text, {"a or b": "[ab]"})
    layers = {str(layer.layer): layer for layer in LanguageModel(model).activations(text)}
    findings = {finding.hypothesis.name: finding for finding in search.findings}
    is_true_T = np.isin(list(text), ["a", "b"]).astype(float)
    finding = findings["a or b"]
    assert search.num_chosen_on == 200
    assert finding.counts == (is_true_T[:200].sum(), is_true_T[200:].sum())
    best = finding.followers[0]
    values_T = layers[str(best.unit.layer)].parts[best.part][:, best.unit.index]
    assert best.chosen_by == pytest.approx(area_by_pairs(best.sign * values_T[:200], is_true_T[:200]))
    assert best.figure == pytest.approx(area_by_pairs(best.sign * values_T[200:], is_true_T[200:]))
    everything = np.concatenate(
        [layer.parts[part][:200] for layer in layers.values() for part in ("hidden", "cell")], axis=1
    )
    shares = areas(everything, is_true_T[:200, None])
    assert best.chosen_by == pytest.approx(max(shares.max(), 1 - shares.min()))
    in_line = findings["position in line"].followers[0]
    values_T = layers[str(in_line.unit.layer)].parts[in_line.part][:, in_line.unit.index]
    track_T = findings["position in line"].hypothesis.track(text)
    assert in_line.figure == pytest.approx(in_line.sign * np.corrcoef(values_T[200:], track_T[200:])[0, 1])
    assert in_line.chosen_by >= findings["position in line"].followers[1].chosen_by > 0


def test_a_unit_made_to_count_a_letter_is_found(make_model: Make) -> None:
    """A unit whose input is the letter c alone is the best for that letter, and almost perfect."""
    model = make_model("rnn", embedding_size=0, hidden_size=6)
    arrays = dict(model.arrays)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        arrays[f"layers.0.{name}"] = arrays[f"layers.0.{name}"].copy()
        arrays[f"layers.0.{name}"][4] = 0
    arrays["layers.0.weight_ih_l0"][4, model.vocabulary.encode("c")[0]] = -2
    search = find_units(replace(model, arrays=arrays), [model.vocabulary.encode(text_of(600))], {"c": "c"})
    best = search.findings[-1].followers[0]
    assert (str(best.unit), best.part, best.sign, best.figure) == ("1.4", "hidden", -1, 1.0)


def test_a_hypothesis_that_is_too_rare_names_no_unit(make_model: Make) -> None:
    """Its counts are reported; one more true character in each half is enough."""
    model = make_model()
    few, enough = ("a" * (MIN_OF_EACH - 1) + "b" * 60, "a" * MIN_OF_EACH + "b" * 60)
    for half, num_followers in ((few, 0), (enough, 5)):
        finding = LanguageModel(model).find_units(half * 2, {"a": "a"}).findings[-1]
        assert finding.counts == (half.count("a"), half.count("a"))
        assert len(finding.followers) == num_followers
    with pytest.raises(UsageError, match="too short"):
        LanguageModel(model).find_units("a" * (4 * MIN_OF_EACH - 1))


def test_a_character_of_several_bytes_counts_with_each(make_model: Make) -> None:
    """In a vocabulary of bytes a label holds for all bytes of its character."""
    model = LanguageModel(make_model(symbols=Vocabulary.of_bytes()))
    finding = model.find_units("狐a" * 60, {"fox": "狐"}).findings[-1]
    assert finding.counts == (90, 90)
    for text in ("é狐a😀", "a\ud800", ""):
        ids_T = model.vocabulary.encode(text)
        assert characters_of(model.vocabulary, ids_T)[1].sum() == len(ids_T)
    assert characters_of(model.vocabulary, np.array([0xE7, 0x61], np.uint8))[0] == "\udce7a"


def test_texts_are_joined_without_a_common_start(make_model: Make) -> None:
    """A hypothesis starts anew with each text, as the model does."""
    model = make_model()
    ids_T = model.vocabulary.encode("ab cd\n" * 10 + "a")
    search = find_units(model, [ids_T, ids_T])
    position = next(finding for finding in search.findings if finding.hypothesis.name == "position in line")
    assert position.counts == (51, 51)
    assert search.texts == ["ab cd\n" * 10 + "a"] * 2
