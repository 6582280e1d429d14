"""Data-parallel training: the process group that torchrun started, and its collectives.

Every process (rank) takes each step on a part of the batch: gradients are summed over all of them, and decisions are
taken on numbers that all have. Rank 0 alone logs and writes files. torch's DistributedDataParallel is not used: it sums
gradients while backward runs, module by module, where a step here may run in two halves and as one CUDA graph.
"""
import os
import shlex
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from runtime.errors import LostProcess
from runtime.options import before_dashes


class ProcessGroup:
    """The processes that train one model. For a single one, as without torchrun, every method costs nothing."""

    def __init__(self, rank=0, size=1):
        self.rank, self.size = rank, size
        self.exchanges = size > 1

    def share(self, batch_size):
        """Which part of so many streams is this process's -> slice."""
        return slice(batch_size * self.rank // self.size, batch_size * (self.rank + 1) // self.size)

    def seed_rank(self, seed):
        """Let every rank but 0 draw random numbers of its own, now that all have the same weights."""
        if self.rank:
            torch.manual_seed(seed + 1_000_003 * self.rank)

    def all_reduce_sum_(self, tensors):
        """Put in place of each of `tensors`, of one type and on one device, its sum over all processes."""
        if self.exchanges:
            buffer = torch.cat([tensor.flatten() for tensor in tensors])
            self._all_reduce(buffer, dist.ReduceOp.SUM)
            parts = buffer.split([tensor.numel() for tensor in tensors])
            torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors)])

    def all_reduce_sum(self, *numbers):
        """The sum of each number over all processes."""
        return self._combine(numbers, dist.ReduceOp.SUM)

    def all_reduce_max(self, *numbers):
        """The largest of each number over all processes."""
        return self._combine(numbers, dist.ReduceOp.MAX)

    def all_gather(self, thing):
        """A list of what each process gave, on every process."""
        if self.size == 1:
            return [thing]
        things = [None] * self.size
        with _lost_process():
            dist.all_gather_object(things, thing)
        return things

    def leave(self):
        """Wait until all have come to their end, then destroy the group."""
        if self.size > 1:
            with _lost_process():
                dist.barrier()
            dist.destroy_process_group()

    def _combine(self, numbers, operation):
        if self.size == 1:
            return numbers
        numbers = torch.tensor(numbers, dtype=torch.float64)
        self._all_reduce(numbers, operation)
        return tuple(numbers.tolist())

    def _all_reduce(self, tensor, operation):
        with _lost_process():
            dist.all_reduce(tensor, operation)


class _lost_process:
    """The others see a process that has died as a failed collective: one line, and an end."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None and issubclass(kind, RuntimeError) and not issubclass(kind, torch.OutOfMemoryError):
            raise LostProcess("another process of this run has ended or cannot be reached "
                              f"({str(error).splitlines()[0][:120]}); run the same command with --resume auto"
                              ) from None


def init_distributed():
    """Join the processes that torchrun started -> ProcessGroup. Only rank 0 prints from here on."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ProcessGroup()
    if not dist.is_initialized():
        # torch.distributed.nn, which the first optimizer imports, binds the default group to its functions' arguments.
        # Imported after the group exists it would keep Gloo's threads alive past `leave`, into the end of the
        # interpreter, where they can abort the process.
        import torch.distributed.nn  # noqa: F401
        # A dead process is noticed at once, by a closed connection; a slow one, as rank 0 in its test, is no error.
        dist.init_process_group(_backend(), timeout=timedelta(hours=6))
    group = ProcessGroup(dist.get_rank(), size)
    if group.rank:
        sys.stdout = open(os.devnull, "w")
    return group


def single_process_group():
    """A group of this process alone that runs its collectives all the same: to measure what they cost by themselves."""
    dist.init_process_group(_backend(), store=dist.HashStore(), rank=0, world_size=1)
    group = ProcessGroup()
    group.exchanges = True
    return group


def _backend():
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def local_device(device):
    """`device`, or of several GPUs the one for this process."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def resume_command(*changed, resume=True):
    """This process's command line with `--resume auto`, as a shell understands it.

    changed: a flag and another value for it. resume: False leaves --resume out.
    """
    typed, behind = before_dashes(sys.argv)
    words, others = iter(typed), []
    for word in words:
        flag = word.partition("=")[0]
        if (len(flag) > 3 and "--resume".startswith(flag)) or flag in changed[:1]:
            if "=" not in word:
                next(words)
        else:
            others.append(word)
    return shlex.join([*_launcher(), *others, *changed, *(["--resume", "auto"] if resume else []),
                       *behind])


def _launcher():
    """The words before a script's name with which this run was started again."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return [sys.executable]
    nodes = int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"])
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]
    if nodes == 1:
        return [*words, "--standalone"]
    return [*words, "--nnodes", str(nodes), "--node-rank", os.environ["GROUP_RANK"],
            "--master-addr", os.environ["MASTER_ADDR"], "--master-port", os.environ["MASTER_PORT"]]
