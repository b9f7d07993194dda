import json
import subprocess
import sys

import numpy as np
import pytest

from fastfill.card import ModelCard, Probe, TransformCard, VectorStats, check_same


def model(**changes):
    values = {"name": "old", "dim": 3, "metric": "l2", "weights_sha256": "ab" * 32}
    return ModelCard(**(values | changes))


def transform(**changes):
    values = {
        "old": model(num_classes=4),
        "new": model(name="new", dim=5, weights_sha256="cd" * 32),
        "side": model(name="side", dim=2),
        "inner": 16,
        "old_stats": VectorStats(2.0, 0.5, [0.1, 0.2, 0.3]),
        "probe": Probe([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        "training_data": "pairs",
    }
    return TransformCard(**(values | changes))


@pytest.mark.parametrize("card", [transform(), transform(side=None, probe=None, inner=0)])
def test_a_card_survives_json_as_object_and_as_text(card):
    value = card.to_json()
    assert TransformCard.from_json(value) == card
    assert TransformCard.from_json(json.dumps(value)) == card
    assert isinstance(value["old_stats"]["mean"], list)


def test_a_model_card_survives_json_and_may_lack_what_has_a_default():
    card = model(num_classes=7, normalized=True)
    assert ModelCard.from_json(json.dumps(card.to_json())) == card
    short = {"name": "a", "dim": 2, "metric": "ip", "weights_sha256": "v3"}
    assert ModelCard.from_json(short) == ModelCard("a", 2, "ip", "v3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "l1"}, "metric must be one of l2, cosine, ip, got 'l1'"),
        ({"dim": 0}, "dim must be an integer >= 1, got 0"),
        ({"dim": 3.0}, "dim must be an integer"),
        ({"dim": True}, "dim must be an integer"),
        ({"weights_sha256": " "}, "weights_sha256 must be text"),
        ({"name": 3}, "name must be text, got 3"),
        ({"normalized": 1}, "normalized must be true or false"),
        ({"extra": 1}, "unknown entries: extra"),
    ],
)
def test_a_model_card_with_a_wrong_entry_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ModelCard.from_json(model().to_json() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": "x"}, "a ModelCard is not JSON"),
        ({"old": [1]}, "a ModelCard must be a JSON object"),
        ({"kind": "magic"}, "kind must be one of fastfill"),
        ({"inner": -1}, "inner must be an integer >= 0"),
        ({"training_data": 1}, "training_data must be text"),
        ({"probe": {"old": []}}, "1..16 vectors of one width, got 0"),
        ({"probe": {"old": "abc"}}, "probe must be a list of vectors"),
        ({"probe": {"old": [[1, 2, 3], [1, 2]]}}, "of one width"),
        ({"probe": {"old": [[1, 2]]}}, "probe is 2 wide, but old has 3"),
        ({"probe": {"old": [[1, 2, float("nan")]]}}, "probe must be finite numbers"),
        ({"old_stats": {"mean_norm": 1, "std_norm": 0, "mean": [1]}}, "old_stats is 1 wide"),
        ({"old_stats": {"mean_norm": -1, "std_norm": 0, "mean": [1]}}, "lengths >= 0"),
        ({"old_stats": {"mean_norm": 1, "std_norm": "0", "mean": [1]}}, "finite numbers"),
        ({"old_stats": {"mean_norm": 1}}, "a VectorStats lacks mean, std_norm"),
    ],
)
def test_a_transform_card_with_a_wrong_entry_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TransformCard.from_json(transform().to_json() | change)


def test_the_same_weights_under_another_name_are_the_same_model():
    check_same(model(), model(name="elsewhere"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"name": "other", "weights_sha256": "ef" * 32},
            r"old \(abababababababab\), got other \(efefefefefefefef\)",
        ),
        ({"dim": 4}, "dim of old .* is 3, of old .* it is 4"),
        ({"metric": "cosine"}, "metric of old .* is l2, of old .* it is cosine"),
        ({"normalized": True}, "normalized of old .* is False"),
    ],
)
def test_another_model_is_refused(change, message):
    with pytest.raises(ValueError, match=f"gallery: .*{message}"):
        check_same(model(), model(**change), what="gallery")


def test_cards_do_not_import_torch():
    code = "import sys, fastfill.card; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_numpy_numbers_of_a_card_are_plain_after_json():
    stats = VectorStats(1.0, 0.0, np.ones(3).tolist())
    assert json.loads(json.dumps(transform(old_stats=stats).to_json()))["old_stats"]["mean"] == [
        1.0,
        1.0,
        1.0,
    ]
