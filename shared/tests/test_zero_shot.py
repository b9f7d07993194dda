import math

import pytest
import torch
import torch.nn.functional as F

from tenfold.zero_shot import class_embeddings, classify, recall_at_k, top_k_accuracy


def rows(seed: int, n: int, d: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def letter_counts(texts: list[str]) -> torch.Tensor:
    """Encode a text by how often it holds each of a few letters."""
    return torch.tensor([[text.count(c) for c in "aeiot"] for text in texts], dtype=torch.float64)


def test_class_embeddings_average_unit_prompts():
    names, templates = ["cat", "stone"], ["a {} in tea", "{}", lambda name: f"one {name}"]
    embeddings = class_embeddings(letter_counts, names, templates)
    for embedding, texts in zip(
        embeddings.tolist(),
        (["a cat in tea", "cat", "one cat"], ["a stone in tea", "stone", "one stone"]),
        strict=True,
    ):
        units = []
        for counts in letter_counts(texts).tolist():
            length = math.sqrt(sum(value**2 for value in counts))
            units.append([value / length for value in counts])
        mean = [sum(column) / 3 for column in zip(*units, strict=True)]
        length = math.sqrt(sum(value**2 for value in mean))
        assert embedding == pytest.approx([value / length for value in mean], rel=1e-12)


def test_class_embeddings_hold_no_graph_and_keep_braces_in_names():
    layer = torch.nn.Linear(5, 3)
    seen = []

    def encode(texts):
        seen.extend(texts)
        return layer(letter_counts(texts).float())

    embeddings = class_embeddings(encode, ["{odd}"], ["a {}"])
    assert seen == ["a {odd}"]
    assert not embeddings.requires_grad


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], ["a {}"], "at least one class and one template, got 0 and 1"),
        (["cat"], [], "at least one class and one template, got 1 and 0"),
        (["cat"], ["a photo"], "template 'a photo' has no {} where the class name goes"),
    ],
)
def test_bad_prompts_are_refused(names, templates, message):
    with pytest.raises(ValueError, match=message):
        class_embeddings(letter_counts, names, templates)


def test_logits_are_scaled_cosines_of_any_length():
    image, classes = rows(0, 3), rows(1, 5)
    logits = classify(image, classes, scale=10.0)
    for i in range(3):
        for c in range(5):
            cosine = F.cosine_similarity(image[i], classes[c], dim=0)
            assert logits[i, c].item() == pytest.approx(10 * cosine.item(), rel=1e-12)
    torch.testing.assert_close(classify(7 * image, classes / 3, scale=10.0), logits)
    assert classify(image.half(), classes.half(), scale=10.0).dtype == torch.float32


@pytest.mark.parametrize("k", [1, 2, 6])
def test_top_k_accuracy_equals_sorting(k):
    logits, labels = rows(0, 40, 6), torch.arange(40) % 6
    hits = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        hits += label in sorted(range(6), key=row.__getitem__, reverse=True)[:k]
    assert hits > 0
    assert top_k_accuracy(logits, labels, k=k).item() == pytest.approx(hits / 40)


def naive_recall(image, text, pairs, k) -> tuple[float, float]:
    scores = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    image_hits = sum(
        any(pairs[j] == i for j in row.argsort(descending=True)[:k].tolist())
        for i, row in enumerate(scores)
    )
    text_hits = sum(
        pairs[j] in column.argsort(descending=True)[:k].tolist()
        for j, column in enumerate(scores.T)
    )
    return image_hits / len(image), text_hits / len(text)


@pytest.mark.parametrize("max_scores", [1, 100, 1 << 24])
def test_recall_equals_sorting_with_several_texts_an_image(max_scores):
    pairs = torch.tensor([i for i in range(12) for _ in range(1 + i % 3)])
    pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))]
    image, noise = rows(0, 12), rows(1, len(pairs))
    text = image[pairs] + noise
    recall = recall_at_k(image, text, pairs, ks=(1, 3, 5), max_scores=max_scores)
    for k in (1, 3, 5):
        expected = naive_recall(image, text, pairs.tolist(), k)
        assert (recall.image_to_text[k], recall.text_to_image[k]) == pytest.approx(expected)
    assert 0 < recall.image_to_text[1] < 1
    assert recall.image_to_text != recall.text_to_image


def test_ties_with_wrong_candidates_are_misses():
    collapsed = torch.ones(6, 4)
    recall = recall_at_k(collapsed, collapsed, torch.arange(6), ks=(1, 5, 6))
    assert recall.image_to_text == recall.text_to_image == {1: 0.0, 5: 0.0, 6: 1.0}
    # Two texts of one image that tie are both right: no miss.
    image = torch.eye(2)
    recall = recall_at_k(image, image[[0, 0, 1]], torch.tensor([0, 0, 1]), ks=(1,))
    assert recall.image_to_text == recall.text_to_image == {1: 1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classify(rows(0, 2), rows(1, 2, 3), scale=1.0), "one width, got shapes"),
        (lambda: top_k_accuracy(rows(0, 2), torch.zeros(2).long(), k=0), r"in 1..4 .*got 0"),
        (lambda: top_k_accuracy(rows(0, 2), torch.zeros(2).long(), k=5), r"in 1..4 .*got 5"),
        (lambda: top_k_accuracy(rows(0, 2), torch.zeros(3).long()), r"need 2 labels, got.*\(3,\)"),
        (lambda: recall_at_k(rows(0, 2), rows(1, 2, 3), torch.arange(2)), "one width"),
        (lambda: recall_at_k(rows(0, 2), rows(1, 3), torch.arange(2)), r"shape \(3,\), got"),
        (lambda: recall_at_k(rows(0, 2), rows(1, 2), torch.ones(2)), "one integer a text"),
        (
            lambda: recall_at_k(rows(0, 2), rows(1, 2), torch.tensor([0, 2])),
            r"must lie in 0..1 \(images\), got 2",
        ),
        (
            lambda: recall_at_k(rows(0, 3), rows(1, 3), torch.tensor([0, 2, 2])),
            "image 1 has no text",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
