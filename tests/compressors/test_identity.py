import torch

from compressors import keep_dense, recalibrate_batchnorm


def test_without_repair_the_copy_is_the_model(networks):
    model, x, _ = networks.resnet()
    result = keep_dense(model, x, amount=0.5, seed=0)
    assert result.model is not model
    assert torch.equal(result.model(x), model(x))
    assert result.plan.method == "identity"
    assert not result.plan.clusters
    assert not result.plan.masks
    assert not result.plan.tensors
    assert (result.cost.requested, result.cost.achieved) == (0, 0)
    assert result.cost.before == result.cost.after


def test_data_free_repair_has_nothing_to_correct(networks):
    model, x, _ = networks.resnet()
    assert torch.equal(keep_dense(model, x, amount=0, seed=0, repair="data-free").model(x), model(x))


def test_with_bn_it_is_the_recalibrated_model(networks):
    model, x, _ = networks.resnet()
    batches = [torch.rand(5, 1, 8, 8), torch.rand(4, 1, 8, 8)]
    result = keep_dense(model, x, amount=0, seed=0, repair="bn", calibration=batches)
    expected = recalibrate_batchnorm(model, batches)
    assert torch.equal(result.model(x), expected(x))
    assert not torch.equal(result.model(x), model(x))
    assert result.calibration_images == 9
