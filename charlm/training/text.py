"""The text of a run: read as its settings say, once on each machine. Knows no run folders."""

from __future__ import annotations

from collections.abc import Callable

from charlm.data.corpus import Corpus, load_corpus
from charlm.data.documents import document_starts
from charlm.settings.config import Config
from charlm.training.distributed import World
from charlm.training.events import Listener, Preparing, ignore
from charlm.vocab import Vocabulary

# What is prepared, for a person.
READING = "reading the text"


def load_text(
    config: Config,
    listener: Listener = ignore,
    vocabulary: Vocabulary | None = None,
    max_bytes: int | None = None,
    *,
    grows: bool = False,
) -> Corpus:
    """Load the text that the settings of a run name.

    Args:
        config: the settings.
        listener: called with how far the text is downloaded or read.
        vocabulary: the symbols that it must have; by default its own.
        max_bytes: the most bytes that it may have.
        grows: whether the vocabulary may grow by symbols that it lacks.
    """
    data, vocab = config.data, config.vocab

    def progress(what: str, here: int, total: int | None) -> None:
        listener(Preparing(f"{what} the text", here, total))

    listener(Preparing(READING))
    return load_corpus(
        data.corpus,
        encoding=data.encoding,
        kind=vocab.kind,
        filter=vocab.filter,
        vocabulary=vocabulary,
        grows=grows,
        progress=progress,
        max_bytes=max_bytes,
        skip_undecodable=data.skip_undecodable,
    )


def load_once(world: World, config: Config, load: Callable[[], Corpus]) -> Corpus:
    """Load a text in the first process of each machine; the others open what it has put into the cache.

    So standard input is read once, and the documents of a text are looked for once.

    Args:
        world: the processes that train together.
        config: the settings.
        load: loads the text.
    """
    if world.size == 1:
        return load()

    def load_all() -> Corpus:
        text = load()
        if config.data.documents is not None:
            document_starts(text, config.data.documents)
        return text.closed()

    return world.from_first_of_machine(load_all).opened()
