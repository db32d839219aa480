"""Published files, encrypted: AES-256-GCM, or the CBC layout of readers that know no other; and their two parts.

GCM:  `AZG1`, 12 bytes of nonce, the encrypted bytes, 16 bytes of tag. The key is HKDF-SHA256 of the secret text.
CBC:  16 bytes of random IV, the encrypted bytes with PKCS7 padding. The key is SHA-256 of the secret text.

Files are read and written in pieces, so a model needs no memory of its size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from azaion_api.training_run import EncryptionFormat
from azaion_trainer import files

_GCM_HEAD = b"AZG1"
_NONCE_BYTES, _TAG_BYTES, _IV_BYTES = 12, 16, 16
_GCM_PURPOSE = b"azaion model file, AES-256-GCM, 1"
_BLOCK_BITS = 128
_CHUNK_BYTES = 1 << 20
#: The small part: enough that the big one alone is of no use, little enough for an API.
SMALL_BYTES = 3072
_SMALL_SHARE = 0.2

#: Source of nonces and IVs.
Randomness = Callable[[int], bytes]


class DecryptionError(Exception):
    """The file cannot be decrypted with this secret text: another key, another format, or it was changed."""


def key_of(secret: str, format_: EncryptionFormat) -> bytes:
    """The 32 bytes a secret text stands for."""
    if format_ is EncryptionFormat.CBC:
        return hashlib.sha256(secret.encode()).digest()
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_GCM_PURPOSE).derive(secret.encode())


def encrypt_file(
    source: Path, target: Path, secret: str, format_: EncryptionFormat, randomness: Randomness = os.urandom
) -> None:
    """Write `target` durably and whole. Raises OSError."""
    with source.open("rb") as reader, files.replacing(target) as writer:
        if format_ is EncryptionFormat.CBC:
            _encrypt_cbc(reader, writer, key_of(secret, format_), randomness(_IV_BYTES))
        else:
            _encrypt_gcm(reader, writer, key_of(secret, format_), randomness(_NONCE_BYTES))


def decrypt_file(source: Path, target: Path, secret: str, format_: EncryptionFormat) -> None:
    """Write `target` whole or not at all. Raises DecryptionError; GCM notices any change, CBC most."""
    with source.open("rb") as reader, files.replacing(target) as writer:
        if format_ is EncryptionFormat.CBC:
            _decrypt_cbc(reader, writer, key_of(secret, format_))
        else:
            _decrypt_gcm(reader, writer, key_of(secret, format_), source.stat().st_size)


def _pieces(reader: BinaryIO, left: int | None = None) -> Iterator[bytes]:
    while left is None or left > 0:
        piece = reader.read(_CHUNK_BYTES if left is None else min(_CHUNK_BYTES, left))
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece


def _encrypt_gcm(reader: BinaryIO, writer: BinaryIO, key: bytes, nonce: bytes) -> None:
    encryptor = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(_GCM_HEAD)
    writer.write(_GCM_HEAD + nonce)
    for piece in _pieces(reader):
        writer.write(encryptor.update(piece))
    writer.write(encryptor.finalize() + encryptor.tag)


def _decrypt_gcm(reader: BinaryIO, writer: BinaryIO, key: bytes, size_bytes: int) -> None:
    body = size_bytes - len(_GCM_HEAD) - _NONCE_BYTES - _TAG_BYTES
    if body < 0 or reader.read(len(_GCM_HEAD)) != _GCM_HEAD:
        raise DecryptionError("the file is not encrypted with AES-256-GCM by this system, or it is cut short")
    nonce = reader.read(_NONCE_BYTES)
    decryptor = Cipher(algorithms.AES(key), modes.GCM(nonce)).decryptor()
    decryptor.authenticate_additional_data(_GCM_HEAD)
    for piece in _pieces(reader, body):
        writer.write(decryptor.update(piece))
    try:
        decryptor.finalize_with_tag(reader.read(_TAG_BYTES))
    except (InvalidTag, ValueError) as error:
        raise DecryptionError("the secret text is another one, or the file was changed") from error


def _encrypt_cbc(reader: BinaryIO, writer: BinaryIO, key: bytes, iv: bytes) -> None:
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    padder = padding.PKCS7(_BLOCK_BITS).padder()
    writer.write(iv)
    for piece in _pieces(reader):
        writer.write(encryptor.update(padder.update(piece)))
    writer.write(encryptor.update(padder.finalize()) + encryptor.finalize())


def _decrypt_cbc(reader: BinaryIO, writer: BinaryIO, key: bytes) -> None:
    iv = reader.read(_IV_BYTES)
    if len(iv) != _IV_BYTES:
        raise DecryptionError("the file is too short to be encrypted")
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    unpadder = padding.PKCS7(_BLOCK_BITS).unpadder()
    try:
        for piece in _pieces(reader):
            writer.write(unpadder.update(decryptor.update(piece)))
        writer.write(unpadder.update(decryptor.finalize()) + unpadder.finalize())
    except ValueError as error:
        raise DecryptionError("the secret text is another one, or the file was changed") from error


def small_part_bytes(size_bytes: int) -> int:
    """Size of the small part of an encrypted file; the rest is the big part."""
    return min(SMALL_BYTES, int(_SMALL_SHARE * size_bytes))
