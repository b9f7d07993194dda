"""Rows of several documents: masks in both bodies, the training step, prepared batches."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dataset_decomposition import llama
from dataset_decomposition.config import LossConfig, ModelConfig
from dataset_decomposition.data import DecompositionData
from dataset_decomposition.module import DecompositionModule, build_decoder, load_decoder
from dataset_decomposition.prepare import prepare
from tenfold.attention import document_mask
from tenfold.bucketing import Bucket

BODIES = {
    "decoder": ModelConfig(vocab_size=257, dim=16, layers=2, heads=2, ffn_dim=24),
    "llama": ModelConfig(
        vocab_size=257, dim=16, layers=2, heads=2, ffn_dim=24, qk_norm=False, body="llama"
    ),
}
# Rows of 12 inputs and one more token; the last document of the first row ends in the target.
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 1 + [2] * 7, [0] * 8 + [1] * 3 + [-1] * 2])
each_body = pytest.mark.parametrize("body", BODIES)


def make_body(body: str) -> nn.Module:
    torch.manual_seed(0)
    return build_decoder(BODIES[body]).double()


def tokens() -> Tensor:
    return torch.randint(257, DOCUMENTS.shape, generator=torch.Generator().manual_seed(1))


def separate_loss(body: nn.Module) -> tuple[Tensor, int]:
    """Sum the loss of each document in a forward pass of its own."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row, documents in zip(tokens(), DOCUMENTS, strict=True):
        for number in range(int(documents.max()) + 1):
            alone = row[documents == number][None]
            if alone.shape[1] > 1:
                logits = body(alone[:, :-1])[0]
                total += nn.functional.cross_entropy(logits, alone[0, 1:], reduction="sum")
                count += alone.shape[1] - 1
    return total, count


@each_body
def test_a_masked_row_equals_its_documents_one_by_one(body: str) -> None:
    model = make_body(body)
    logits = model(tokens()[:, :-1], DOCUMENTS[:, :-1])
    for row, documents in enumerate(DOCUMENTS[:, :-1]):
        for number in range(int(documents.max()) + 1):
            place = documents == number
            alone = model(tokens()[row : row + 1, :-1][:, place])
            torch.testing.assert_close(logits[row, place], alone[0], rtol=1e-5, atol=1e-5)
    unmasked = model(tokens()[:, :-1])
    assert not torch.allclose(logits[0, 5:], unmasked[0, 5:], atol=1e-3)


@each_body
def test_ids_and_their_mask_are_the_same_and_states_give_the_logits(body: str) -> None:
    model, inputs, documents = make_body(body), tokens()[:, :-1], DOCUMENTS[:, :-1]
    logits = model(inputs, document_mask(documents))
    torch.testing.assert_close(model(inputs, documents), logits)
    torch.testing.assert_close(model.head(model(inputs, documents, project=False)), logits)


def module_of(body: str, *, compile: bool = False, **loss: Any) -> DecompositionModule:
    torch.manual_seed(0)
    config = replace(BODIES[body], compile=compile)
    module = DecompositionModule(config, LossConfig(**{"z_loss": 0.0, **loss})).double()
    plan = SimpleNamespace(buckets=[Bucket("D_3", 8, 10), Bucket("D_6", 64, 10)])
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        accumulate_grad_batches=2, datamodule=SimpleNamespace(plan=plan), world_size=1
    )
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update({name: value})  # type: ignore
    return module


def gradients(module: DecompositionModule, *batches: dict[str, Any]) -> dict[str, Tensor]:
    """Accumulate as Lightning does: each micro-batch's loss counts by their number."""
    module.zero_grad()
    for batch in batches:
        (module.training_step(batch, 0) / len(batches)).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


@each_body
@pytest.mark.parametrize("chunk_tokens", [0, 5])
def test_a_training_step_has_the_gradient_of_the_documents_one_by_one(
    body: str, chunk_tokens: int
) -> None:
    module = module_of(body, chunk_tokens=chunk_tokens)
    batch = {"tokens": tokens(), "documents": DOCUMENTS, "keys": []}
    found = gradients(module, batch)
    module.zero_grad()
    total, count = separate_loss(module.decoder)
    assert count == 4 + 6 + 7 + 2
    (total / count).backward()
    assert module.logged["train/loss"].item() == pytest.approx(total.item() / count, rel=1e-5)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_micro_batches_with_unequal_targets_equal_one_batch() -> None:
    module = module_of("decoder", z_loss=0.01)
    whole = {"tokens": tokens(), "documents": DOCUMENTS, "keys": [], "mean_targets": 19.0}
    parts = [
        {
            "tokens": whole["tokens"][n : n + 1],
            "documents": DOCUMENTS[n : n + 1],
            "keys": [],
            "mean_targets": 9.5,
        }
        for n in range(2)
    ]
    one, two = gradients(module, whole), gradients(module, *parts)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-9, atol=1e-12)
    # The mean of the two means is something else: the rows have 10 and 9 targets.
    for part in parts:
        del part["mean_targets"]
    wrong = gradients(module, *parts)
    assert not torch.allclose(wrong["decoder.head.weight"], one["decoder.head.weight"], rtol=1e-6)
    assert module.count_units(whole) == 19
    assert module.count_units(parts[0]) == 12


def test_each_bucket_logs_its_own_loss() -> None:
    module = module_of("decoder")
    for length in (8, 16):
        module.training_step({"tokens": tokens()[:, : length + 1].repeat(1, 2), "keys": []}, 0)
    assert {n for n in module.logged if n.startswith("train/nll_d_")} == {"train/nll_d_4"}
    module.training_step({"tokens": tokens()[:, :9], "keys": []}, 0)
    assert module.logged["train/nll_d_3"] == module.logged["train/loss_nll"]


def test_a_compiled_decoder_takes_new_masks_without_compiling_again() -> None:
    from torch._dynamo.testing import CompileCounter

    model = make_body("decoder")
    expected = [model(tokens()[:, :-1], d[:, :-1]) for d in (DOCUMENTS, DOCUMENTS.flip(0))]
    counter = CompileCounter()
    torch._dynamo.reset()
    model.compile(backend=counter, dynamic=False, fullgraph=True)
    for documents, logits in zip((DOCUMENTS, DOCUMENTS.flip(0)), expected, strict=True):
        found = model(tokens()[:, :-1], document_mask(documents[:, :-1]))
        torch.testing.assert_close(found, logits)
    assert counter.frame_count == 1


def test_each_length_compiles_once_and_held_out_documents_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._dynamo.testing import CompileCounter

    counter, compile_with = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: compile_with(self, backend=counter, **options)
    )
    torch._dynamo.reset()
    # The module raises the limit for the process; this puts it back.
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        module = module_of("decoder", compile=True)
        for length in range(1, 6):
            batch = {
                "tokens": torch.zeros(1, length + 1, dtype=torch.long),
                "lengths": torch.tensor([length]),
                "documents": torch.tensor([0]),
            }
            with torch.no_grad():
                module.predict_step(batch, 0)
        assert counter.frame_count == 0
        lengths = [2**k for k in range(12)]  # more than are compiled by default
        for length in lengths * 2:
            module.training_step({"tokens": torch.zeros(1, length + 1, dtype=torch.long)}, 0)
    assert counter.frame_count == len(lengths)


@pytest.mark.parametrize("method", ["concat_docmask", "bestfit", "dd"])
def test_prepared_batches_bring_their_documents(tmp_path: Path, method: Any) -> None:
    (tmp_path / "text").mkdir()
    for number in range(60):
        (tmp_path / "text" / f"{number:02d}.txt").write_text(chr(97 + number % 26) * (3 + number))
    options = {"min_bucket": 3, "max_bucket": 5, "tail": "pack" if method == "dd" else "drop"}
    prepare([str(tmp_path / "text")], tmp_path / "data", method=method, **options)
    data = DecompositionData(
        tmp_path / "data",
        tokens_per_step=64,
        total_steps=20,
        cycles=1,
        mixture="natural",
        workers=0,
    )
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=0, global_rank=0, world_size=1, accumulate_grad_batches=2
    )
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 40
    module = module_of("decoder")
    for batch in batches:
        masked = method != "dd" or batch["tokens"].shape[1] == 9
        assert ("documents" in batch) == masked == ("mean_targets" in batch)
        if not masked:
            continue
        assert batch["documents"].dtype == torch.int32
        for row, numbers in zip(batch["tokens"], batch["documents"], strict=True):
            for number in range(int(numbers.max()) + 1):
                assert len(set(row[numbers == number].tolist()) - {256}) <= 1
        assert torch.isfinite(module.training_step(batch, 0))
    reader = data.dataset.buckets[min(data.dataset.buckets)]
    share = batches[-1].get("mean_targets", 0) / 32
    bucket = data.dataset.info["buckets"][str(reader.bucket)]
    if share:
        assert share == pytest.approx(bucket["targets"] / bucket["tokens"])
        assert 0.5 < share <= 1


def test_llama_has_the_stated_parameters_and_comes_back_from_a_checkpoint() -> None:
    config = BODIES["llama"]
    module = DecompositionModule(config)
    assert sum(p.numel() for p in module.decoder.parameters()) == config.num_parameters
    checkpoint = {
        "hyper_parameters": dict(module.hparams),
        "state_dict": module.state_dict(),
    }
    loaded = load_decoder(checkpoint)
    assert isinstance(loaded, llama.LlamaDecoder)
    torch.testing.assert_close(loaded(tokens()), module.decoder(tokens()))


def test_llama_with_our_attention_equals_its_own() -> None:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    ours = build_decoder(replace(BODIES["llama"], rope_theta=500.0)).double()
    theirs = LlamaForCausalLM(ours.llama.config).double()
    theirs.load_state_dict(ours.llama.state_dict())
    theirs.set_attn_implementation("eager")
    torch.testing.assert_close(ours(tokens()), theirs(tokens()).logits)
    expected = 500.0 ** -(torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close(ours.llama.model.rotary_emb.inv_freq.float(), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"body": "llama"}, r"model\.body llama has no QK-norm; set model\.qk_norm to false"),
        ({"body": "gpt"}, r"model\.body must be decoder or llama, got 'gpt'"),
    ],
)
def test_impossible_bodies_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)
    with pytest.raises(ValueError, match=r"loss\.chunk_tokens must be >= 0, got -1"):
        LossConfig(chunk_tokens=-1)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"dataset-decomposition\[transformers\]"):
        build_decoder(BODIES["llama"])
