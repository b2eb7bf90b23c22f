"""``python -m benchmarks.scaling_stores_child compact|read|count FOLDER``: a step on a folder of summaries, measured."""

from __future__ import annotations

import json
import sys

from benchmarks.scaling_process import step
from cloud_sink.features_store import DAY_NS, FeatureStore


def main(what: str, folder: str) -> None:
    store = FeatureStore(folder, "child")
    if what == "compact":
        last = max(p.day for p in store.partitions())
        gone, seconds, grown_mb = step(lambda: store.compact((last + 2) * DAY_NS))
        print(json.dumps({"files": gone, "seconds": seconds, "grown_mb": grown_mb}))
        return
    place = store.partitions()[0]
    if what == "count":
        counted, seconds, grown_mb = step(
            lambda: store.windows_of(place.class_, place.schema_id, "boards", 1, from_ns=0)
        )
        print(json.dumps({"gateways": len(counted), "seconds": seconds, "grown_mb": grown_mb}))
        return
    table, seconds, grown_mb = step(lambda: store.read(place.class_, place.schema_id))
    print(json.dumps({"summaries": len(table), "seconds": seconds, "grown_mb": grown_mb}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
