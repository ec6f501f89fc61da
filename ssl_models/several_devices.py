"""One network is trained on several devices, a process for each, by the one training loop."""

import atexit
import contextlib
import io
import logging
import os
import signal
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from population.errors import InputError
from population.preemption import NOTICE, notices_held, notices_passed_on
from population.spec import TrainingSpec
from ssl_models.backbones import Classifier
from ssl_models.checkpoint import Checkpoints
from ssl_models.hooks import TrainingHook
from ssl_models.training import DivergedError, train

if TYPE_CHECKING:
    from types import FrameType

    from lightning_fabric import Fabric

#: Variables that say where the processes of a training meet.
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK")

# Every process says in several lines that it is there. Set here, so that it holds in all of them.
for _name in ("distributed", "rank_zero"):
    logging.getLogger(f"lightning_fabric.utilities.{_name}").setLevel(logging.WARNING)


@dataclass(frozen=True, eq=False)
class _Job:
    """What every process is sent.

    Attributes:
        model: to be trained.
        hooks: of the training, which know the model.
        objective: what is trained for.
        images: of the training.
        labels: of the images.
        spec: of the training.
        seed: of the training.
        threads: of the CPU, for a process.
        checkpoints: folder and seconds, or None.
        outcome: file that the first process leaves its outcome in; what a process returns has to fit into a
            pipe, or it waits for ever.
        failure: file for the traceback of the process that fails.
    """

    model: Classifier
    hooks: list[TrainingHook]
    objective: str
    images: Tensor
    labels: Tensor
    spec: TrainingSpec
    seed: int
    threads: int
    checkpoints: tuple[Path, float] | None
    outcome: Path
    failure: Path


def check_batch(size: int, *, devices: int) -> None:
    """Raises InputError if a batch of so many images cannot be divided among devices."""
    if size % devices:
        raise InputError(f"--gpus {devices} cannot divide batches of {size} images: --batch-size")


def train_on_devices(
    model: Classifier,
    objective: str,
    images: Tensor,
    labels: Tensor,
    *,
    spec: TrainingSpec,
    seed: int,
    devices: int,
    hooks: Sequence[TrainingHook] = (),
    checkpoints: Checkpoints | None = None,
) -> list[float]:
    """Trains a model in place, as ``train`` does, with every batch divided among devices.

    Orders, views, losses and BatchNorm are those of the whole batch, so the number of devices changes
    nothing but how sums are rounded.

    Args:
        model: see ``train``; its device is of the kind that is used: GPUs, or the CPU, whose processes have
            as many threads as this one.
        objective: see ``train``.
        images: see ``train``.
        labels: see ``train``.
        spec: see ``train``.
        seed: see ``train``.
        devices: how many, at least 2.
        hooks: see ``train``; picklable. Those in all processes are told, and the first one's are heard.
        checkpoints: see ``train``.

    Returns:
        Mean loss of each epoch.

    Raises:
        DivergedError: see ``train``.
        InputError: if a batch cannot be divided, or there are too few GPUs.
        RuntimeError: if a process fails or is killed.
    """
    from torch.multiprocessing.spawn import ProcessExitedException

    check_batch(min(spec.batch_size, len(images)), devices=devices)
    device = next(model.parameters()).device
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise InputError(f"--gpus {devices}: there are {torch.cuda.device_count()} usable ones here")
    with tempfile.TemporaryDirectory() as folder:
        job = _Job(
            model=model,
            hooks=[*hooks],
            objective=objective,
            images=images,
            labels=labels,
            spec=spec,
            seed=seed,
            threads=torch.get_num_threads(),
            checkpoints=None if checkpoints is None else (checkpoints.folder, checkpoints.seconds),
            outcome=Path(folder) / "outcome.pt",
            failure=Path(folder) / "failure.txt",
        )
        try:
            _launch(job, device.type, devices)
        except ProcessExitedException as error:
            if checkpoints is not None and checkpoints.notice is not None:
                checkpoints.notice.answer()
            if job.failure.exists():
                raise RuntimeError(f"a process failed:\n{job.failure.read_text()}") from error
            raise
        outcome = torch.load(job.outcome, map_location="cpu", weights_only=True)
    if outcome["diverged"] is not None:
        raise DivergedError(outcome["diverged"])
    for hook, state in zip(hooks, outcome["hooks"], strict=True):
        hook.restore(state)
    model.load_state_dict(outcome["weights"])
    model.eval()
    losses: list[float] = outcome["losses"]
    return losses


def _launch(job: _Job, accelerator: str, devices: int) -> None:
    """Runs ``_train`` in a process for each device, and waits for all of them."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    sent = io.BytesIO()
    torch.save(job, sent)
    with _no_rendezvous(), notices_passed_on():
        # Whatever has started this process, be it Slurm, has not started the others.
        alone = LightningEnvironment()
        fabric = Fabric(accelerator=accelerator, devices=devices, strategy="ddp_spawn", plugins=alone)
        # Its types know only functions of no further arguments; it takes no frozen dataclass either.
        fabric.launch(_train, sent.getvalue())  # type: ignore[arg-type]


@contextlib.contextmanager
def _no_rendezvous() -> Iterator[None]:
    """Hides where others may want to meet, and forgets where these do: two jobs can share a node."""
    before = {name: os.environ.pop(name, None) for name in _RENDEZVOUS}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _train(fabric: "Fabric", sent: bytes) -> None:
    """What each process does. It ends at once if it fails, as an orderly end would wait for the others."""
    from lightning_fabric.utilities import distributed

    # So that it ends with its parent, and on request, whatever the parent itself was deaf to.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    # The first process leaves when a notice comes, which takes the others with it.
    signal.signal(NOTICE, _leave if fabric.is_global_zero else signal.SIG_IGN)
    atexit.unregister(distributed._destroy_dist_connection)
    # From train_on_devices. All tensors, those of hooks among them, come to this process's device.
    job: _Job = torch.load(io.BytesIO(sent), map_location=fabric.device, weights_only=False)
    try:
        _train_part(fabric, job)
    except Exception:
        job.failure.write_text(traceback.format_exc())
        os._exit(1)
    fabric.barrier()
    dist.destroy_process_group()  # whose threads abort a process that ends before


def _train_part(fabric: "Fabric", job: _Job) -> None:
    """Trains, and leaves the outcome."""
    torch.set_num_threads(job.threads)
    diverged, losses = None, list[float]()
    with notices_held() as notice:
        try:
            losses = train(
                job.model,
                job.objective,
                job.images,
                job.labels,
                spec=job.spec,
                seed=job.seed,
                hooks=job.hooks,
                checkpoints=None
                if job.checkpoints is None
                else Checkpoints(job.checkpoints[0], seconds=job.checkpoints[1], notice=notice),
                fabric=fabric,
            )
        except DivergedError as error:
            diverged = str(error)
    if fabric.is_global_zero:
        outcome = {
            "weights": job.model.state_dict(),
            "hooks": [dict(hook.state()) for hook in job.hooks],
            "losses": losses,
            "diverged": diverged,
        }
        torch.save(outcome, job.outcome)


def _leave(number: int, frame: "FrameType | None") -> None:
    os._exit(1)
