"""A calibration in a process of its own, which a test kills.

``python -m tests.calibration.walker CACHE ORDER``

It says ``ready`` when it starts to work, writes the name of every site that it rewrites to
``CACHE.log``, and prints a hash of all that came out.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from sparsec.ir.sites import weight_sites
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.calibration.statistics import Needs
from tests.calibration import nets
from tests.calibration.test_sequential import shrink

PAUSE = 0.02


def main(cache: Path, order: str) -> None:
    model, feeds = nets.network(), nets.images(6)
    sites = list(weight_sites(model))
    calibration = Calibration(feeds, cache=cache, collected_bytes=1)
    log = cache.with_suffix(".log")
    print("ready", flush=True)

    def rewrite(site, statistics):
        time.sleep(PAUSE)
        shrink(site, statistics.norms)
        with log.open("a") as stream:
            stream.write(f"{site.name}\n")

    total = hashlib.sha256()
    pause = lambda text, done: time.sleep(PAUSE / 4)  # noqa: E731
    if order == "sequential":
        calibration.sequential(model, sites, Needs(), rewrite, method="shrink", progress=pause)
        for site in sites:
            total.update(site.matrix().tobytes())
    else:
        with calibration.parallel(model, sites, Needs(gram=True), progress=pause) as found:
            for site in sites:
                total.update(found[site.name].gram().tobytes())
    print(total.hexdigest(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
