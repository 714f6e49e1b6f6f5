"""Addresses of databases, as Optuna and MLflow are given them."""

from __future__ import annotations

from importlib.util import find_spec


def with_driver(url: str) -> str:
    """Name the PostgreSQL driver that is installed: SQLAlchemy's own choice for 'postgresql://' changed with its 2.1."""
    if url.startswith("postgresql://"):
        for driver in ("psycopg2", "psycopg"):
            if find_spec(driver):
                return url.replace("postgresql", f"postgresql+{driver}", 1)
    return url
