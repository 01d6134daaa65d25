"""The demo's English."""

from __future__ import annotations

import numpy as np

from sdst.demo.scenes import ACTIONS, COLOURS, SHAPES, Look
from sdst.demo.sentences import Description, Seen, caption, describe, query, with_article


def test_a_query_has_many_paraphrases() -> None:
    rng = np.random.default_rng(0)
    asked = {query(Description("small", "red", "ball"), "left", rng) for _ in range(300)}
    assert len(asked) > 100


def test_a_description_matches_what_it_leaves_open() -> None:
    look = Look("small", "red", "ball")
    assert Description(None, "red", None).matches(look)
    assert not Description("large", "red", None).matches(look)


def test_size_is_not_named_where_it_changes() -> None:
    rng = np.random.default_rng(0)
    look = Look("small", "red", "ball")
    assert all(describe(look, "grow", rng).size is None for _ in range(50))


def test_articles_fit_the_word_that_follows() -> None:
    assert with_article("orange ball") == "an orange ball"
    assert with_article("red ball") == "a red ball"


def test_sentences_have_no_stray_spaces() -> None:
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        for action in ACTIONS:
            sentence = query(Description(None, "blue", shape), action, rng)
            assert sentence == " ".join(sentence.split())
            assert " ." not in sentence


def test_a_caption_names_the_side_an_object_is_on() -> None:
    rng = np.random.default_rng(0)
    thing = Seen(Look("small", "red", "star"), 0.1, 0.5, 0.2, 1.0, 1.0)
    assert all("right" not in caption([thing], rng) for _ in range(50))


def test_no_two_attributes_share_a_word() -> None:
    rng = np.random.default_rng(0)
    for colour in COLOURS:
        words = set(query(Description(None, colour, "star"), "left", rng).lower().split())
        others = set(COLOURS) - {colour}
        assert not words & others
