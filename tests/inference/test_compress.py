"""Whatever is compressed comes back to the byte, in as many bits as the model says, and damage is one error."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charlm.checkpoint import ModelFile
from charlm.errors import CompressedFileError, UsageError
from charlm.inference import compress as compress_module
from charlm.inference.compress import Compressor, Sizes
from charlm.inference.generate import generate
from charlm.inference.language_model import LanguageModel
from charlm.inference.sampling import Sampling
from charlm.inference.score import score_symbols
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary
from tests.helpers.memory import traced_growth
from tests.helpers.model_files import random_model, with_ngrams

SYMBOLS = "\n abcdefgh"
MODELS = {
    "characters": random_model(symbols=SYMBOLS),
    "bytes": random_model(symbols=Vocabulary.of_bytes()),
    "backward": with_ngrams(random_model(symbols=SYMBOLS, direction="backward")),
    "surrogates": random_model(symbols="a\n\ud800\udc80\udcff\ufeff"),
}
COMPRESSORS = {name: Compressor(file) for name, file in MODELS.items()}
# All but the code, for a text of one piece whose lengths take two bytes each.
HEADER_BYTES = 40


def compressed(compressor: Compressor, data: bytes) -> tuple[bytes, Sizes]:
    """Compress bytes."""
    target = io.BytesIO()
    sizes = compressor.compress(io.BytesIO(data), target)
    return target.getvalue(), sizes


def decompressed(compressor: Compressor, data: bytes) -> bytes:
    """Decompress bytes."""
    target = io.BytesIO()
    compressor.decompress(io.BytesIO(data), target)
    return target.getvalue()


def written_by(file: ModelFile, length: int) -> str:
    """Return a text that the model expects."""
    stepper = Stepper(file)
    return generate(stepper, [""], length=length, sampling=Sampling(), seeds=range(1, 2)).texts()[0]


def with_checksums(data: bytes) -> bytes:
    """Return a compressed file of one piece with the CRC-32 that it should have."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


hostile = st.one_of(
    st.binary(max_size=60),
    st.text(SYMBOLS, max_size=60).map(str.encode),
    st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text("ab\r\n", max_size=30).map(str.encode),
)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=25, deadline=None)
@given(data=hostile, piece_bytes=st.sampled_from([5, 16, 1 << 20]))
@example(data=b"", piece_bytes=5)
@example(data=b"\xef\xbb\xbfabc\r\nabc\r\nfed\r\n", piece_bytes=1 << 20)
@example(data=b"a\r\nb\r\nc\r\r\n\n", piece_bytes=5)
@example(data="caf\u00e9 \U0001f600\U0010ffff \u4e2d\u6587".encode() * 3, piece_bytes=5)
@example(data=bytes(range(256)), piece_bytes=16)
@example(data=b"\xed\xa0\x80\xed\xb2\x80\xc0\x80\xf4\x90\x80\x80\xf0\x9f\x98", piece_bytes=5)
@example(data=b"\0" * 50, piece_bytes=16)
def test_any_bytes_come_back(name: str, data: bytes, piece_bytes: int) -> None:
    """Text, other alphabets, line ends, byte order marks and bytes that are no text; in one piece or in many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress_module, "PIECE_BYTES", piece_bytes)
        file, sizes = compressed(COMPRESSORS[name], data)
        assert decompressed(COMPRESSORS[name], file) == data
    assert sizes.num_bytes == len(data)
    assert sizes.compressed_bytes == len(file)
    # What cannot be compressed is stored.
    assert len(file) <= len(data) + HEADER_BYTES + 8 * (2 * len(data) // piece_bytes + 1)


@pytest.mark.parametrize("name", ["characters", "bytes", "backward"])
def test_the_size_is_what_the_score_says(name: str) -> None:
    """A text of one part takes the bits of its score, two bytes and the header."""
    file = MODELS[name]
    text = written_by(file, 1500)
    data = text.encode()
    bits = score_symbols(Stepper(file), file.vocabulary.encode(text)).bits_T.sum()
    size = compressed(COMPRESSORS[name], data)[1].compressed_bytes - HEADER_BYTES
    assert -2 < size - bits / 8 < 4 + 0.001 * bits / 8


def test_a_text_of_many_parts_is_little_larger() -> None:
    """8,000 characters are read as five parts: they take at most 0.5% more than their score, and come back."""
    file = MODELS["characters"]
    text = written_by(file, 8000)
    bits = score_symbols(Stepper(file), file.vocabulary.encode(text)).bits_T.sum()
    calls: list[tuple[int, int]] = []
    target = io.BytesIO()
    source = io.BytesIO(text.encode())
    sizes = COMPRESSORS["characters"].compress(source, target, lambda *call: calls.append(call))
    assert -2 < sizes.compressed_bytes - HEADER_BYTES - bits / 8 < 4 + 0.005 * bits / 8
    assert decompressed(COMPRESSORS["characters"], target.getvalue()) == text.encode()
    assert calls[-1] == (16000, 16000)
    assert calls == sorted(calls)


def test_windows_line_ends_cost_nothing() -> None:
    r"""A text whose lines all end with \r\n takes no more than the same with \n, if the model knows only \n."""
    text = written_by(MODELS["characters"], 600) + "\n"
    sizes = [
        compressed(COMPRESSORS["characters"], text.replace("\n", end).encode())[1].compressed_bytes
        for end in ("\n", "\r\n")
    ]
    assert abs(sizes[0] - sizes[1]) <= 1


def test_unknown_characters_are_learned() -> None:
    """A text of another alphabet takes about the entropy of its characters; random bytes are stored."""
    random = np.random.default_rng(1)
    text = "".join(random.choice(list("\u0431\u0433\u0434\u0436"), 4000))
    size = len(compressed(COMPRESSORS["characters"], text.encode())[0])
    assert 1000 < size < 1150
    # Thousands of unknown characters in a row do not use up the precision, whatever the size of the vocabulary.
    many = Compressor(random_model(symbols="".join(map(chr, range(0x4E00, 0x4E00 + 5000))), hidden_size=2))
    file = compressed(many, text.encode())[0]
    assert len(file) < 1200
    assert decompressed(many, file) == text.encode()
    noise = random.bytes(5000)
    assert len(compressed(COMPRESSORS["characters"], noise)[0]) <= 5000 + HEADER_BYTES


def test_damage_anywhere_is_one_error() -> None:
    """Each flipped bit, each truncation, what follows the end, and another file are refused; nothing is computed."""
    compressor = COMPRESSORS["characters"]
    for data in (b"", b"abc abc\nhead \xff"):
        file = compressed(compressor, data)[0]
        damaged = [file[:size] for size in range(len(file))]
        damaged += [file + b"\0", b"hello", data]
        for place in range(8 * len(file)):
            flipped = bytearray(file)
            flipped[place // 8] ^= 1 << place % 8
            damaged.append(bytes(flipped))
        for attempt in damaged:
            with pytest.raises(CompressedFileError):
                decompressed(compressor, attempt)


def test_a_crafted_file_is_refused_or_is_a_text() -> None:
    """With right checksums of the file, every other code is still refused, because the text is another one."""
    compressor = COMPRESSORS["characters"]
    file = compressed(compressor, b"abc abc\nheadache \xff\xc3 face" * 3)[0]
    for place in range(26, len(file) - 4):
        for value in (0, 0x7F, 0x80, 0xFF):
            crafted = with_checksums(file[:place] + bytes([value]) + file[place + 1 :])
            if crafted != file:
                with pytest.raises(CompressedFileError):
                    decompressed(compressor, crafted)


@pytest.mark.parametrize("numbers", [b"\xff" * 8 + b"\x7f", b"\x80\x80\x80\x80\x01"])
def test_huge_lengths_are_refused(numbers: bytes) -> None:
    """A file that claims to be enormous needs neither memory nor time."""
    compressor = COMPRESSORS["characters"]
    start = compressed(compressor, b"")[0][:25]
    for coding in (0, 1):
        crafted = with_checksums(start + numbers * 2 + bytes([coding]) + numbers * 3 + bytes(20))
        Path("crafted").write_bytes(crafted)

        def refuse() -> None:
            with Path("crafted").open("rb") as file, pytest.raises(CompressedFileError):
                compressor.decompress(file, io.BytesIO())

        assert traced_growth(refuse) < 1_000_000


def test_another_model_or_machine_is_refused() -> None:
    """The error says which of the two it is, before anything is written."""
    file = compressed(COMPRESSORS["characters"], b"abc")[0]
    other = Compressor(random_model(symbols=SYMBOLS, seed=5))
    target = io.BytesIO()
    with pytest.raises(CompressedFileError, match="another model"):
        other.decompress(io.BytesIO(file), target)
    same = Compressor(MODELS["characters"])
    same._probe = b"xxxx"
    with pytest.raises(CompressedFileError, match="this machine computes other probabilities"):
        same.decompress(io.BytesIO(file), target)
    assert target.getvalue() == b""


def test_the_hash_is_of_what_the_model_predicts() -> None:
    """Training state and figures do not matter; symbols and n-grams do."""
    model = MODELS["characters"]
    more = {"optimizer.output.bias.step": np.zeros((), np.float32)}
    same = replace(model, arrays=model.arrays | more, metrics={"step": 9})
    hashes = [compress_module.model_hash(file) for file in (model, same, with_ngrams(model))]
    assert hashes[0] == hashes[1] != hashes[2]
    letters = replace(model, vocabulary=Vocabulary("characters", SYMBOLS[::-1]))
    assert compress_module.model_hash(letters) != hashes[0]


def test_a_file_that_changes_meanwhile_is_refused() -> None:
    """Another process writes to it after it was read for the first time."""

    class Changing(io.BytesIO):
        def seek(self, place: int, whence: int = 0) -> int:
            self.getbuffer()[0] = ord("b")
            return super().seek(place, whence)

    with pytest.raises(CompressedFileError, match="has changed"):
        COMPRESSORS["characters"].compress(Changing(b"abc"), io.BytesIO())


def test_a_wrong_decoder_is_found_before_anything_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compressed is decompressed again; `verifies=False` saves the time."""
    monkeypatch.setattr(Compressor, "_decode", lambda *_: b"something else")
    with pytest.raises(CompressedFileError, match="compressed to something else"):
        compressed(COMPRESSORS["characters"], b"abc")
    COMPRESSORS["characters"].compress(io.BytesIO(b"abc"), io.BytesIO(), verifies=False)


def test_programs_compress_bytes(make_model: Callable[..., ModelFile]) -> None:
    """`LanguageModel` has both directions; a model of both sides is refused in words."""
    model = LanguageModel(make_model())
    assert model.decompress(model.compress(b"abc\xff")) == b"abc\xff"
    with pytest.raises(UsageError, match="reads from both sides"):
        LanguageModel(make_model(direction="both")).compress(b"abc")


@pytest.mark.parametrize("cell", ["lstm", "rnn-relu", "mingru", "lstm-peephole"])
def test_enormous_weights_are_no_hazard(make_model: Callable[..., ModelFile], cell: str) -> None:
    """An untrusted model whose state overflows in float32 still compresses exactly, without a warning."""
    file = make_model(cell, 2)
    huge = {name: np.sign(array) * np.float32(1e9) for name, array in file.arrays.items()}
    model = LanguageModel(replace(file, arrays=huge))
    data = b"abcabc abc\n" * 5
    assert model.decompress(model.compress(data)) == data
