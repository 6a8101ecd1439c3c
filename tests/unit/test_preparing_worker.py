"""Documents to tokens: what each tokenizer gives, which documents are held out, and what is refused by file and line."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optsweep_tui.errors import OptsweepError
from optsweep_tui.preparing import readers, vocabulary
from optsweep_tui.preparing.worker import Rules, encoded

TEXTS = ["hello world", "", "zwei\nZeilen é", "the cat sat on the mat 42", "hello world"]


def lines(texts: list[str], **more: Any) -> tuple[dict[str, Any], bytes]:
    body = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    return {"kind": "lines", "file": "c.jsonl", "line": 1, "field": "text"} | more, body


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 300 tokens, trained here; it would cut and pad, which preparing must not."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(path))
    return path


def test_bytes_are_those_of_utf8_with_a_zero_behind_each_document() -> None:
    found = encoded(Rules(vocabulary=vocabulary.of_bytes(), held_out=1e-12), *lines(TEXTS))
    expected = b"".join(text.encode() + b"\0" for text in TEXTS if text)
    assert np.frombuffer(found.train, dtype="<u2").astype(np.uint8).tobytes() == expected
    assert (found.documents, found.empty, found.held_out, found.validation) == (5, 1, 0, b"")


def test_characters_are_numbered_by_code_point_and_nothing_separates_documents() -> None:
    words = vocabulary.of_characters(["hey", "yé"])
    assert (words.characters, words.vocab_size, words.end_of_text) == ("ehyé", 4, None)
    found = encoded(Rules(vocabulary=words, held_out=1e-12), *lines(["hey", "yé"]))
    assert np.frombuffer(found.train, dtype="<u2").tolist() == [1, 0, 2, 2, 3]


def test_a_tokenizer_file_gives_every_token_uncut_unpadded_and_its_end_of_text(tokenizer_file: Path) -> None:
    from tokenizers import Tokenizer

    words = vocabulary.of_file(tokenizer_file)
    assert (words.vocab_size, words.end_of_text) == (Tokenizer.from_file(str(tokenizer_file)).get_vocab_size(), 0)
    assert words.sha256 == hashlib.sha256(tokenizer_file.read_bytes()).hexdigest()
    reference = Tokenizer.from_file(str(tokenizer_file))
    reference.no_truncation()
    reference.no_padding()
    expected = [token for text in TEXTS if text for token in [*reference.encode(text).ids, 0]]
    found = encoded(Rules(vocabulary=words, held_out=1e-12), *lines(TEXTS))
    assert np.frombuffer(found.train, dtype="<u2").tolist() == expected


def test_files_of_tiktoken_and_of_gpt2_merge_by_rank(tmp_path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"he", b"ll", b"hell", b" w"]
    ranks = tmp_path / "small.tiktoken"
    ranks.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    words = vocabulary.of_file(ranks)
    assert (words.vocab_size, words.end_of_text) == (261, 260)
    (found,) = vocabulary.encoder(words)(["hello w"])
    assert [tokens[token] for token in found] == [b"hell", b"o", b" w"]
    merges = tmp_path / "vocab.bpe"
    merges.write_text("#version: 0.2\nh e\nl l\nhe ll\nĠ w\n", encoding="utf-8")
    words = vocabulary.of_file(merges)
    (found,) = vocabulary.encoder(words)(["hello w"])
    # GPT-2 numbers the printable bytes first, from "!" on: "o" is the 79th of them.
    assert found.tolist() == [258, ord("o") - ord("!"), 259]


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01garbage", b'{"a": 1}', b"aGk= 7\n", b"[1, 2]", b"#version: 0.2\na b c\n"]
)
def test_what_is_no_tokenizer_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(OptsweepError, match="tokenizer"):
        vocabulary.of_file(path)


def test_documents_are_held_out_by_the_hash_of_their_text_alone() -> None:
    texts = [f"document {number}" for number in range(2000)] * 2
    rules = Rules(vocabulary=vocabulary.of_bytes(), held_out=0.1)
    found = encoded(rules, *lines(texts))
    split = {
        held: set(np.frombuffer(part, dtype="<u2").astype(np.uint8).tobytes().split(b"\0")[:-1])
        for held, part in ((False, found.train), (True, found.validation))
    }
    assert not split[False] & split[True], "no text, however often it occurs, is in both"
    assert split[False] | split[True] == {text.encode() for text in texts}
    expected = {
        text.encode()
        for text in texts
        if int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < 0.1 * 2**64
    }
    assert split[True] == expected
    assert found.held_out == 2 * len(expected) and 140 <= len(expected) <= 260  # 200, standard deviation 13


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"text": "a', "line 8 is not JSON"),
        (b"\xff\xfe", "line 8 is not JSON"),
        (b'{"body": "a", "id": 3}', 'line 8 has no field "text" (it has: body, id)'),
        (b"[1]", 'line 8 has no field "text"'),
        (b'{"text": 7}', 'line 8: field "text" is a int, no text'),
        (b'{"text": null}', "is a NoneType, no text"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: bytes, says: str) -> None:
    header, _ = lines([], line=6)
    body = b'{"text": "good"}\n\n' + line + b"\n"
    with pytest.raises(OptsweepError) as caught:
        encoded(Rules(vocabulary=vocabulary.of_bytes(), held_out=0.1), header, body)
    assert says in str(caught.value) and "c.jsonl" in str(caught.value)


def test_half_a_surrogate_pair_is_replaced_and_a_byte_order_mark_dropped() -> None:
    header, _ = lines([])
    body = b'\xef\xbb\xbf{"text": "a\\ud800b"}\n'
    found = encoded(Rules(vocabulary=vocabulary.of_bytes(), held_out=1e-12), header, body)
    assert np.frombuffer(found.train, dtype="<u2").astype(np.uint8).tobytes().decode() == "a\ufffdb\0"


@given(st.text(alphabet="ab \n\té☃.", min_size=2, max_size=200))
def test_long_texts_are_cut_between_characters_and_nothing_is_lost(text: str) -> None:
    block = text.encode()
    place = readers._cut(block)
    assert 0 < place < len(block) or len(block) < 3
    assert block[:place].decode() + block[place:].decode() == text


@given(st.lists(st.sampled_from(["hello", "world", " ", "\n", "\n\n", "  ", "the cat", ".", "é", "42"]), min_size=30))
def test_a_cut_changes_no_token(parts: list[str]) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"\n\n": 256, b"  ": 257, b"he": 258, b" t": 259}
    import tiktoken

    for words in (vocabulary._GPT2_WORDS, vocabulary._LATER_WORDS):
        encoding = tiktoken.Encoding("small", pat_str=words, mergeable_ranks=ranks, special_tokens={})
        text = "a b\nc" + "".join(parts)
        place = readers._cut(text.encode())
        first, second = text.encode()[:place].decode(), text.encode()[place:].decode()
        assert encoding.encode(first) + encoding.encode(second) == encoding.encode(text)
