"""Preference, prompt-only, prompt-completion and unpaired data in TRL's formats, from a file to padded tensors.

`load_examples` reads, checks and tokenises; `collate` pads. Every row that cannot be used is reported, never skipped
silently.

    sources           rows of files, folders and hub data sets
    hub               whether the hub can be reached
    formats           TRL's kinds of rows, checked
    prompt_template   a prompt made of several columns
    stops             strings that end a response
    tokenise          rows to token ids
    rows              all of these, with a report of unusable rows
    collate           examples to padded tensors
    mixture           several data sets mixed by weight
    streamed          rows that stay on disk
    whole             checks of a whole data set before training
    recorded          recorded responses, truncated or relabelled
"""

from llm.data.collate import TokenBatch, collate
from llm.data.formats import COLUMNS, Conversation, Kind, Message, Row, RowError, Text, parse_row
from llm.data.prompt_template import prompt_from, template_columns
from llm.data.rows import BadRow, BadRowsError, RowReport, load_examples
from llm.data.sources import read_rows
from llm.data.tokenise import Example, Limits, TextEncoder, encode_response, encode_row

__all__ = [
    "COLUMNS",
    "BadRow",
    "BadRowsError",
    "Conversation",
    "Example",
    "Kind",
    "Limits",
    "Message",
    "Row",
    "RowError",
    "RowReport",
    "Text",
    "TextEncoder",
    "TokenBatch",
    "collate",
    "encode_response",
    "encode_row",
    "load_examples",
    "parse_row",
    "prompt_from",
    "read_rows",
    "template_columns",
]
