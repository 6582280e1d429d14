"""Processes that train one model together, each on some of the columns (torchrun).

All take every step alike: gradients are added up over all columns, decisions are taken on numbers that all have. The
first process (rank 0) alone speaks and writes files.
"""
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from errors import InputError


class Team:
    """The processes. Alone, as without torchrun, all of it costs nothing."""

    def __init__(self, rank=0, size=1):
        self.rank, self.size = rank, size
        self.exchanges = size > 1

    def share(self, columns):
        """Which of so many columns are this process's."""
        return slice(columns * self.rank // self.size, columns * (self.rank + 1) // self.size)

    def part_ways(self, seed):
        """Let every process but the first draw random numbers of its own, now that all have the same weights."""
        if self.rank:
            torch.manual_seed(seed + 1_000_003 * self.rank)

    def add_up(self, tensors):
        """Put in place of each of `tensors`, of one type and on one device, its sum over all processes."""
        if self.exchanges:
            buffer = torch.cat([tensor.flatten() for tensor in tensors])
            self._all_reduce(buffer, dist.ReduceOp.SUM)
            parts = buffer.split([tensor.numel() for tensor in tensors])
            torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors)])

    def total(self, *numbers):
        """The sums of numbers over all processes."""
        return self._combine(numbers, dist.ReduceOp.SUM)

    def agree(self, *numbers):
        """The largest of each number over all processes."""
        return self._combine(numbers, dist.ReduceOp.MAX)

    def gather(self, thing):
        """A list of what each process gave, on every process."""
        if self.size == 1:
            return [thing]
        found = [None] * self.size
        with _losing_contact():
            dist.all_gather_object(found, thing)
        return found

    def leave(self):
        """Wait until all have come to their end, then part."""
        if self.size > 1:
            with _losing_contact():
                dist.barrier()
            dist.destroy_process_group()

    def _combine(self, numbers, operation):
        if self.size == 1:
            return numbers
        numbers = torch.tensor(numbers, dtype=torch.float64)
        self._all_reduce(numbers, operation)
        return tuple(numbers.tolist())

    def _all_reduce(self, tensor, operation):
        with _losing_contact():
            dist.all_reduce(tensor, operation)


class _losing_contact:
    """A process that has died is seen by the others as a failed exchange: one line, and an end."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None and issubclass(kind, RuntimeError) and not issubclass(kind, torch.OutOfMemoryError):
            raise InputError("another process of this run has ended or cannot be reached "
                             f"({str(error).splitlines()[0][:120]}); run the same command with --resume auto") from None


def join():
    """Meet the other processes that torchrun started -> Team. Only the first speaks from here on."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team()
    if not dist.is_initialized():
        # Whoever dies is missed at once, by a closed connection; to wait for a slow one, say in its test, is no error.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                                timeout=timedelta(hours=6))
    team = Team(dist.get_rank(), size)
    if team.rank:
        sys.stdout = open(os.devnull, "w")
    return team


def rehearse():
    """A team of this process alone that exchanges gradients all the same -> Team: to see what that costs by itself."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", store=dist.HashStore(),
                            rank=0, world_size=1)
    team = Team()
    team.exchanges = True
    return team


def local_device(device):
    """`device`, or of several GPUs the one for this process."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def launcher():
    """The words before a script's name with which this run was started again."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return [sys.executable]
    nodes = int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"])
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]
    if nodes == 1:
        return [*words, "--standalone"]
    return [*words, "--nnodes", str(nodes), "--node-rank", os.environ["GROUP_RANK"],
            "--master-addr", os.environ["MASTER_ADDR"], "--master-port", os.environ["MASTER_PORT"]]
