import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_stores import small_network, write_small_store
from trained_runs import saved_pretraining

from biofame.cli import APP
from biofame.config import HeadConfig
from biofame.few_shot import few_shot, plan
from biofame.finetune_loop import finetune_once, scratch_network
from biofame.passes import open_source, score_classifier
from tenfold.digests import weights_sha256

HEAD = HeadConfig(outputs=2, mixup=0.0)
CPU = torch.device("cpu")


def test_fine_tuning_learns_and_keeps_the_weights_that_its_score_is_of(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    done = finetune_once(network, store, head=HEAD, steps=60, lr=1e-2, validations=10)
    found = score_classifier(done.classifier, open_source(store), store.rows("val"), device=CPU)
    assert found["macro_f1"] == pytest.approx(done.val_score)
    assert done.val_score > 0.9
    assert done.step % 6 == 0
    assert not done.classifier.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} of the network given has changed"


def test_best_weights_are_not_the_last_ones(tmp_path: Path) -> None:
    # The validation labels are wrong: the longer it is trained, the worse it scores there.
    labels = np.tile(np.repeat([0, 1], 4), 6)
    labels[24:32] = 1 - labels[24:32]
    store = write_small_store(tmp_path, labels=labels)
    done = finetune_once(small_network(), store, head=HEAD, steps=60, lr=1e-2, validations=60)
    longer = finetune_once(small_network(), store, head=HEAD, steps=60, lr=1e-2, validations=1)
    assert done.step < 60
    assert longer.step == 60
    assert done.val_score > longer.val_score


def test_fine_tuning_depends_on_its_seed_alone(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    network = small_network(dropout=0.2)
    head = HeadConfig(outputs=2, mixup=0.2)
    digests = []
    for seed in (0, 0, 1):
        torch.rand(3)  # what ran before must not matter
        done = finetune_once(network, store, head=head, seed=seed, steps=4, labels=6)
        digests.append(weights_sha256(done.classifier))
    assert digests[0] == digests[1] != digests[2]
    state = torch.get_rng_state()
    finetune_once(network, store, head=head, steps=2)
    assert torch.equal(state, torch.get_rng_state())


def test_fine_tuning_takes_channels_that_were_never_seen(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    network = small_network(channels=("eog", "eeg"))
    done = finetune_once(network, store, head=HEAD, steps=2, channels=["acc_y", "eeg"])
    assert done.classifier.network.config.channels == ("acc_y", "eeg")


@pytest.mark.parametrize(
    "head",
    [
        {"task": "regression", "outputs": 1},
        {"task": "multilabel", "outputs": 1},
        {"task": "staging", "outputs": 2, "context": 3},
    ],
)
def test_fine_tuning_of_other_tasks(tmp_path: Path, head: dict[str, Any]) -> None:
    targets = np.tile(np.repeat([0, 1], 4), 6)[:, None].astype(np.float32)
    store = write_small_store(tmp_path, targets=targets)
    done = finetune_once(small_network(), store, head=HeadConfig(**head), steps=40, lr=1e-2)
    if head["task"] == "regression":
        assert done.val_score < 0.45  # a guess of the mean has 0.5
    else:
        assert done.val_score > 0.8


def test_scratch_networks_differ_by_seed_and_suit_the_store(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    config = small_network(channels=("ecg",)).config
    first, again, other = (scratch_network(config, store, seed=seed) for seed in (0, 0, 1))
    assert first.config.channels == store.info.channels
    assert weights_sha256(first) == weights_sha256(again) != weights_sha256(other)


def test_both_arms_at_all_numbers_of_labels() -> None:
    tasks = plan((0.1, 20), seeds=2, has_run=True)
    assert list(tasks) == [
        "pre-trained-0.1-seed0",
        "pre-trained-0.1-seed1",
        "scratch-0.1-seed0",
        "scratch-0.1-seed1",
        "pre-trained-20-seed0",
        "pre-trained-20-seed1",
        "scratch-20-seed0",
        "scratch-20-seed1",
    ]
    assert {each.arm for each in plan((1,), seeds=1, has_run=False).values()} == {"scratch"}
    with pytest.raises(ValueError, match="named once each"):
        plan((0.1, 0.1), seeds=1, has_run=True)


def test_verb_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_store(tmp_path / "store")
    run = saved_pretraining(tmp_path / "x.ckpt", small_network())
    out = tmp_path / "out"
    words = ["few-shot", str(tmp_path / "store"), f"--out={out}", f"--run={run}", "--steps=2"]
    assert APP.main([*words, "--labels", "4", "1", "--seeds=1"]) == 0
    content = json.loads((out / "scores.json").read_text())
    names = [(each["arm"], each["condition"]) for each in content["scored"]]
    assert names == [
        ("pre-trained", "4 labels"),
        ("scratch", "4 labels"),
        ("pre-trained", "all labels"),
        ("scratch", "all labels"),
    ]
    assert (out / "few_shot.png").read_bytes().startswith(b"\x89PNG")
    calls: list[int] = []
    real = finetune_once

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(options["seed"])
        return real(*args, **options)

    monkeypatch.setattr("biofame.training_jobs.finetune_once", counted)
    assert APP.main([*words, "--labels", "4", "1", "--seeds=2"]) == 0
    assert calls == [1, 1, 1, 1]
    again = json.loads((out / "scores.json").read_text())
    assert again["scored"][0] == content["scored"][0]
    assert APP.main([*words[:-1], "--steps=3", "--labels", "4", "--seeds=1"]) == 2


def test_bad_input_is_named_before_training(tmp_path: Path) -> None:
    write_small_store(tmp_path / "store")
    options: dict[str, Any] = {"data": tmp_path / "store", "out": tmp_path / "out"}
    with pytest.raises(ValueError, match="torch sees"):
        few_shot(**options, device="cuda:99")
    with pytest.raises(ValueError, match="seeds must be >= 1"):
        few_shot(**options, seeds=0)
    with pytest.raises(ValueError, match="has no targets"):
        few_shot(**options, task="regression")
    with pytest.raises(ValueError, match="with run it has the run's model"):
        few_shot(**options, run=tmp_path, model=small_network().config)
    assert not (tmp_path / "out").exists()
