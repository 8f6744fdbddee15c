"""`python -m dev.codepal`: CodePal's schema and rows into the database of DATABASE_URL."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time

from dev.codepal import data, schema


async def fill(url: str, seed: int, scale: data.Scale) -> None:
    """Deploys the migrations and loads the rows; prints what was done and how long it took."""
    import asyncpg

    connection = await asyncpg.connect(url, timeout=10)
    try:
        applied = await schema.deploy(connection)
        print(f"migrations applied: {', '.join(applied) or 'none, all were there'}")
        started = time.monotonic()
        loaded = await data.load(connection, seed, scale)
        for table, rows in loaded.items():
            print(f"{rows:>9,}  {table}")
        print(f"{sum(loaded.values()):>9,}  rows in {time.monotonic() - started:.1f} s")
    finally:
        await connection.close(timeout=5)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m dev.codepal", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is 214,000 rows")
    args = parser.parse_args()
    url = os.environ.get("DATABASE_URL")
    if not url:
        print("DATABASE_URL is not set; give it the uri of the database to fill", file=sys.stderr)
        return 2
    asyncio.run(fill(url, args.seed, data.Scale(args.scale)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
