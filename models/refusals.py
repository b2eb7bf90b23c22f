"""Why a model is not used, or not used any more: one closed list for both ends. This module is pure."""

from __future__ import annotations

import enum


class RefusalReason(enum.StrEnum):
    """Why a bundle was refused, or a model that was adopted was rolled back; in the order in which it is asked."""

    UNREADABLE = "unreadable"  # the files of the bundle cannot be read
    BAD_MANIFEST = "bad_manifest"
    NOT_TRUSTED = "not_trusted"  # not signed by a key that the gateway trusts
    MISBEHAVED = "misbehaved"  # this gateway has rolled this version back before
    NOT_NEWER = "not_newer"  # and no signed order to go back
    TOO_LARGE = "too_large"
    NO_BLOB = "no_blob"  # a graph that the manifest names did not come
    CORRUPT = "corrupt"  # a file is not the one that the manifest describes
    BAD_GRAPH = "bad_graph"  # the static check, or the runtime, refuses the graph
    WRONG_SCHEMA = "wrong_schema"  # made for other features, channels, windows or time
    PROBE_CRASHED = "probe_crashed"  # the graph ended the process that tried it
    PROBE_HUNG = "probe_hung"
    PROBE_MEMORY = "probe_memory"
    NO_RUNTIME = "no_runtime"
    NO_BACKEND = "no_backend"  # nothing here runs what was published
    GOLDEN_MISMATCH = "golden_mismatch"  # its worked examples come out otherwise here
    OVERLOADED = "overloaded"  # the gateway could not afford the trial
    TOO_FEW_WINDOWS = "too_few_windows"  # the trial saw too little
    INFERENCE_FAILED = "inference_failed"
    TOO_SLOW = "too_slow"
    OTHER_SCORES = "other_scores"  # what is normal to the model in service is rare to this one
    TOO_MANY_ALERTS = "too_many_alerts"
    LOST_ALERTS = "lost_alerts"
    RESTARTS = "restarts"  # the gateway did not live long with it, time and again
    TAKEN_BACK = "taken_back"  # by a signed order, or because the canary is no more


class ScoreRefusal(enum.StrEnum):
    """Why a sink does not score what it is asked to. Closed: every ``reason`` of an answer is one of these."""

    UNKNOWN_MODEL = "unknown_model"  # it has none that answers for that one
    OTHER_SCHEMA = "other_schema"  # rows of features mean something else to it
    MALFORMED = "malformed"  # not readable, of another shape, or not finite
    BUSY = "busy"  # too much waits already
    LATE = "late"  # the deadline had passed before its turn
    FAILED = "failed"  # its model could not be run
