"""schemathesis against a running server: `schema.py URL KEY`. No request that its schema allows may give a 5xx."""

from __future__ import annotations

import sys

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error

EXAMPLES = 40


def main() -> None:
    url, key = sys.argv[1:]
    headers = {"Authorization": f"Bearer {key}"}
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers)
    count = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        count += 1

        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
        )  # fmt: skip
        @schema.given_for(operation) if hasattr(schema, "given_for") else _given(operation)
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers, checks=[not_a_server_error], timeout=60)

        check()
    assert count >= 7, f"the schema has {count} operations only"
    print(f"{count} operations passed")


def _given(operation):  # type: ignore[no-untyped-def]
    from hypothesis import given

    return given(case=operation.as_strategy())


if __name__ == "__main__":
    main()
