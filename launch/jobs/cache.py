"""`speaq cache` on Ray: all workers that there is room for make a share of the files of features each."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence

from speaq.data.features import Header
from speaq.runs.cache import Caching, Maker, Part, Tell
from speaq.training.callbacks import Progress

from ..cluster import connection
from ..cluster.sharing import nodes_that_share
from .queue import Job, Queue

log = logging.getLogger(__name__)


def make_on_ray(maker: Maker, parts: Sequence[Part], tell: Tell) -> None:
    """Writes files on the cluster, which this process is connected to while they are made.

    Raises:
        ClusterError: no node has room for a worker, or not all see the same folders.
        JobDied: a worker was lost again and again before it had written a file.
        DataError, OSError: as `Maker.make`.
    """
    wanted = maker.wanted
    one = wanted.config.resources.model_copy(update={"num_workers": 1, "min_workers": None})
    told: Counter[str] = Counter()

    @contextlib.contextmanager
    def progress(name: str) -> Iterator[Progress]:
        def more(done: int, total: int, text: str) -> None:
            tell(done - told[name])  # of a share that is begun again, less than before
            told[name] = done

        yield more

    def ended(job: Job, outcome: object) -> None:
        if isinstance(outcome, Exception):
            raise outcome
        pictures = sum(map(maker.pictures_of, job.arguments[2]))
        tell(pictures - told[job.name])
        told[job.name] = pictures

    with connection.connected():
        connection.check_fits(one)
        nodes_that_share(wanted.output, None, wanted.data, wanted.config, all_of_them=True)
        number = min(len(parts), max(1, connection.places(one, free=True)))
        log.info("features are made on %d workers", number)
        shares = {f"features {first + 1} of {number}": list(parts[first::number]) for first in range(number)}
        jobs = [
            Job(name, _make, (wanted, maker.header, share), functools.partial(_written, maker, share))
            for name, share in shares.items()
        ]
        Queue(one, progress).run(jobs, ended)


def _written(maker: Maker, share: Sequence[Part]) -> int:
    """Files of a share that are there."""
    return sum(map(maker.is_written, share))


def _make(wanted: Caching, header: Header, share: Sequence[Part], progress: Progress) -> None:
    """What a worker does: it goes on behind the files that are there."""
    maker = Maker(wanted, header)
    done, total = 0, sum(map(maker.pictures_of, share))

    def tell(number: int) -> None:
        nonlocal done
        done += number
        progress(done, total, "")

    for part in share:
        if maker.is_written(part):
            tell(maker.pictures_of(part))
        else:
            maker.make(part, tell)
