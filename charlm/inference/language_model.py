"""The interface for programs: a trained model that writes, predicts, scores and fills blanks, without torch."""

from __future__ import annotations

import io
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import load_checkpoint
from charlm.errors import UsageError
from charlm.inference.compress import Compressor
from charlm.inference.fill import Filler, Filling, split_at_blanks
from charlm.inference.generate import Generation, draw_seed, generate
from charlm.inference.inspectable_model import InspectableModel
from charlm.inference.predict import Prediction, predict
from charlm.inference.sampling import Floats, Sampling
from charlm.inference.score import Reader, score_symbols
from charlm.inference.stepper import Predictor, StepperState
from charlm.inference.surprisal import Surprisal, measure_surprisal
from charlm.inference.words import WordPrediction, predict_words
from charlm.run_folder import find_model
from charlm.vocab import Vocabulary


class GenerateOptions(TypedDict, total=False):
    """The options of `LanguageModel.generate` and `stream` besides the prompt; these methods explain each of them."""

    length: int
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    stop: str | Sequence[str] | None
    seed: int | None
    clamp: Mapping[str, float] | None
    unknown: str


class TextModel(ABC):
    """What writes, predicts and scores texts: a model, or several that predict together.

    Every method that takes a text also takes `unknown`, which says what to do about characters that the model does not
    know: "error", "skip", or "replace=C" with a character C. Errors of texts, options and files are
    `charlm.errors.CharlmError`; an argument of a wrong type is a TypeError or ValueError, as anywhere in Python.
    """

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The symbols that it reads and writes."""

    @property
    @abstractmethod
    def _stepper(self) -> Predictor: ...

    @property
    def _reader(self) -> Reader:
        return self._stepper

    @overload
    def generate(self, prompt: str = "", *, num: None = None, **options: Unpack[GenerateOptions]) -> str: ...

    @overload
    def generate(self, prompt: str = "", *, num: int, **options: Unpack[GenerateOptions]) -> list[str]: ...

    @overload
    def generate(self, prompt: list[str], *, num: None = None, **options: Unpack[GenerateOptions]) -> list[str]: ...

    def generate(
        self,
        prompt: str | list[str] = "",
        *,
        length: int = 500,
        temperature: float = 0.7,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        num: int | None = None,
        clamp: Mapping[str, float] | None = None,
        unknown: str = "error",
    ) -> str | list[str]:
        r"""Return the prompt and what follows it; with a backward model, what stands before the prompt, and the prompt.

        The same seed gives the same text as `charlm sample`.

        >>> model.generate("To", length=9, seed=1) == model.generate("To", length=9, seed=1)
        True
        >>> model.generate("To", top_k=5, stop="\n", seed=1).count("\n") <= 1
        True
        >>> len(model.generate("To", length=9, num=3))
        3
        >>> model.generate(["To", "be"], length=9, seed=1)[1] == model.generate("be", length=9, seed=2)
        True
        >>> len(model.generate("To", length=9, clamp={"1.3": 0.9, "1.4.cell": -2}))
        11

        Args:
            prompt: the text to continue; or a list of texts, all of which are continued side by side.
            length: how many new characters to draw at most.
            temperature: below 1 probable characters become more probable; 0 always takes the most probable.
            top_k: draw only from the k most probable characters.
            top_p: draw only from the most probable characters that together reach this probability.
            min_p: draw only from characters at least this share as probable as the most probable.
            stop: a string, or several, after which to stop.
            seed: makes the text repeatable; without one, each call writes another text.
            num: return a list of this many texts; text k has the seed plus k, as with a list of prompts.
            clamp: units of the net that are held at a value after every character, of the prompt too: "1.3" is the
                hidden state of unit 3 in layer 1, "1.3.cell" its cell; n-grams count as before.
            unknown: what to do about unknown characters of the prompt.

        Raises:
            UsageError: an option is out of its bounds, a list comes with a number, there is no such unit, or the model
                reads from both sides.
            UnknownCharacterError: the prompt holds unknown characters, under `unknown="error"`.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p)
        if num is not None and num < 1:
            raise UsageError(f"the number of texts must be at least 1, not {num}")
        if not isinstance(prompt, list):
            texts = self._generation([prompt] * (num or 1), length, sampling, stop, seed, clamp, unknown).texts()
            return texts[0] if num is None else texts
        if num is not None:
            raise UsageError("a list of prompts has one text for each", "repeat a prompt to continue it several times")
        return self._generation(prompt, length, sampling, stop, seed, clamp, unknown).texts() if prompt else []

    def stream(
        self,
        prompt: str = "",
        *,
        length: int = 500,
        temperature: float = 0.7,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        clamp: Mapping[str, float] | None = None,
        unknown: str = "error",
    ) -> Iterator[str]:
        """Yield new characters as soon as they are drawn, without the prompt; see `generate` for the options.

        The pieces of a backward model come from the end of the text to its start.

        >>> pieces = model.stream("To be", length=50, seed=1)
        >>> "To be" + "".join(pieces) == model.generate("To be", length=50, seed=1)
        True
        """
        sampling = Sampling(temperature, top_k, top_p, min_p)
        generation = self._generation([prompt], length, sampling, stop, seed, clamp, unknown)
        return (piece.text for piece in generation)

    def predict_next(
        self, text: str = "", top: int = 10, *, unknown: str = "error", recent: bool = False
    ) -> Prediction:
        """Return the characters that may come after a text, or with a backward model before it.

        >>> prediction = model.predict_next("To b", top=3)
        >>> first, second, third = prediction.candidates
        >>> first.character in model.vocabulary, first.probability >= second.probability >= third.probability
        (True, True)

        Args:
            text: the text so far.
            top: how many characters to list.
            unknown: what to do about unknown characters of the text.
            recent: whether what followed the same characters before in the text counts too.

        Raises:
            UsageError: `top` is less than 1, or the model reads from both sides.
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        return predict(self._stepper, text, top, unknown, recent)

    def predict_words(
        self, text: str = "", top: int = 5, *, unknown: str = "error", recent: bool = False
    ) -> WordPrediction:
        """Return the words that may come after a text, or with a backward model before it.

        The probability of a word is that of its characters and of a boundary after them. If the text ends inside a
        word, these are the words that complete it.

        >>> prediction = model.predict_words("To b", top=2)
        >>> first, second = prediction.words
        >>> first.word == "b" + first.text, first.probability >= second.probability >= prediction.others_at_most
        (True, True)

        Args:
            text: the text so far.
            top: how many words to list at most.
            unknown: what to do about unknown characters of the text.
            recent: whether what followed the same characters before in the text counts too.

        Raises:
            UsageError: `top` is less than 1, the model knows no words, or it reads from both sides.
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        return predict_words(self._stepper, text, top, unknown, recent)

    def score(self, text: str, *, unknown: str = "error") -> NDArray[np.float64]:
        """Return how many bits each character of a text costs the model: its surprise.

        A forward model scores a character given all before it, a backward model given all after it, and a model of both
        sides given all others. There is one number for each id in `vocabulary.encode(text, unknown)`: for each byte, if
        the vocabulary is one of bytes.

        >>> bits = model.score("To be")
        >>> bits.shape
        (5,)
        >>> bits_per_character = bits.mean()

        Args:
            text: the text, from its start to its end.
            unknown: what to do about unknown characters of the text.

        Raises:
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        return score_symbols(self._reader, self.vocabulary.encode(text, unknown)).bits_T

    def surprisal(self, text: str, *, unknown: str = "error") -> Surprisal:
        r"""Return what `charlm score` shows: the bits of each character, totals, lines and worst places.

        >>> scored = model.surprisal("To be\nTo bed")
        >>> sorted(scored.totals())[:3]
        ['bits_per_byte', 'bits_per_character', 'bits_per_word']
        >>> len(scored.bits_C), scored.worst_lines()[0].number in (1, 2)
        (12, True)
        >>> place = scored.worst_places(top=1)[0]
        >>> scored.text[place.position] == place.found.character, place.expected.probability <= 1
        (True, True)

        `charlm.inference.surprisal_difference.SurprisalDifference` compares what two models return.

        Args:
            text: the text, from its start to its end.
            unknown: what to do about unknown characters of the text.

        Raises:
            CorpusError: there is no character to score.
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        return measure_surprisal(self._reader, text, unknown)

    def step(
        self, text: str | SupportsIndex | None = None, state: StepperState | None = None, *, unknown: str = "error"
    ) -> tuple[Floats, StepperState]:
        """Read a character and return the logits of the next one, and the new state.

        States are never changed, so that one state can be continued in several ways.

        >>> logits, start = model.step()
        >>> logits, state = model.step("T", start)
        >>> logits, state = model.step("o", state)
        >>> logits, state = model.step(logits.argmax(), state)
        >>> logits.shape == (len(model.vocabulary),)
        True

        Args:
            text: a character, several, or an id; None reads nothing, so that the start of a text is returned.
            state: what an earlier step returned; without one, the start of a text is read first.
            unknown: what to do about an unknown character.

        Returns:
            logits_V: shape (V,), float32 of one model and float64 of several; and the state.

        Raises:
            UsageError: the id is out of range, the state is of another model, or the model reads from both sides.
            UnknownCharacterError: the character is unknown, under `unknown="error"`.
        """
        if text is None or isinstance(text, str):
            ids_T = self.vocabulary.encode(text or "", unknown).tolist()
        else:
            ids_T = [operator.index(text)]
            if not 0 <= ids_T[0] < len(self.vocabulary):
                raise UsageError(f"there is no symbol with the id {ids_T[0]}", f"there are {len(self.vocabulary)}")
        if state is not None and _shapes_of(state) != self._state_shapes:
            raise UsageError("the state is not one of this model", "a step of the same model returns it")
        logits_BV, state = self._stepper.read(ids_T[::-1] if self._stepper.is_backward else ids_T, state)
        return logits_BV[0], state

    @cached_property
    def _state_shapes(self) -> list[list[tuple[int, ...]]]:
        return _shapes_of(self._stepper.before(1))

    def _generation(
        self,
        prompts: list[str],
        length: int,
        sampling: Sampling,
        stop: str | Sequence[str] | None,
        seed: int | None,
        clamp: Mapping[str, float] | None,
        unknown: str,
    ) -> Generation:
        first = draw_seed() if seed is None else seed
        return generate(
            self._stepper.holding(clamp) if clamp else self._stepper,
            prompts,
            length=length,
            sampling=sampling,
            seeds=range(first, first + len(prompts)),
            stop=[stop] if isinstance(stop, str) else stop or (),
            unknown=unknown,
        )


class LanguageModel(InspectableModel, TextModel):
    """A trained model. `charlm.load` makes one; it needs neither torch nor the text that was learned.

    >>> import charlm
    >>> model = charlm.load("run")
    >>> text = model.generate("To be", length=50, temperature=0.7, seed=1)
    >>> text.startswith("To be"), len(text)
    (True, 55)

    Args:
        file: the model file that was read.
    """

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> LanguageModel:
        """Read a model file, the best model of a run folder, or without a path that of the newest run in `runs/`.

        Raises:
            ModelFileError: there is no model, or its file is damaged.
        """
        return cls(load_checkpoint(find_model(None if path is None else Path(path))))

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures of its training when it was saved.

        >>> model.metrics["step"]
        20
        """
        return self._file.metrics

    def fill(self, text: str, blank: str = "_", top: int = 5, *, unknown: str = "error") -> Filling:
        """Fill the blanks in a text, with a model that reads from both sides (`model.direction=both`).

        >>> filling = charlm.load("both").fill("T_ be")
        >>> len(filling.text), filling.places
        (5, [1])

        Args:
            text: the text with its blanks.
            blank: the character that stands for a character that is not known.
            top: how many characters to list for each blank.
            unknown: what to do about unknown characters of the text.

        Raises:
            UsageError: there is no blank, `top` is less than 1, or the model reads in one direction only.
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        return self._filler.fill(split_at_blanks(text, blank), top, unknown)

    def compress(self, data: bytes) -> bytes:
        """Compress any bytes with the probabilities of the model, as `charlm compress` does.

        >>> len(model.compress(b"To be, or not to be " * 50)) < 1000
        True

        Raises:
            UsageError: the model reads from both sides.
        """
        compressed = io.BytesIO()
        self._compressor.compress(io.BytesIO(data), compressed)
        return compressed.getvalue()

    def decompress(self, data: bytes) -> bytes:
        """Return what this model has compressed to these bytes.

        >>> model.decompress(model.compress(b"To be"))
        b'To be'

        Raises:
            CompressedFileError: they are damaged, or another model or another kind of machine has compressed them.
            UsageError: the model reads from both sides.
        """
        original = io.BytesIO()
        self._compressor.decompress(io.BytesIO(data), original)
        return original.getvalue()

    @cached_property
    def _filler(self) -> Filler:
        return Filler(self._file)

    @cached_property
    def _compressor(self) -> Compressor:
        return Compressor(self._file)

    @property
    def _reader(self) -> Reader:
        return self._filler if self.spec.sees_both_sides else self._stepper


def _shapes_of(state: StepperState) -> list[list[tuple[int, ...]]]:
    return [[np.shape(part) for part in layer] for layer in state]
