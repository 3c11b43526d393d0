"""Many processes, one result: who they are, and the few things that they say to each other.

torchrun or a SLURM job starts the same command several times, and each of these processes works on its share
of the rows. What depends on all rows is put together here, so that nobody above counts processes: alone,
every function of `Processes` hands back what it was given and costs nothing.

All processes take the same path: whatever one does here, all the others do as well. Sums have the same bits
everywhere, as every element is added up in one place and handed round. Nobody writes files but the first.
"""

import itertools
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trm.errors import SaidElsewhere, UserError, first_line

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments import ClusterEnvironment

T = TypeVar("T")
R = TypeVar("R")

# The longest that one may keep the others waiting: the first, generating puzzles or writing a checkpoint.
# One that dies is noticed at once.
_PATIENCE = timedelta(hours=2)
# The longest that one waits for the others to come: of one that dies before they have met, nobody is told.
MEETING = timedelta(minutes=5)
_HOST = torch.device("cpu")


@final
class Processes:
    """The processes that work on one thing; by itself, a single one."""

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0):
        self.rank: Final = rank
        self.count: Final = count
        self.local_rank: Final = local_rank

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, rows: int) -> range:
        """The rows of a global batch that are this process's own; UserError where there are too few."""
        if rows < self.count:
            raise UserError(f"a batch of {rows} rows has too few for {self.count} processes")
        return range(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over all processes, in one exchange."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([each.flatten() for each in tensors])
        with _others_are_there(self):
            dist.all_reduce(flat)
        for each, part in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True):
            each.copy_(part.view_as(each))

    def whole(self, share: Tensor, rows: int) -> Tensor:
        """The rows of a global batch from every process's share of them."""
        if self.count == 1:
            return share
        # Bytes, and zeros where others have their own: shares need not be of one size, and the sum is exact.
        own, flat = self.share(rows), share.contiguous().view(len(share), -1).view(torch.uint8)
        made = flat.new_zeros(rows, flat.shape[1])
        made[own.start : own.stop] = flat
        self.add_up([made])
        return made.view(share.dtype).view(rows, *share.shape[1:])

    def add_up_arrays(self, *arrays: np.ndarray) -> None:
        """The same as `add_up` for arrays on the host, of any dtypes; what only one process knows is kept."""
        for each in arrays:
            numbers = each.view(np.uint8) if each.dtype == bool else each
            self.add_up([torch.from_numpy(numbers)])

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.count > 1:
            with _others_are_there(self), torch.no_grad():
                for each in tensors:
                    dist.broadcast(each, 0)

    def largest(self, value: int) -> int:
        """The largest of a number that every process has."""
        if self.count == 1:
            return value
        number = torch.tensor(value)
        with _others_are_there(self):
            dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def alike(self, tensors: Iterable[Tensor]) -> bool:
        """Whether tensors have the same bits in all processes, as far as sums of these tell."""
        if self.count == 1:
            return True
        mark = int(sum(each.detach().flatten().view(torch.int32).sum(dtype=torch.int64) for each in tensors))
        return self.largest(mark) == -self.largest(-mark)

    def by_first(self, work: Callable[[], T]) -> T:
        """What the first process gets by doing some work, for all of them; its UserError is everyone's."""
        if self.count == 1:
            return work()
        result: Any = None
        failure: UserError | None = None
        if self.first:
            try:
                result = work()
            except UserError as error:
                failure = error
        told: list[Any] = [result, None if failure is None else str(failure)]
        with _others_are_there(self):
            dist.broadcast_object_list(told, 0, device=_HOST)
        if failure is not None:
            raise failure
        if told[1] is not None:
            raise SaidElsewhere(told[1])
        return told[0]

    @contextmanager
    def first_ahead(self) -> Generator[None]:
        """The first process goes through the block, then the others, which find there what it has made."""
        if not self.first:
            self.by_first(lambda: None)
        try:
            yield
        except UserError as error:
            if self.first:
                self.by_first(lambda error=error: _raise(error))
            raise
        if self.first:
            self.by_first(lambda: None)

    def deal(self, items: Iterable[T], work: Callable[[T], Iterable[R]]) -> Iterator[R]:
        """The results of work on items, one after the other, each done by one process and known to all.

        Every process must be given the same items, and must take all results. No more is held than what one
        item for each process gives.
        """
        if self.count == 1:
            for item in items:
                yield from work(item)
            return
        for round_ in _rounds(items, self.count):
            own = list(work(round_[self.rank])) if self.rank < len(round_) else []
            made: list[Any] = [None] * self.count
            with _others_are_there(self):
                dist.all_gather_object(made, own)
            for results in made:
                yield from results

    def everywhere(self, error: UserError) -> UserError:
        """An error that all processes run into: one of them is enough to say it."""
        return error if self.first else SaidElsewhere(str(error))


ALONE: Final = Processes()


@contextmanager
def joined(device: str) -> Generator[Processes]:
    """The processes that this one was started with: by torchrun, as a SLURM job, or none.

    They talk by NCCL about tensors on CUDA devices, of which each takes its own, and by Gloo about all
    others. A process group that is there already, as in a worker of a larger program, is used as it is.
    UserError where there are more processes than devices.
    """
    if dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))
        return
    place = _environment()
    if place is None or place.world_size() == 1:
        yield ALONE
        return
    processes = Processes(place.global_rank(), place.world_size(), place.local_rank())
    if device == "cuda":
        if processes.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"{processes.local_rank + 1} processes or more on a machine with {torch.cuda.device_count()} "
                "GPUs: start one for each"
            )
        torch.cuda.set_device(processes.local_rank)
    os.environ.setdefault("MASTER_ADDR", place.main_address)
    os.environ.setdefault("MASTER_PORT", str(place.main_port))
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    started = time.monotonic()
    try:
        dist.init_process_group(backend, rank=processes.rank, world_size=processes.count, timeout=MEETING)
    except RuntimeError as error:
        if time.monotonic() - started < MEETING.total_seconds():  # nobody was waited for in vain
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            fault = f"the processes could not meet at {place} ({first_line(error)})"
        else:
            fault = (
                f"not all of the {processes.count} processes came within "
                f"{MEETING.total_seconds() / 60:g} minutes; start them again"
            )
        raise processes.everywhere(UserError(fault)) from error
    dist.distributed_c10d._set_pg_timeout(_PATIENCE)
    try:
        yield processes
    except SaidElsewhere:
        raise
    except UserError as error:
        if processes.first:
            raise
        raise UserError(f"process {processes.rank} of {processes.count}: {error}") from error
    finally:
        dist.destroy_process_group()


def restarted() -> bool:
    """Whether torchrun starts the same command again, because one of its processes had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def _environment() -> "ClusterEnvironment | None":
    """What started this process together with others, if anything did."""
    elastic = dist.is_torchelastic_launched()
    # Only srun starts several: the script of a job that asks for several is one process all the same.
    if not elastic and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        return None
    # Only now: importing it takes as long as importing torch does.
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if elastic:
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        try:
            return SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:  # the way in which the job asks for processes
            raise UserError(str(error)) from None
    return None


@contextmanager
def _others_are_there(processes: Processes) -> Generator[None]:
    """A process that ends takes its connections with it: say so in place of what the network says."""
    try:
        yield
    except RuntimeError as error:
        gone = UserError(
            f"another of the {processes.count} processes has ended; what was saved is good: resume from there"
        )
        raise processes.everywhere(gone) from error


def _rounds(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of that size; the last may be shorter."""
    rest = iter(items)
    while part := list(itertools.islice(rest, size)):
        yield part


def _raise(error: UserError) -> None:
    raise error
