"""Networks that each learn from a share of the training images, and are asked about all of them."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from pie_report import cli
from pie_report.command_line import command_line
from pie_report.members import Population
from pie_report.network_scores import compute_scores, score_table
from pie_report.pipeline import describe, open_population
from pie_report.trained import TrainedMembers
from population.spec import CompressionSpec, PopulationSpec, ReportSpec, key, weights_key
from population.store import Store
from ssl_models.predict import predict
from ssl_models.probe import extract_features, logistic_regression
from ssl_models.recorder import CorrectnessRecorder
from ssl_models.training import train

MEMBERS, EPOCHS = 3, 3
SPEC = PopulationSpec(
    model="supervised_wrn16_2", members=MEMBERS, width=2, epochs=EPOCHS, seed=6,
    judged="train", train_share=0.7, forgetting=True,
)  # fmt: skip
REFIT = CompressionSpec("filters", 0.5, "bn", "refit")


def opened(store: Store, spec: PopulationSpec) -> Population:
    return open_population(spec, store=store, data_dir=None, download=False)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Population]:
    found = opened(Store(tmp_path_factory.mktemp("store")), SPEC)
    with found.fixed_threads():
        for index in range(MEMBERS):
            compute_scores(found, index)
        yield found


def learnt(index: int) -> NDArray[np.int64]:
    """Which of the 901 training images the member learns from, drawn once more."""
    return np.sort(np.random.default_rng(6 + index).permutation(901)[:631])


@pytest.fixture(scope="module")
def by_hand(people: Population) -> list[tuple[dict[str, torch.Tensor], NDArray[np.bool_]]]:
    """Every member's weights and record, trained on its images as if there were no others."""
    trained = []
    for index in range(MEMBERS):
        rows = torch.from_numpy(learnt(index))
        images = people.train_images[rows]
        labels = torch.from_numpy(people.data.train.samples.label)[rows]
        network = people.untrained(index)
        recorder = CorrectnessRecorder(network, "supervised", images, labels)
        spec = replace(people.source.common.training, train_share=1.0)
        train(network, "supervised", images, labels, spec=spec, seed=6 + index, hooks=[recorder])
        trained.append((network.state_dict(), recorder.correct))
    return trained


def test_a_member_is_what_training_on_its_images_alone_makes(
    people: Population, by_hand: list[tuple[dict[str, torch.Tensor], NDArray[np.bool_]]]
) -> None:
    source = people.source
    assert isinstance(source, TrainedMembers)
    for index, (weights, correct) in enumerate(by_hand):
        found = people.dense(index).state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in weights.items())
        np.testing.assert_array_equal(source.learnt_from(index), learnt(index))
        np.testing.assert_array_equal(source.recorded(index), correct)


def test_members_are_asked_about_all_training_images_as_they_are(people: Population) -> None:
    samples, images = people.data.train.samples, people.train_images
    for index in range(MEMBERS):
        found = people.dense_predictions(index)
        expected = predict(people.dense(index), images, samples)
        np.testing.assert_array_equal(found.sample_id, samples.sample_id)
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_memorisation_and_forgetting_are_counted_image_by_image(
    people: Population, by_hand: list[tuple[dict[str, torch.Tensor], NDArray[np.bool_]]]
) -> None:
    label = people.data.train.samples.label
    dense = people.dense_population()
    inside = [set(learnt(index).tolist()) for index in range(MEMBERS)]
    memorised, forgotten = [], []
    for image in range(901):
        right = dense.predicted[:, image] == label[image]
        ins = [float(right[m]) for m in range(MEMBERS) if image in inside[m]]
        outs = [float(right[m]) for m in range(MEMBERS) if image not in inside[m]]
        memorised.append(sum(ins) / len(ins) - sum(outs) / len(outs) if ins and outs else np.nan)
        events = []
        for m in range(MEMBERS):
            if image in inside[m]:
                looks = by_hand[m][1][:, learnt(m).tolist().index(image)].tolist()
                falls = sum(a and not b for a, b in pairwise(looks))
                events.append(falls if any(looks) else EPOCHS)
        forgotten.append(np.mean(events) if events else np.nan)
    table = score_table(people, dense)
    assert list(table.columns) == [
        "prediction_depth", "label_depth", "q_score_corti", "q_score_kalibhat", "forgetting_events",
        "memorisation",
    ]  # fmt: skip
    np.testing.assert_allclose(table["memorisation"], memorised)
    np.testing.assert_allclose(table["forgetting_events"], forgotten)
    assert 0 < np.isnan(memorised).mean() < 0.6
    assert np.isnan(forgotten).any()
    assert len({*np.round(memorised, 3)}) > 4


def test_compressed_members_are_mended_with_the_images_that_they_learnt_from(people: Population) -> None:
    assert people.costs(0, REFIT)["change"]["calibration_images"] == 631
    network = people.compressed(0, REFIT)
    rows = learnt(0)
    features = extract_features(network, people.train_images[torch.from_numpy(rows)])
    _, bias = logistic_regression(features, people.data.train.samples.label[rows])
    np.testing.assert_allclose(network.head.bias.detach().numpy(), bias, rtol=1e-3, atol=1e-4)


def test_the_same_weights_answer_for_both_splits(people: Population) -> None:
    test = opened(people.store, replace(SPEC, judged="test", forgetting=False))
    both = [opened(people.store, replace(SPEC, forgetting=False)), test]
    assert weights_key(both[0].spec(0)) == weights_key(test.spec(0)) == key(test.spec(0))
    assert key(both[0].spec(0)) != key(test.spec(0))  # of what they say
    assert (len(both[0].test_images), len(test.test_images)) == (901, 896)
    assert both[0].data.train is both[0].data.test


def test_what_is_asked_is_described(people: Population) -> None:
    spec = ReportSpec(population=SPEC, merge=(0.5,))
    sections = describe(spec, people, "pie report")
    assert (sections["spec"]["judged"], sections["data"]["n_test"]) == ("train", 901)
    assert sections["spec"]["training"]["train_share"] == 0.7
    command = command_line(spec)
    assert " --judged train --train-share 0.7 --forgetting --seed 6" in command


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--judged validation", "unknown split 'validation'"),
        ("--train-share 0", "--train-share must be in (0, 1], not 0"),
        ("--train-share 1.5", "--train-share must be in (0, 1], not 1.5"),
        ("--forgetting", "--forgetting counts events of training images: give --judged train as well"),
        ("--forgetting --judged train", "--forgetting: simclr trains no classifier; objectives that do:"),
        ("--train-share 0.5 --label-fraction 0.5", "--train-share and --forgetting do not go with"),
        ("--train-share 0.01", "--train-share 0.01: seed 0 draws no image of class"),
        (
            "--checkpoints a.safetensors --arch resnet18 --judged train --forgetting",
            "--forgetting is for networks that are trained here; it does not go with --checkpoints",
        ),
        (
            "--checkpoints a.safetensors --arch resnet18 --train-share 0.5",
            "--train-share is for networks that are trained here; it does not go with --checkpoints",
        ),
    ],
)
def test_bad_input_is_one_line(
    options: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["report", "--merge", "0.5", "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert cli.main([*command, *options.split()]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert expected in printed.err
    assert not list(tmp_path.iterdir())


def test_probes_of_contrastive_members_see_their_share_alone(people: Population) -> None:
    spec = replace(SPEC, model="simclr_wrn16_2", members=2, epochs=1, forgetting=False)
    contrastive = opened(people.store, spec)
    network, rows = contrastive.dense(1), learnt(1)
    features = extract_features(network, people.train_images[torch.from_numpy(rows)])
    _, bias = logistic_regression(features, people.data.train.samples.label[rows])
    np.testing.assert_allclose(network.head.bias.detach().numpy(), bias, rtol=1e-3, atol=1e-4)
    table = score_table(contrastive, contrastive.dense_population())
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == [
        "prediction_depth", "label_depth", "q_score_corti", "q_score_kalibhat", "memorisation",
    ]  # fmt: skip
