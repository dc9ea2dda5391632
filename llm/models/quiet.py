"""Libraries that warn where there is nothing to warn of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_bitsandbytes() -> Iterator[None]:
    """Without the warnings of bitsandbytes within: peft imports it wherever it is installed, and it then warns of
    kernels that it lacks, whether or not anything is quantised. None of them is used (`llm.models.quantised`)."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
