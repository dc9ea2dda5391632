"""Whether the hub of models and data sets can be reached."""

from __future__ import annotations

import functools

SECONDS = 10  # to answer


@functools.cache
def hub_answers() -> bool:
    """Whether the hub answers; asked once per process. Where it does not, only what its cache holds is looked at: the
    hub's client would try each file again and again, a minute in all, before it says so."""
    from huggingface_hub import constants, utils  # not needed for what lies on this machine

    try:
        utils.get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # its client's, which differ by its version; that of HF_HUB_OFFLINE among them
        return False
    return True
