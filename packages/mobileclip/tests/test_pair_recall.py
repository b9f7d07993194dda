"""Recall of pairs against a loop over them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mobileclip.pair_recall import PairRecallMetric
from tenfold.zero_shot import recall_at_k


def rows(seed: int, count: int) -> Tensor:
    return F.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)


def measured(image: Tensor, text: Tensor, tokens: Tensor, size: int):
    metric = PairRecallMetric()
    for part in zip(image.split(size), text.split(size), tokens.split(size), strict=True):
        metric.update(*part)
    return metric.compute()


def naive(image: Tensor, text: Tensor, captions: list[int]) -> tuple[float, float]:
    count = len(captions)
    scores = (image @ text.T).tolist()
    by_image = [max(range(count), key=lambda t, i=i: scores[i][t]) for i in range(count)]
    by_text = [max(range(count), key=lambda i, t=t: scores[i][t]) for t in range(count)]
    different = sorted(set(captions))
    firsts = [captions.index(caption) for caption in different]
    return (
        sum(captions[t] == captions[i] for i, t in enumerate(by_image)) / count,
        sum(captions[by_text[t]] == captions[t] for t in firsts) / len(firsts),
    )


@pytest.mark.parametrize("size", [2, 24])
def test_pairs_with_one_caption_are_right_for_each_other(size: int) -> None:
    captions = [0, 1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8] * 2
    tokens = torch.tensor(captions).unsqueeze(1).expand(-1, 5).contiguous()
    text = rows(1, 9)[captions]
    image = F.normalize(text + 0.9 * rows(0, len(captions)), dim=-1)
    recall = measured(image, text, tokens, size)
    assert tuple(recall) == pytest.approx(naive(image, text, captions))
    assert 0.1 < recall.image_to_text < 0.9
    assert recall.image_to_text != recall.text_to_image


def test_without_repeated_captions_it_is_recall_at_one() -> None:
    image, text = rows(0, 20), F.normalize(rows(0, 20) + rows(1, 20), dim=-1)
    expected = recall_at_k(image, text, torch.arange(20), ks=(1,))
    recall = measured(image, text, torch.arange(20).unsqueeze(1), 7)
    assert recall.image_to_text == expected.image_to_text[1]
    assert recall.text_to_image == expected.text_to_image[1]
    assert 0.1 < recall.image_to_text < 1


def test_collapsed_embeddings_score_nothing() -> None:
    same = torch.ones(8, 3) / 3**0.5
    assert measured(same, same, torch.arange(8).unsqueeze(1), 8) == (0, 0)
