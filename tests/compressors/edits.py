"""Edits of networks made by hand: copies planted in them, and what a merge of them should compute."""

import numpy as np
import torch
from torch import nn


def plant_copies(model, groups, *, share=0.5, seed=0):
    """Makes a random half of each group's channels copies of the other half.

    The columns that read a channel are divided between it and its copy, so that their sum is kept.

    Returns:
        Per group the copy's number for each channel that has one, as pairs (original, copy).
    """
    state, generator, pairs = model.state_dict(), torch.Generator().manual_seed(seed), {}
    for group in groups:
        order = torch.randperm(group.size, generator=generator)
        half = group.size // 2
        for original, copy in zip(order[:half].tolist(), order[half:].tolist(), strict=True):
            pairs.setdefault(group.name, []).append((original, copy))
            for layer in group.producers:
                for name in (f"{layer}.weight", f"{layer}.bias"):
                    if name in state:
                        state[name][copy] = state[name][original]
            for layer, start in group.norms:
                for name in ("weight", "bias", "running_mean", "running_var"):
                    state[f"{layer}.{name}"][start + copy] = state[f"{layer}.{name}"][start + original]
            for layer, start, often in group.readers:
                weight = state[f"{layer}.weight"]
                for j in range(often):
                    a, b = start + original * often + j, start + copy * often + j
                    weight[:, b] = weight[:, a] * (1 - share)
                    weight[:, a] *= share
    return pairs


def simulate(model, groups, clusters):
    """Hooks on the dense network that do what merging and removing channels should do.

    Outputs of layers become means over clusters, norms use mean parameters, and readers see zeros
    where a channel is removed.

    Returns:
        The hooks' handles.
    """
    handles, norms = [], {}
    for group in groups:
        labels = torch.as_tensor(clusters[group.name])
        same = (labels[:, None] == labels[None, :]).to(next(model.parameters()))
        mean = same / same.sum(1, keepdim=True)

        def average(module, _, out, mean=mean):
            axis = -1 if isinstance(module, nn.Linear) else 1
            return torch.movedim(torch.movedim(out, axis, -1) @ mean.T, -1, axis)

        handles += [model.get_submodule(p).register_forward_hook(average) for p in group.producers]
        for layer, start in group.norms:
            module = model.get_submodule(layer)
            names = ("weight", "bias", "running_mean", "running_var")
            values = norms.setdefault(layer, {n: getattr(module, n).detach().clone() for n in names})
            for value in values.values():
                value[start : start + group.size] = mean @ value[start : start + group.size]
        removed = torch.nonzero(labels < 0).flatten()
        for layer, start, often in group.readers:
            positions = (start + removed[:, None] * often + torch.arange(often)).flatten()

            def blank(module, inputs, positions=positions):
                axis = -1 if isinstance(module, nn.Linear) else 1
                return inputs[0].index_fill(axis, positions, 0)

            handles.append(model.get_submodule(layer).register_forward_pre_hook(blank))
    for layer, values in norms.items():

        def normalise(module, inputs, _, values=values):
            shape = [1, -1] + [1] * (inputs[0].dim() - 2)
            v = {name: value.reshape(shape) for name, value in values.items()}
            standard = (inputs[0] - v["running_mean"]) / torch.sqrt(v["running_var"] + module.eps)
            return v["weight"] * standard + v["bias"]

        handles.append(model.get_submodule(layer).register_forward_hook(normalise))
    return handles


def draw_clusters(groups, *, seed, kept=None):
    """Clusters for any groups, each within one block of its group's channels.

    Without ``kept`` they are unequal, of random number (one for all blocks of a size), and some channels
    are removed. With it they are of nearly equal size, and ``max(1, round(n kept))`` channels stay.
    """
    rng, clusters = np.random.default_rng(seed), {}
    for group in groups:
        labels, numbers = np.arange(group.size), {}
        for block in np.unique(group.blocks[group.blocks >= 0]):
            channels = rng.permutation(np.flatnonzero(group.blocks == block))
            n = len(channels)
            if kept is None:
                k = numbers.setdefault(n, int(rng.integers(max(1, n // 3), max(2, n))))
                chosen = np.append(np.arange(k), rng.integers(-1, k, n - k))
            else:
                chosen = np.arange(n) % max(1, round(n * kept))
            labels[channels] = np.where(chosen < 0, -1, channels[chosen])
        clusters[group.name] = labels
    return clusters


def plant_clusters(model, groups, clusters):
    """Makes the channels of a cluster copies of its first one, and the columns that read them equal."""
    for group in groups:
        for piece in group.slices:
            view, index = _rows(model.state_dict()[piece.tensor], piece)
            rows = view[index]
            for members in _members(piece, clusters[group.name]).values():
                rows[members] = rows[members[0]].clone()
            view[index] = rows


def simulate_clusters(model, groups, clusters):
    """Turns a dense network into one of the same shapes that computes what a merge of it should compute.

    What makes a channel becomes the mean over its cluster, in every channel of the cluster. What reads
    channels stays, except that removed ones are read with weights of zero.
    """
    for group in groups:
        for piece in group.slices:
            view, index = _rows(model.state_dict()[piece.tensor], piece)
            rows = view[index]
            for (cluster, _), members in _members(piece, clusters[group.name]).items():
                if piece.role == "out" and cluster >= 0:
                    rows[members] = rows[members].mean(0)
                elif piece.role == "in" and cluster < 0:
                    rows[members] = 0
            view[index] = rows


def _rows(tensor, piece):
    """A view of a tensor, and the index into it that gives one row per position of a slice."""
    positions = torch.from_numpy(piece.positions)
    if piece.conv_groups == 1:
        return tensor.movedim(piece.axis, 0), (positions,)
    # Group j of a convolution has the j-th part of the rows, and columns of its own.
    view = tensor.unflatten(0, (piece.conv_groups, -1)).movedim(2, 1)
    return view, (positions // view.shape[1], positions % view.shape[1])


def _members(piece, clusters):
    """Rows of a slice that meet: the first appearances of a cluster's channels, the second ones, ..."""
    seen, members = {}, {}
    for row, channel in enumerate(piece.channels.tolist()):
        seen[channel] = seen.get(channel, 0) + 1
        members.setdefault((int(clusters[channel]), seen[channel]), []).append(row)
    return members
