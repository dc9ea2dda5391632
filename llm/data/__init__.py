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

**One preference row, from its line to the step.** `llm train --algorithm dpo --source dataset --data rows.jsonl
--data-kind preference`; once, when the data are loaded:

1. `sources.py`      yields the line with its number; `sims/experiments/foreign_text.py` parses it: a key that is there
                     twice is an error;
2. `formats.py`      checks that it has a prompt, a chosen and a rejected response, and that these differ: a `Row`;
3. `tokenise.py`     applies the chat template, if it is a conversation, and encodes it: an `Example`;
4. `rows.py`         does this for all rows, and refuses or reports those that cannot be used;

then in each update, where B rows make a batch:

5. `sims/core/loop/train.py`   asks `collect.py` for a batch, which asks `llm/tasks/environment.py` for the next rows;
6. `collate.py`      pads them: prompts (B, P), responses (B, 2, L), the chosen one first. DPO needs no rewards: only
                     those of updates that are logged are computed, for the metrics;
7. `sims/core/loop/collect.py`   adds the reference's log-probs; all is a `Batch` (`sims/core/objectives/batch.py`);
8. `sims/core/loop/learner.py`   takes a minibatch, and its log-probs (B, 2, L) from `llm/models/policy.py`, which
                     checks the tokens, and `scoring.py`, which leaves out padding: hidden states and log-probs by
                     `forward.py`, layers as `layers.py` is told to compute them; sums over tokens leave a mask out that
                     `sims/core/numerics/recorded.py` lets them look at;
9. `sims/core/algorithms/contrastive.py` and `base.py`   the margin of each pair (B, 1), whose loss is `dpo_loss` of
                     `sims/core/losses/contrastive.py`; its share of the minibatch is from `objectives/reductions.py`;
10. `sims/core/loop/optimise.py`   the step.
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
