import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import Tensor

import pie_report
from figures import thesis
from pie_report import attribution_maps, cli, trained
from pie_report.baselines import baseline_accuracies
from pie_report.label_use import check_label_use, use_labels
from pie_report.members import Population
from pie_report.network_scores import SCORES
from pie_report.pipeline import open_population
from population.errors import InputError
from population.samples import SampleSet
from population.spec import CompressionSpec, LabelSpec, PopulationSpec, key
from population.store import Store
from ssl_models.images import ImageSplit
from ssl_models.labels import labelled_images
from ssl_models.presets import preset
from ssl_models.probe import extract_features, logistic_regression

SCHEMA = json.loads(Path(pie_report.__file__).with_name("report.schema.json").read_text())
TINY = {"members": 2, "epochs": 1, "width": 2, "seed": 3}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Training:
    """What one call of the training loop was given."""

    objective: str
    images: Tensor
    labels: Tensor
    epochs: int
    seed: int
    start: dict[str, Tensor]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """Lists the calls of the training loop; each lasts one epoch, whatever was asked for."""
    calls: list[Training] = []
    train = trained.train

    def one_epoch(
        model: Any, objective: str, images: Tensor, labels: Tensor, *, spec: Any, seed: int, **rest: Any
    ) -> list[float]:
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        calls.append(Training(objective, images, labels, spec.epochs, seed, start))
        return train(model, objective, images, labels, spec=replace(spec, epochs=1), seed=seed, **rest)

    monkeypatch.setattr(trained, "train", one_epoch)
    return calls


def opened(store: Path, model: str, **options: Any) -> Population:
    named = PopulationSpec(f"{model}_r18", **(TINY | options))
    return open_population(named, store=Store(store), data_dir=None, download=False)


# --- what the options mean

LABELS = np.append(np.repeat(np.arange(10), 90), 0)


def settled(model: str, **options: Any) -> tuple[Any, LabelSpec | None]:
    chosen, spec = preset("digits", model), PopulationSpec(f"{model}_r18", seed=5, **options)
    check_label_use(spec)
    return use_labels(spec, chosen.training, chosen.finetuning, LABELS)


def test_without_the_options_and_with_all_labels_nothing_changes() -> None:
    for model in ("simclr", "supervised", "supcon"):
        before = preset("digits", model).training
        assert settled(model) == (before, None)
    assert settled("supervised", label_fraction=1.0) == (preset("digits", "supervised").training, None)
    assert settled("simclr", label_fraction=1.0, evaluation="linear")[1] is None
    assert settled("byol", evaluation="linear")[1] is None


def test_few_labels_do_not_mean_few_steps() -> None:
    # 901 images are 14 steps of 64; 10 images are 1 step, and 90 images are 1 step of 64.
    finetuning = preset("digits", "simclr").finetuning
    assert finetuning.epochs == 12
    for fraction, epochs in ((0.01, 168), (0.1, 168), (0.5, 24), (1.0, 12)):
        training, labels = settled("simclr", label_fraction=fraction)
        assert training == preset("digits", "simclr").training
        draw = 5 if fraction < 1 else 0
        assert labels == LabelSpec(fraction, draw, replace(finetuning, epochs=epochs))
    training, labels = settled("supervised", label_fraction=0.1)
    assert training == replace(preset("digits", "supervised").training, epochs=168)
    assert labels == LabelSpec(0.1, 5)
    assert settled("simclr", evaluation="finetune")[1] == LabelSpec(1.0, 0, finetuning)
    assert settled("simclr", evaluation="linear", label_fraction=0.1)[1] == LabelSpec(0.1, 5)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("supervised", {"evaluation": "finetune"}, "--evaluation is for encoders"),
        ("supervised", {"evaluation": "linear"}, "--evaluation is for encoders"),
        ("supcon", {"label_fraction": 0.1}, "--label-fraction 0.1: supcon_r18 needs the labels of all"),
    ],
)
def test_what_does_not_go_with_an_objective_is_refused(
    model: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        settled(model, **options)
    assert settled("supcon", label_fraction=1.0, evaluation="finetune")[1] is not None


# --- members


def test_finetuning_starts_from_the_stored_member_and_sees_its_labels_alone(
    trainings: list[Training], tmp_path: Path
) -> None:
    ordinary = opened(tmp_path, "simclr").dense(1)
    assert [t.objective for t in trainings] == ["simclr"]
    population = opened(tmp_path, "simclr", label_fraction=0.05)
    network = population.dense(1)
    assert [t.objective for t in trainings] == ["simclr", "supervised"]
    last, split = trainings[-1], population.data.train
    seen = labelled_images(split.samples.label, 0.05, seed=3)
    assert last.images.shape == (len(seen), 1, 16, 16)
    assert torch.equal(last.images, torch.from_numpy(split.images[seen]))
    assert last.labels.tolist() == split.samples.label[seen].tolist()
    assert (last.epochs, last.seed) == (168, 4)
    untrained = population.untrained(1).state_dict()
    for name, tensor in ordinary.state_dict().items():
        # The stored classifier was fitted on all labels; here it must know none.
        expected = untrained[name] if name.startswith("head.") else tensor
        assert torch.equal(last.start[name], expected), name
    assert not torch.equal(network.head.weight, ordinary.head.weight)
    assert not torch.equal(network.encoder.conv1.weight, ordinary.encoder.conv1.weight)
    # Another fraction, and the same again: no pre-training any more.
    opened(tmp_path, "simclr", label_fraction=0.5).dense(1)
    again = opened(tmp_path, "simclr", label_fraction=0.05).dense(1)
    assert [t.objective for t in trainings] == ["simclr", "supervised", "supervised"]
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in network.state_dict().items())


def test_all_members_see_the_same_labels(trainings: list[Training], tmp_path: Path) -> None:
    population = opened(tmp_path, "supervised", label_fraction=0.05)
    for index in range(2):
        population.dense(index)
    assert torch.equal(trainings[0].images, trainings[1].images)
    assert [t.seed for t in trainings] == [3, 4]
    opened(tmp_path, "supervised", label_fraction=0.05, seed=4).dense(0)  # the same seed, other labels
    assert trainings[2].seed == 4
    assert not torch.equal(trainings[1].images, trainings[2].images)


def test_a_probe_on_a_fraction_is_fitted_on_it(trainings: list[Training], tmp_path: Path) -> None:
    ordinary = opened(tmp_path, "byol").dense(0)
    population = opened(tmp_path, "byol", label_fraction=0.1, evaluation="linear")
    network = population.dense(0)
    assert len(trainings) == 1
    encoder = ordinary.encoder.state_dict()
    assert all(torch.equal(encoder[n], t) for n, t in network.encoder.state_dict().items())
    split = population.data.train
    seen = labelled_images(split.samples.label, 0.1, seed=3)
    features = extract_features(ordinary, torch.from_numpy(split.images[seen]))
    weight, bias = logistic_regression(features, split.samples.label[seen])
    np.testing.assert_allclose(network.head.weight.detach().numpy(), weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network.head.bias.detach().numpy(), bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["simclr", "supervised"])
def test_other_labels_change_nothing(
    model: str, trainings: list[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = opened(tmp_path / "a", model, label_fraction=0.1)
    seen = honest.source.labelled
    assert seen is not None
    samples = honest.data.train.samples
    wrong = (samples.label + 1) % 10
    wrong[seen] = samples.label[seen]
    monkeypatch.setattr(trained, "labelled_images", lambda *_, **__: seen)
    split = ImageSplit(honest.data.train.images, SampleSet(samples.sample_id, wrong, samples.class_names))
    data = replace(honest.data, train=split)
    store = Store(tmp_path / "b")
    misled = Population(replace(honest.source, data=data, store=store), data, store)  # type: ignore[type-var]
    refit = CompressionSpec("merge", 0.5, "bn", "refit")
    first, second = (p.compressed_predictions(0, refit).probabilities for p in (honest, misled))
    np.testing.assert_array_equal(first, second)
    before, after = (p.dense_predictions(0).probabilities for p in (honest, misled))
    np.testing.assert_array_equal(before, after)
    assert baseline_accuracies(honest) == baseline_accuracies(misled)
    assert baseline_accuracies(honest)["train_images"] == len(seen)
    for score in (score for score in SCORES if score.applies(honest)):
        first, second = (score.of_member(p, 0) for p in (honest, misled))
        for name in score.columns:
            np.testing.assert_array_equal(first[name], second[name])


def test_a_member_whose_pretraining_diverges_diverges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = trained.train

    def broken(*arguments: Any, spec: Any, **rest: Any) -> list[float]:
        return train(*arguments, spec=replace(spec, learning_rate=1e30), **rest)

    monkeypatch.setattr(trained, "train", broken)
    options = ("--members", "2", "--epochs", "1", "--width", "2", "--workers", "1", "--quiet")
    command = ("train", "--model", "simclr_r18", *options, "--label-fraction", "0.1", "--store")
    assert cli.main([*command, str(tmp_path)]) == 2
    assert "member 0 (seed 0) diverged: its " in capsys.readouterr().err


def test_the_labels_are_in_the_key(tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [
        {}, {"label_fraction": 0.1}, {"label_fraction": 0.2}, {"evaluation": "finetune"},
        {"label_fraction": 0.1, "evaluation": "linear"},
    ]  # fmt: skip
    specs = [opened(tmp_path, "simclr", **o).spec(1) for o in options]
    assert len({key(spec) for spec in specs}) == len(options)
    assert opened(tmp_path, "simclr", evaluation="linear").spec(1) == specs[0]


# --- report


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a report quick."""
    monkeypatch.setattr(attribution_maps, "IMAGES", 2)
    monkeypatch.setattr(thesis, "FIGURES", {})


@pytest.mark.usefixtures("few")
def test_a_report_says_what_was_seen(trainings: list[Training], tmp_path: Path) -> None:
    options = ("--members", "2", "--epochs", "1", "--width", "2", "--workers", "1", "--quiet")
    asked = ("--model", "simclr_r18", "--label-fraction", "0.1", "--merge", "0.5")
    command = ("report", *asked, *options, "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"))
    assert cli.main(command) == 0
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["spec"]["labels"] == {
        "fraction": 0.1, "images": 90, "seed": 0,
        "finetuning": {"epochs": 168, "batch_size": 64, "learning_rate": 5e-4, "weight_decay": 0.0},
    }  # fmt: skip
    assert " --label-fraction 0.1" in document["spec"]["command_line"]
    page = " ".join((tmp_path / "out" / "index.html").read_text().split())
    assert (
        "fine-tuned</dfn>, encoder and classifier together, on 10% of the labels: 90 images, the same" in page
    )
    begun = len(trainings)
    again = document["spec"]["command_line"].split()[1:]
    assert (
        cli.main([*again, *options[6:], "--store", str(tmp_path / "store"), "--out", str(tmp_path / "c")])
        == 0
    )
    assert len(trainings) == begun == 4
    assert (tmp_path / "c" / "report.json").read_bytes() == (tmp_path / "out" / "report.json").read_bytes()
