"""Step 1 on real traffic: the log of an OpenAI-compatible server, as JSON lines.

A line holds what was asked and what was answered: `request` and `response` (or `body`, as in files of OpenAI's batch
interface, or both in one object), each as the interface has them: `messages` or `prompt`, `model`, `temperature`,
`top_p`; `choices` with `message` or `text`, `finish_reason`, and log-probs where they were asked for. A line has the
server's id, or else a digest of itself, so that a file can be read twice, and lines of several files may overlap. Lines
that cannot be read are counted, and the first is shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm.data import RowError
from sims.core.spec import SpecError
from sims.experiments.foreign_text import parse_json

from . import registry
from .context import Context
from .generation import as_blob
from .log import embedded, insert

_SAMPLING = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed")


class LineError(ValueError):
    """A line that is no log of a request and its response."""


def import_log(context: Context, file: Path) -> str:
    """Add the lines of a file to the log of the cycle; several files may be."""
    if context.store.done(context.cycle, "watch") is not None:
        raise SpecError("from", str(file), f"comes too late: the log of cycle {context.cycle} is closed")
    known = {row["id"] for row in context.store.all("SELECT id FROM log")}
    versions = {version.name: version.version for version in registry.versions(context.store)}
    rows: list[dict[str, Any]] = []
    wrong: list[str] = []
    for at, line in enumerate(lines_of("from", file), 1):
        if not line.strip():
            continue
        try:
            row = read_line(line)
            context.first.check(row["prompt"], row["response"])
        except (LineError, RowError) as error:
            wrong.append(f"line {at}: {error}")
            continue
        row["version"] = versions.get(row["model"])
        if row["id"] not in known:
            known.add(row["id"])
            rows.append(row)
    if wrong and not rows and not known:
        raise SpecError("from", str(file), f"holds no request with its response: {wrong[0]}")
    vectors = embedded(context, rows)
    with context.store.transaction():
        insert(context, rows, vectors)
        if context.store.done(context.cycle, "log") is None:
            context.store.finish(context.cycle, "log", {"imported": True})
    said = f"logged {len(rows)} new lines"
    return said + (f"; {len(wrong)} could not be read, {wrong[0]}" if wrong else "")


def lines_of(field: str, file: Path) -> list[str]:
    """The lines of a file of JSON lines. SpecError that names `field` for one that cannot be read."""
    try:
        # `splitlines` would also split at U+2028, which JSON strings may have.
        return file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise SpecError(field, str(file), f"must be a file of JSON lines: {error}") from error


def read_line(line: str) -> dict[str, Any]:
    """A row of the log. Raises LineError."""
    try:
        found = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise LineError(f"is no JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise LineError("must be an object")
    asked = _part(found, "request")
    given = _part(found, "response")
    if int(_part_status(found)) >= 400:
        raise LineError(f"is an error of the server: status {_part_status(found)}")
    prompt = asked.get("messages") or asked.get("prompt")
    if not (isinstance(prompt, str) and prompt) and not _is_conversation(prompt):
        raise LineError("must have messages, or a prompt of text")
    choices = given.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise LineError("must have choices")
    choice = choices[0]
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    if not isinstance(text, str):
        raise LineError("must have a response of text")
    # A custom_id is the client's, and unique within one batch only.
    id = given.get("id") or found.get("id") or found.get("custom_id") or _digest(line)
    logp = _log_probs(choice.get("logprobs"))
    return {
        "id": str(id),
        "model": str(given.get("model") or asked.get("model") or "unknown"),
        "prompt": prompt,
        "response": text,
        "tokens": None,  # of another tokenizer, perhaps
        "logp": None if logp is None else as_blob(np.array(logp, np.float32)),
        "finished": None if choice.get("finish_reason") is None else int(choice["finish_reason"] == "stop"),
        "sampling": {name: asked[name] for name in _SAMPLING if name in asked},
        "rating": None,
    }


def _part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The request or the response, wherever the line has it."""
    part = found.get(name, found)
    body = part.get("body", part) if isinstance(part, Mapping) else part
    if not isinstance(body, Mapping):
        raise LineError(f"{name} must be an object")
    return body


def _digest(line: str) -> str:
    return f"sha256:{hashlib.sha256(line.encode()).hexdigest()}"


def _part_status(found: Mapping[str, Any]) -> int:
    response = found.get("response")
    status = response.get("status_code") if isinstance(response, Mapping) else None
    return status if isinstance(status, int) else 200


def _is_conversation(prompt: Any) -> bool:
    turns = prompt if isinstance(prompt, list) else []
    said = [turn for turn in turns if isinstance(turn, Mapping) and isinstance(turn.get("content"), str)]
    return bool(said) and len(said) == len(turns) and all("role" in turn for turn in said)


def _log_probs(found: Any) -> list[float] | None:
    """Log-probs of the response's tokens: of chat completions, or of plain ones."""
    if not isinstance(found, Mapping):
        return None
    if isinstance(found.get("content"), list):
        values = [token.get("logprob") if isinstance(token, Mapping) else None for token in found["content"]]
    else:
        values = found.get("token_logprobs")  # type: ignore[assignment]
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        return None
    return [float(value) for value in values]
