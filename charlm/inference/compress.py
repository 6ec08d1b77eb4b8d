"""Compressed files: a text in as few bytes as a model's probabilities allow, and the same bytes back, or an error.

A file has a header and pieces. The header: four letters, the version of the format, a hash of the model, a digest of
what it predicts for made-up texts, a hash of the original, and the numbers of its bytes and characters. A piece: how it
is coded, the numbers of its symbols, bytes and bytes of code, the code, and a CRC-32 of all before it but these sums.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import BinaryIO, NamedTuple

import numpy as np

from charlm.checkpoint import NGRAMS_PREFIX, ModelFile
from charlm.errors import CompressedFileError
from charlm.inference.arithmetic_coding import DAMAGED, DAMAGED_HINT
from charlm.inference.exact_stepper import ExactStepper
from charlm.inference.stepper import Progress
from charlm.inference.text_coding import Symbols, Tick, Transcription, decode_symbols, encode_symbols

MAGIC, VERSION = b"clmz", 1
MODEL_BYTES, PROBE_BYTES, CHECKSUM_BYTES, CRC_BYTES = 8, 4, 8, 4
# So much of a text is in memory at a time.
PIECE_BYTES = 1 << 20
# How a piece is coded: as it is, as symbols, or as symbols with \n for each \r\n.
STORED, CODED, CODED_JOINED = range(3)
# A number of seven bits a byte needs no more bytes.
MAX_NUMBER_BYTES = 9


@dataclass(frozen=True)
class Sizes:
    """How large a text and its compressed file are.

    Attributes:
        num_bytes, num_characters: of the text; characters are bytes for a model of bytes.
        compressed_bytes: of the compressed file, with its header.
        num_unknown: how many of the characters the model does not know; None after decompression.
    """

    num_bytes: int
    num_characters: int
    compressed_bytes: int
    num_unknown: int | None = None


class _Header(NamedTuple):
    model: bytes
    probe: bytes
    checksum: bytes
    num_bytes: int
    num_characters: int

    def to_bytes(self) -> bytes:
        numbers = _number(self.num_bytes) + _number(self.num_characters)
        return MAGIC + bytes([VERSION]) + self.model + self.probe + self.checksum + numbers


class _Piece(NamedTuple):
    coding: int
    num_symbols: int
    num_bytes: int
    code: bytes

    def to_bytes(self) -> bytes:
        numbers = map(_number, (self.num_symbols, self.num_bytes, len(self.code)))
        return bytes([self.coding]) + b"".join(numbers) + self.code


class Compressor:
    """Compresses with a model, and decompresses what the same model has compressed.

    Args:
        file: the model.

    Raises:
        UsageError: the model reads from both sides.
        ModelFileError: its n-grams are damaged.
    """

    def __init__(self, file: ModelFile) -> None:
        self._stepper = ExactStepper(file)
        self._transcription = Transcription(file.vocabulary)
        self._model = model_hash(file)
        self._probe = self._stepper.probe()[:PROBE_BYTES]

    def compress(
        self, source: BinaryIO, target: BinaryIO, progress: Progress | None = None, verifies: bool = True
    ) -> Sizes:
        """Compress a file.

        Args:
            source: the original, which is read twice.
            target: where the compressed file is written.
            progress: called now and then with how much of the work is done, of how much.
            verifies: whether each piece is decompressed again and compared.

        Raises:
            CompressedFileError: the original changes while it is read, or a piece is not decompressed to itself.
        """
        header = self._header_of(source)
        tick = _ticking(header.num_characters * (2 if verifies else 1), progress)
        source.seek(0)
        written = header.to_bytes()
        target.write(written)
        crc, size, num_unknown = zlib.crc32(written), len(written), 0
        checksum = hashlib.sha256()
        for data in _pieces_of(source):
            checksum.update(data)
            symbols_T, is_joined = self._transcription.symbols_of(data)
            num_unknown += int(np.count_nonzero(symbols_T < 0))
            written = self._encode(data, symbols_T, is_joined, verifies, tick).to_bytes()
            crc = zlib.crc32(written, crc)
            written += crc.to_bytes(CRC_BYTES, "little")
            target.write(written)
            size += len(written)
        if checksum.digest()[:CHECKSUM_BYTES] != header.checksum:
            raise CompressedFileError("the file has changed while it was read", "compress a copy of it")
        return Sizes(header.num_bytes, header.num_characters, size, num_unknown)

    def decompress(self, source: BinaryIO, target: BinaryIO, progress: Progress | None = None) -> Sizes:
        """Decompress a file; until the end it is not certain that what was written is right.

        Args:
            source: the compressed file, which is read twice. It is untrusted.
            target: where the original is written.
            progress: called now and then with how much of the work is done, of how much.

        Raises:
            CompressedFileError: the file is damaged, or another model or another kind of machine compressed it.
        """
        header, crc = _read_header(source)
        start = source.tell()
        # All of it is checked before anything is computed, which may take hours.
        num_symbols = sum(piece.num_symbols for piece in _read_pieces(source, header, crc))
        size = source.tell()
        if header.model != self._model:
            raise CompressedFileError(
                f"another model compressed this file: {header.model.hex()}, not {self._model.hex()}",
                "`--model` names the model file or run that compressed it",
            )
        if header.probe != self._probe:
            raise CompressedFileError(
                "this machine computes other probabilities than the one that compressed the file",
                "decompress it where it was compressed, or with the versions of charlm and NumPy used there",
            )
        source.seek(start)
        tick = _ticking(num_symbols, progress)
        checksum = hashlib.sha256()
        for piece in _read_pieces(source, header, crc):
            data = self._decode(piece, tick)
            checksum.update(data)
            target.write(data)
        if checksum.digest()[:CHECKSUM_BYTES] != header.checksum:
            raise CompressedFileError(DAMAGED, DAMAGED_HINT)
        return Sizes(header.num_bytes, header.num_characters, size)

    def _header_of(self, source: BinaryIO) -> _Header:
        checksum, num_bytes, num_characters = hashlib.sha256(), 0, 0
        for data in _pieces_of(source):
            checksum.update(data)
            num_bytes += len(data)
            num_characters += self._transcription.num_characters(data)
        return _Header(self._model, self._probe, checksum.digest()[:CHECKSUM_BYTES], num_bytes, num_characters)

    def _encode(self, data: bytes, symbols_T: Symbols, is_joined: bool, verifies: bool, tick: Tick) -> _Piece:
        code = encode_symbols(self._stepper, symbols_T, tick)
        piece = _Piece(CODED_JOINED if is_joined else CODED, len(symbols_T), len(data), code)
        if verifies and self._decode(piece, tick) != data:
            raise CompressedFileError(
                "a part of the file was compressed to something else: nothing is written", "please report this"
            )
        return piece if len(code) < len(data) else _Piece(STORED, len(data), len(data), data)

    def _decode(self, piece: _Piece, tick: Tick) -> bytes:
        if piece.coding == STORED:
            return piece.code
        symbols_T = decode_symbols(self._stepper, piece.code, piece.num_symbols, tick)
        data = self._transcription.bytes_of(symbols_T, piece.coding == CODED_JOINED)
        if len(data) != piece.num_bytes:
            raise CompressedFileError(DAMAGED, DAMAGED_HINT)
        return data


def model_hash(file: ModelFile) -> bytes:
    """Return a hash of all that decides what a model predicts: sizes, vocabulary, weights and n-grams."""
    vocabulary = file.vocabulary
    described = [asdict(file.spec), vocabulary.kind, list(vocabulary.symbols)]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    counts = {name: array for name, array in file.arrays.items() if name.startswith(NGRAMS_PREFIX)}
    for name, array in sorted((file.weights | counts).items()):
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.digest()[:MODEL_BYTES]


def _ticking(total: int, progress: Progress | None) -> Tick:
    """Return what adds up how many symbols were coded, and reports it."""
    done = 0

    def tick(num: int) -> None:
        nonlocal done
        done += num
        if progress is not None:
            progress(min(done, total), total)

    return tick


def _pieces_of(source: BinaryIO) -> Iterator[bytes]:
    r"""Yield a file in pieces that end where a character ends, and not between \r and \n."""
    rest = b""
    while data := rest + source.read(PIECE_BYTES - len(rest)):
        end = len(data)
        if end == PIECE_BYTES:
            # A character has at most three bytes after its first one.
            starts = [place for place in range(end - 3, end) if data[place] >= 0xC0]
            end = starts[0] if starts else end
            end -= data[end - 1 : end] == b"\r"
        yield data[:end]
        rest = data[end:]


def _read_header(source: BinaryIO) -> tuple[_Header, int]:
    """Return the header of an untrusted file, and its CRC-32."""
    start = source.read(len(MAGIC) + 1)
    if start[: len(MAGIC)] != MAGIC:
        raise CompressedFileError(
            "this is not a file that `charlm compress` wrote", "`charlm compress FILE` writes such a file"
        )
    if start[len(MAGIC) :] != bytes([VERSION]):
        raise CompressedFileError(
            "the compressed file is damaged, or has another format than this charlm reads", "a newer charlm may read it"
        )
    model, probe, checksum = (_read(source, size) for size in (MODEL_BYTES, PROBE_BYTES, CHECKSUM_BYTES))
    header = _Header(model, probe, checksum, _read_number(source), _read_number(source))
    if not bool(header.num_bytes) <= header.num_characters <= header.num_bytes:
        raise CompressedFileError(DAMAGED, DAMAGED_HINT)
    return header, zlib.crc32(header.to_bytes())


def _read_pieces(source: BinaryIO, header: _Header, crc: int) -> Iterator[_Piece]:
    """Yield the pieces of an untrusted file, and check that they are whole and that nothing follows them."""
    num_left = header.num_bytes
    while num_left > 0:
        (coding,) = _read(source, 1)
        num_symbols, num_bytes, num_code = (_read_number(source) for _ in range(3))
        if not (0 < num_symbols <= num_bytes <= min(PIECE_BYTES, num_left) and num_code <= num_bytes):
            raise CompressedFileError(DAMAGED, DAMAGED_HINT)
        piece = _Piece(coding, num_symbols, num_bytes, _read(source, num_code))
        crc = zlib.crc32(piece.to_bytes(), crc)
        is_whole = _read(source, CRC_BYTES) == crc.to_bytes(CRC_BYTES, "little")
        if not is_whole or coding > CODED_JOINED or (coding == STORED and num_code < num_bytes):
            raise CompressedFileError(DAMAGED, DAMAGED_HINT)
        num_left -= num_bytes
        yield piece
    if source.read(1):
        raise CompressedFileError("the compressed file is damaged: something follows its end", DAMAGED_HINT)


def _read(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise CompressedFileError("the compressed file is damaged: it ends too soon", DAMAGED_HINT)
    return data


def _number(number: int) -> bytes:
    """Return a number as LEB128: in as few bytes as it needs, seven bits a byte, the lowest ones first."""
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _read_number(source: BinaryIO) -> int:
    number = 0
    for place in range(MAX_NUMBER_BYTES):
        (byte,) = _read(source, 1)
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number
    raise CompressedFileError(DAMAGED, DAMAGED_HINT)
