"""What a user must know about a log that is replayed: facts for ``run.json``, and sentences that explain them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mifsim.data.logs import LogSessions, arrange
from mifsim.data.logs.copies import RETRY_SECONDS
from mifsim.data.logs.ordering import FAR_YEARS
from mifsim.data.logs.sessions import SUGGESTED_GAP
from mifsim.data.preprocessing import Preprocessing, loss_messages
from mifsim.durations import duration_text
from mifsim.errors import DataError


def facts_of(log: LogSessions, preprocessing: Preprocessing | None) -> dict[str, Any]:
    """Return the facts about a log as plain data.

    Parameters
    ----------
    log : LogSessions
    preprocessing : Preprocessing or None
        How its images become those of the model; None: what that loses is not stated.
    """
    index, lengths = log.log.index, log.lengths
    facts: dict[str, Any] = {
        "path": str(log.path),
        "content": log.content,
        "policy": log.policy.words,
        "rows": index.rows,
        "clients": len(log),
        "sessions": len(lengths),
        "session_lengths": {
            "shortest": int(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": round(float(lengths.mean()), 3),
            "longest": int(lengths.max()),
        },
        "images": len(log.order),
        "longest_pause_seconds": log.longest_pause,
        "bad_rows": index.bad,
        "lost_share": index.bad / index.rows,
        "problems": index.problems,
        "unplaced_rows": index.without_client + log.unplaced,
        "first_bad_row": index.first_bad,
        "incomplete_sessions": log.incomplete,
        "exact_copies": int(index.copy.sum()),
        "possible_retries": int(index.retry.sum()) if index.retry.size else None,
        "tied_rows": index.tied,
        "rows_out_of_order": index.descents,
        "rows_years_away": index.far,
        "overlapping_sessions": log.overlapping,
        "undone_queries": index.unanswered,
    }
    if preprocessing is not None:
        facts["preprocessing"] = dict(log.pools(preprocessing).losses)
    return facts | {"notes": list(notes(log, facts, preprocessing))}


def notes(log: LogSessions, facts: Mapping[str, Any], preprocessing: Preprocessing | None) -> Iterator[str]:
    """Yield a sentence for each thing that the user must know; see `facts_of`."""
    yield _sessions(log, facts)
    yield from _similar_clients(log)
    yield from _pauses(log)
    yield from _repeats(log, facts)
    yield from _order(log, facts)
    if log.log.form.traffic:
        yield from _traffic(log)
    if log.incomplete:
        what = "are left out; incomplete_sessions = 'keep' replays the rest of them"
        if log.most_sessions > 1:
            what = f"are left out (detectors of scope client do not see them){what.removeprefix('are left out')}"
        if log.policy.incomplete == "keep":
            what = "are replayed without these rows, so that too few of them may be blocked"
        rows = "unusable or missing rows" if log.log.form.traffic else "unusable rows"
        yield f"{log.incomplete:,} of {log.found:,} sessions have {rows} and {what}"
    if facts["unplaced_rows"]:
        yield (
            f"{facts['unplaced_rows']:,} of {facts['rows']:,} rows lack a client, a time or a session id, so that it "
            "is not known which sessions lack these queries"
        )
    losses = facts.get("preprocessing", {})
    if preprocessing is not None:
        yield from loss_messages(losses, preprocessing, "images of the log")
    if losses.get("rounded"):
        yield (
            f"{losses['rounded']:,} of {len(log.order):,} arrays have another shape than the model's images, so that "
            "they are rounded to 8 bits and resized, and not replayed exactly"
        )


def _sessions(log: LogSessions, facts: Mapping[str, Any]) -> str:
    lengths = facts["session_lengths"]
    images = f"{_count(lengths['longest'], 'image')} each"
    if lengths["shortest"] < lengths["longest"]:
        images = f"{lengths['shortest']:,} to {lengths['longest']:,} images (median {lengths['median']:g})"
    sessions = f"{_count(facts['sessions'], 'session')} of {_count(facts['clients'], 'client')}"
    text = f"{sessions}, with {images}; {log.policy.words}"
    if log.most_sessions > 1:
        text += "; intervals count each client once, because its sessions are alike"
    return text


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _similar_clients(log: LogSessions) -> Iterator[str]:
    """Yield a sentence if ids of clients differ only in how two programs may write them: case, space, Unicode form."""
    clients = log.log.index.clients
    similar = len(clients) - len({_written_alike(client) for client in clients})
    if similar:
        yield (
            f"{_count(similar, 'client')} of {len(clients):,} have an id that differs from another one only by upper "
            "and lower case, by white space or by the Unicode form of its letters, so that their queries are in "
            "sessions of their own; make the ids equal if they are the same client"
        )


def _written_alike(client: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", client).casefold().split())


def _traffic(log: LogSessions) -> Iterator[str]:
    yield (
        "it is the traffic log of a guard: sessions that the guard blocked end where it stopped them, and attackers "
        "are among the users"
    )
    if log.log.index.unanswered:
        yield f"{log.log.index.unanswered:,} queries were undone, because the model did not answer; they are left out"


def _pauses(log: LogSessions) -> Iterator[str]:
    if log.policy.by_column or log.policy.gap is not None:
        return
    if log.longest_pause is None:
        if not log.log.index.by_name:
            yield "the unit of the times is not known, so that pauses and retries cannot be found; set time_unit"
        return
    if log.longest_pause < SUGGESTED_GAP:
        return
    text = f"clients pause for up to {duration_text(log.longest_pause)}, but each client is one session"
    gap = "1 day" if log.log.index.days_only else duration_text(SUGGESTED_GAP).replace(" minutes", "min")
    try:
        seconds = 86_400.0 if log.log.index.days_only else SUGGESTED_GAP
        divided = arrange(log.log, replace(log.policy, gap=seconds))
    except DataError:
        yield f"{text}; to divide it, set session_gap = '{gap}' or session_column"
    else:
        yield (
            f"{text}; session_gap = '{gap}' makes {len(divided.lengths):,} sessions with at most "
            f"{int(divided.lengths.max()):,} images, or set session_column"
        )


def _repeats(log: LogSessions, facts: Mapping[str, Any]) -> Iterator[str]:
    if copies := facts["exact_copies"]:
        text = f"{copies:,} of {facts['rows']:,} rows are exact copies: the client, time and bytes of an earlier row"
        if log.policy.duplicates == "keep":
            yield f"{text}. They count, as duplicates = 'keep' states"
        elif log.log.index.days_only:
            yield f"{text}. They count, because the times tell only the day, so that a copy may be another query"
        else:
            yield f"{text}. They count once; duplicates = 'keep' counts them all"
    if facts["possible_retries"]:
        yield (
            f"{facts['possible_retries']:,} rows repeat an image of the client at most {RETRY_SECONDS:g} seconds after "
            "it, which may be retries of a program. They count; remove them from the log if your server does not see "
            "them as queries"
        )


def _order(log: LogSessions, facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["tied_rows"]:
        because = "the times tell only the day" if log.log.index.days_only else "another row of the client has its time"
        yield (
            f"the order of {facts['tied_rows']:,} rows is not known, because {because}; they are sent in the order in "
            "which they are stored"
        )
    if facts["rows_years_away"]:
        yield (
            f"{facts['rows_years_away']:,} of {facts['rows']:,} rows have times that are more than {FAR_YEARS} years "
            f"away from those of most rows, such as {log.log.index.first_far}; their place among the queries of their "
            "clients follows from these times: correct them if a clock was not set"
        )
    if facts["overlapping_sessions"]:
        yield (
            f"{facts['overlapping_sessions']:,} sessions begin before an earlier session of their client ends; they "
            "are replayed one after the other, which matters for detectors of scope client"
        )
