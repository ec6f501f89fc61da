"""A real Slurm of two small nodes on this machine, with its own configuration, state, keys and ports."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun", "scontrol", "scancel")
#: Where they are; daemons are not on everyone's path.
PATH = f"{os.environ['PATH']}:/usr/sbin"
#: Partitions, each with a node of its own.
PARTITIONS = ("main", "frail")
#: Longest time in seconds that the cluster is waited for.
PATIENCE = 120

#: More processors than there are: what runs on them rests most of the time. A job that was queued again waits
#: for the end of its credential, for two minutes unless told otherwise.
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
SlurmdTimeout=10
EnforcePartLimits=ALL
SchedulerParameters=bf_interval=2,sched_interval=2
SlurmdParameters=config_overrides
"""
NODE = """
NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 RealMemory=1000
PartitionName={name} Nodes={name} MaxTime=60 Default={default}
"""


def why_not() -> str | None:
    """Why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "only root can start a cluster"
    absent = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class Cluster:
    """Starts when entered, and is ended with all that it started on the way out."""

    def __enter__(self) -> "Cluster":
        # Sockets have short paths.
        self.folder = Path(tempfile.mkdtemp(prefix="pie-slurm-", dir="/tmp"))
        self.folder.chmod(0o755)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if "slurmctld" in self._processes:
            with suppress(AssertionError, subprocess.CalledProcessError):
                self.ask("scancel", "--user=root")
                self.wait_until(lambda: not self.ask("squeue", "--noheader"), "jobs do not end")
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder)

    def _start(self) -> None:
        host = socket.gethostname().partition(".")[0]
        controller, *ports = free_ports(1 + len(PARTITIONS))
        text = CONFIGURATION.format(host=host, folder=self.folder, controller=controller)
        for name, port in zip(PARTITIONS, ports, strict=True):
            default = "YES" if name == PARTITIONS[0] else "NO"
            text += NODE.format(name=name, host=host, port=port, default=default)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._begin(
            "munged",
            *("--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket"),
            *(f"--{name}-file={self.folder}/munge.{name}" for name in ("pid", "log", "seed")),
        )
        self.wait_until((self.folder / "munge.socket").exists, "munged does not start")
        self._begin("slurmctld", "-D")
        for name in PARTITIONS:
            self.start_node(name)
        for name in PARTITIONS:
            self.wait_for_node(name, "idle")

    def start_node(self, name: str) -> None:
        """Starts a node, for the first time or after its end."""
        self._begin("slurmd", "-D", "-N", name, called=f"slurmd-{name}")

    def kill_node(self, name: str) -> None:
        """Ends a node's daemons as a loss of power would; what jobs started on it goes on, unlike there."""
        self._processes[f"slurmd-{name}"].kill()
        self._processes[f"slurmd-{name}"].wait()
        jobs = self.ask("squeue", "--noheader", f"--nodelist={name}", "--format=%A").split()
        stewards = {f"slurmstepd: [{job}." for job in jobs}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command, environment = ((folder / part).read_bytes() for part in ("cmdline", "environ"))
                if str(self.folder).encode() in environment and command.decode().startswith(tuple(stewards)):
                    os.kill(int(folder.name), signal.SIGKILL)

    def wait_for_node(self, name: str, state: str) -> None:
        """Waits until Slurm says that a node is in a state."""
        command = "sinfo", "--noheader", f"--nodes={name}", "--format=%T"
        self.wait_until(lambda: self.ask(*command).startswith(state), f"node {name} does not become {state}")

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=PATIENCE
        )
        return done.stdout.strip()

    def wait_until(self, happened: Callable[[], object], complaint: str) -> None:
        """Waits for something; if it does not come, the logs are in the complaint."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(subprocess.CalledProcessError):  # it does not listen yet
                if happened():
                    return
            dead = [name for name, process in self._processes.items() if process.poll() not in (None, -9)]
            if dead or time.monotonic() > deadline:
                logs = (f"{p}:\n{p.read_text(errors='replace')[-3000:]}" for p in self.folder.glob("*.log"))
                raise AssertionError("\n".join([complaint, f"ended: {dead}" if dead else "", *logs]))
            time.sleep(0.2)

    def _begin(self, program: str, *options: str, called: str | None = None) -> None:
        name = called or program
        with (self.folder / f"{name}-printed.log").open("ab") as printed:
            self._processes[name] = subprocess.Popen(
                [shutil.which(program, path=PATH) or program, *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
