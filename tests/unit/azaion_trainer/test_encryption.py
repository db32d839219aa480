"""Encrypted model files: round trips, published test vectors, and that no wrong key or changed byte gives the model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from azaion_api.training_run import EncryptionFormat
from azaion_trainer import encryption
from azaion_trainer.encryption import DecryptionError, decrypt_file, encrypt_file, key_of, small_part_bytes

GCM, CBC = EncryptionFormat.GCM, EncryptionFormat.CBC
SECRET = "a long secret text of a company"
BOTH = pytest.mark.parametrize("format_", [GCM, CBC])


def encrypted(tmp_path: Path, content: bytes, format_: EncryptionFormat, secret: str = SECRET, **more: object) -> Path:
    plain, closed = tmp_path / "plain", tmp_path / "closed"
    plain.write_bytes(content)
    encrypt_file(plain, closed, secret, format_, **more)  # type: ignore[arg-type]
    return closed


def decrypted(closed: Path, format_: EncryptionFormat, secret: str = SECRET) -> bytes:
    opened = closed.with_name("opened")
    decrypt_file(closed, opened, secret, format_)
    return opened.read_bytes()


@BOTH
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1024, 3 * (1 << 20) + 5])
def test_what_was_encrypted_comes_back(tmp_path: Path, format_: EncryptionFormat, size: int) -> None:
    content = hashlib.shake_128(b"model").digest(size)
    closed = encrypted(tmp_path, content, format_)
    assert decrypted(closed, format_) == content
    assert size < 16 or content[:16] not in closed.read_bytes()


def test_the_cbc_layout_is_the_one_readers_know(tmp_path: Path) -> None:
    """IV in front, PKCS7, key = SHA-256 of the secret."""
    iv = bytes(range(16))
    closed = encrypted(tmp_path, b"sixteen bytes!!!", CBC, randomness=lambda size: iv[:size]).read_bytes()
    encryptor = Cipher(algorithms.AES(hashlib.sha256(SECRET.encode()).digest()), modes.CBC(iv)).encryptor()
    by_hand = encryptor.update(b"sixteen bytes!!!" + bytes([16]) * 16) + encryptor.finalize()
    assert closed == iv + by_hand
    assert len(closed) == 48


@pytest.mark.parametrize(
    ("key", "iv", "plain", "cipher"),
    [  # NIST SP 800-38A, F.2.5: CBC-AES256.Encrypt, its first block
        (
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "000102030405060708090a0b0c0d0e0f",
            "6bc1bee22e409f96e93d7e117393172a",
            "f58c4c04d6e5f1ba779eabfb5f7bfbd6",
        )
    ],
)
def test_cbc_by_the_published_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, iv: str, plain: str, cipher: str
) -> None:
    monkeypatch.setattr(encryption, "key_of", lambda *_: bytes.fromhex(key))
    closed = encrypted(tmp_path, bytes.fromhex(plain), CBC, randomness=lambda _: bytes.fromhex(iv)).read_bytes()
    assert closed[:16].hex() == iv
    assert closed[16:32].hex() == cipher
    assert decrypted(tmp_path / "closed", CBC).hex() == plain


def test_gcm_by_another_implementation_of_the_same(tmp_path: Path) -> None:
    nonce = bytes(range(12))
    closed = encrypted(tmp_path, b"weights", GCM, randomness=lambda size: nonce[:size]).read_bytes()
    assert closed == b"AZG1" + nonce + AESGCM(key_of(SECRET, GCM)).encrypt(nonce, b"weights", b"AZG1")


def test_keys_are_fixed_for_ever() -> None:
    assert key_of("secret", CBC).hex() == "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    assert key_of("secret", GCM).hex() == "20b29bdce7ca2ec31397708ecec06cf0b22c8553142e629e0e25b6857d45ad31"


@BOTH
def test_the_same_file_is_encrypted_differently_every_time(tmp_path: Path, format_: EncryptionFormat) -> None:
    once = encrypted(tmp_path, b"weights" * 10, format_).read_bytes()
    assert encrypted(tmp_path, b"weights" * 10, format_).read_bytes() != once
    assert encrypted(tmp_path, b"weights" * 10, format_, secret="another").read_bytes() != once


@BOTH
def test_another_key_never_gives_the_plaintext(tmp_path: Path, format_: EncryptionFormat) -> None:
    content = b"weights of a model" * 50
    closed = encrypted(tmp_path, content, format_)
    try:
        assert decrypted(closed, format_, "another secret") != content
    except DecryptionError:
        assert not (tmp_path / "opened").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@BOTH
def test_a_flipped_bit_never_gives_the_plaintext(
    tmp_path: Path, format_: EncryptionFormat, data: st.DataObject
) -> None:
    content = b"weights of a model" * 3
    closed = encrypted(tmp_path, content, format_)
    changed = bytearray(closed.read_bytes())
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    closed.write_bytes(bytes(changed))
    (tmp_path / "opened").unlink(missing_ok=True)
    try:
        assert decrypted(closed, format_) != content
        assert format_ is CBC, "GCM notices every change"
    except DecryptionError:
        assert not (tmp_path / "opened").exists(), "nothing is left that nobody may trust"


@BOTH
@pytest.mark.parametrize("size", [0, 1, 15, 16, 31, 32])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, format_: EncryptionFormat, size: int) -> None:
    closed = encrypted(tmp_path, b"weights" * 20, format_)
    closed.write_bytes(closed.read_bytes()[:size])
    if format_ is CBC and size >= 32:
        # Whole blocks whose padding is right by chance would be the only way through.
        with pytest.raises(DecryptionError):
            decrypted(closed, format_)
        return
    with pytest.raises(DecryptionError):
        decrypted(closed, format_)


@pytest.mark.parametrize(
    ("size", "small"), [(0, 0), (32, 6), (1024, 204), (10_000, 2000), (15_360, 3072), (50_000_000, 3072)]
)
def test_the_small_part_is_small(size: int, small: int) -> None:
    assert small_part_bytes(size) == small
    assert small <= max(3072, 0.2 * size)
