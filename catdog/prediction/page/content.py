"""The JSON content from which predict_page.js makes the cards of a page of labels."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.prediction.page.gallery import Shown, common_prefix, summarize_kinds


def page_content(shown: Shown, pictures: Mapping[str, bytes], *, classes: Sequence[str], key: str) -> dict[str, Any]:
    """Return the JSON that predict_page.js reads; `key` identifies this job's corrections in the browser."""
    prefix = common_prefix([row["path"] for row in [*shown.names, *shown.photos]])
    number = {label: index for index, label in enumerate(shown.labels)}
    kind = {name: index for index, name in enumerate(summarize_kinds(shown.photos))}

    def short(row: Mapping[str, Any]) -> list[Any]:
        probability = row["probability"]
        return [
            row["path"][len(prefix) :],
            number.get(row["label"], -1),
            None if probability is None else round(probability, 5),
        ]

    return {
        "key": key,
        "classes": list(classes),
        "labels": list(shown.labels),
        "prefix": prefix,
        "photos": [
            [
                *short(photo),
                [kind[name] for name in photo["kinds"]],
                photo["true"],
                photo.get("second_label"),
                base64.b64encode(pictures.get(photo["path"], b"")).decode(),
            ]
            for photo in shown.photos
        ],
        "names": [short(row) for row in shown.names],
    }
