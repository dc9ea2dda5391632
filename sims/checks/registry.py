"""All properties, in the order in which they are tried.

To add one: write its trial and its `Property` in one of the modules below, and plant the bug that it finds in
`tests/checks/planted.py`, without which the tests name it.
"""

from __future__ import annotations

from . import on_batches, on_claims, on_gradients, on_options, on_precision, on_tokens
from .property import Property

PROPERTIES: dict[str, Property] = {
    found.name: found
    for module in (on_batches, on_tokens, on_gradients, on_precision, on_options, on_claims)
    for found in module.PROPERTIES
}
