"""`charlm eval` says which way is better, what each row is, and which of them won."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len

from charlm.cli.evaluate import Evaluation, evaluation_lines, winner
from charlm.evaluation.baselines import Baseline
from charlm.evaluation.evaluate import Scores
from charlm.vocab import Vocabulary

BASELINES = [
    Baseline("uniform", 5.8826, 0, 18_459),
    Baseline("unigram", 4.3698, 166_130, 18_459),
    Baseline("7-gram Kneser-Ney", 1.7965, 166_130, 18_459),
    Baseline("xz", 2.2779, 166_130, 18_459),
    Baseline("bz2", 1.9373, 166_130, 18_459),
]


def lines_of(
    width: int | None, dynamic: bool = False, baselines: list[Baseline] = BASELINES, num_blocks: int = 1
) -> list[str]:
    """Lay out an evaluation in which a model needs exactly 2 bits, or 1.5 if it learns from the text."""
    nats = 0.6931471805599453
    scores, better = Scores(18_459, 2 * nats, 0.475, 0.8), Scores(18_459, 1.5 * nats, 0.6, 0.9)
    text, vocabulary = "validation part of fables", Vocabulary("characters", "ab ")
    learning = replace(better, net=better) if dynamic else None
    found = Evaluation(vocabulary, False, text, num_blocks, None, scores, learning, 0, baselines)
    return evaluation_lines(found, width)


def test_the_model_is_ranked_among_the_baselines() -> None:
    """The best comes first, each row has a phrase about it, and the last line names the winner."""
    lines = lines_of(None)
    assert lines[1] == "  2.0000 bits per character (1.3863 nats); lower is better"
    head = next(index for index, line in enumerate(lines) if line.split()[:2] == ["bits", "by"])
    rows = lines[head + 1 : -1]
    assert [row.split()[0] for row in rows] == ["1.7965", "1.9373", "2.0000", "2.2779", "4.3698", "5.8826"]
    for row, words in zip(rows, ("in a row", "bzip2", "the model", "xz", "how often", "equally probable"), strict=True):
        assert words in row
    assert lines[-1] == "7-gram Kneser-Ney wins: this model needs 0.2035 bits per character more"


def test_the_blocks_of_a_text_are_counted() -> None:
    """No state is carried from one to the next."""
    assert lines_of(None)[0] == "validation part of fables, 18,459 characters, state carried through"
    assert lines_of(None, num_blocks=5)[0].endswith("characters, in 5 blocks, state carried through each")


def test_the_winner_is_named_with_its_lead() -> None:
    """The model wins against its best rival, also by what it learns from the text; otherwise it is behind."""
    assert winner([(1.5, "this model"), (1.8, "bz2"), (2.0, "xz")], "byte") == (
        "this model wins: 0.3000 bits per byte fewer than bz2"
    )
    assert lines_of(None, dynamic=True)[-1] == (
        "this model by dynamic evaluation wins: 0.2965 bits per character fewer than 7-gram Kneser-Ney"
    )
    assert winner([(1.0, "xz"), (1.5, "dynamic"), (2.0, "this model")], "byte").endswith("0.5000 bits per byte more")


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_evaluation_fits_at_every_width(dynamic: bool) -> None:
    """No word is lost but in columns that are dropped; the bits and the names are always there."""
    for width in range(40, 121):
        lines = lines_of(width, dynamic)
        assert max(map(cell_len, lines)) <= width
        assert all(any(f"{row.bits_per_character:.4f}  {row.name}" in line for line in lines) for row in BASELINES)
    assert any("7 characters in a row" in line for line in lines_of(80))


def test_baselines_that_score_less_say_so() -> None:
    """The heading has the number of characters; that of a text all of which is scored has none."""
    less = [replace(row, characters_scored=4000) for row in BASELINES]
    text = " ".join(lines_of(None, baselines=less))
    assert "the best first; these others score only the beginning of the text, 4,000 characters:" in text
    blocks = " ".join(lines_of(None, baselines=less, num_blocks=3))
    assert "the best first; these others score only the beginning of each block, 4,000 characters:" in blocks
    assert "score only" not in " ".join(lines_of(80))


def test_without_baselines_nobody_wins() -> None:
    """Another text, or a model of both sides, has only the figures of the model."""
    assert len(lines_of(None, baselines=[])) == 4
